import pytest

from moorline.backend.read_pace import LONGEST_WAIT, READS_PER_SECOND, ReadPace


def waits(answers: int, *, now: float = 100.0) -> list[float]:
    """Of so many answers that are read in the same moment."""
    pace = ReadPace()
    return [pace.next_read(now) - now for _ in range(answers)]


def test_an_answer_alone_is_read_at_once() -> None:
    pace = ReadPace()
    assert [pace.next_read(now) - now for now in (1.0, 1.05, 1.1)] == [0.0, 0.0, 0.0]


def test_the_turns_of_many_answers_are_evenly_spaced() -> None:
    found = waits(500)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(499 / READS_PER_SECOND)


def test_an_answer_has_its_turn_in_time_however_many_there_are() -> None:
    assert max(waits(10_000)) == pytest.approx(LONGEST_WAIT)


def test_time_in_which_none_was_read_lets_no_more_be_read_later() -> None:
    pace = ReadPace(per_second=10, longest=1.0)
    pace.next_read(0.0)
    assert [pace.next_read(50.0), pace.next_read(50.0)] == [50.0, pytest.approx(50.1)]
