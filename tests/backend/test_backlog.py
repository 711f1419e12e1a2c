"""What waits for the log comes out in its order, and an answer has room for so much."""

import pytest

from moorline.backend.backlog import MAX_PARTS, Backlog, Room
from moorline.backend.parts import Part, Source, Status


def backlog(*pieces: str | Part) -> Backlog:
    found = Backlog()
    for piece in pieces:
        found.put(piece)
    return found


def test_all_text_before_a_part_is_taken_as_one() -> None:
    waiting = backlog("a", "b", Source("one"), Status("two"), "c")
    assert [waiting.take() for _ in range(5)] == ["ab", Source("one"), Status("two"), "c", None]


def test_half_a_surrogate_pair_waits_for_the_other_unless_nothing_more_comes() -> None:
    waiting = backlog("a\ud83d")
    assert (waiting.take(), waiting.take()) == ("a", None)
    waiting.put("\ude00")
    assert waiting.take() == "\U0001f600"
    assert backlog("a\ud83d").take(last=True) == "a\ufffd"


def test_half_a_surrogate_pair_goes_behind_a_part_to_its_other_half() -> None:
    waiting = backlog("a\ud83d", Source("one"), "\ude00b")
    assert [waiting.take() for _ in range(4)] == ["a", Source("one"), "\U0001f600b", None]
    alone = backlog("\ud83d", Source("one"))
    assert [alone.take(last=True) for _ in range(3)] == [Source("one"), "\ufffd", None]
    first_is_none = backlog("a\ud83d\ud83d", Source("one"), "\ude00")
    assert [first_is_none.take() for _ in range(3)] == ["a\ufffd", Source("one"), "\U0001f600"]


def test_what_was_put_back_comes_before_what_has_arrived_since() -> None:
    waiting = backlog("a")
    taken = waiting.take()
    assert taken is not None
    waiting.put("b")
    waiting.put_back(taken)
    assert waiting.take() == "ab"


def test_a_piece_counts_until_it_is_written() -> None:
    waiting = backlog("abc", Source("one"))
    before = waiting.size
    waiting.take()
    assert waiting.size == before
    waiting.written()
    assert waiting.size == before - 3


@pytest.mark.parametrize(
    ("text", "kept"), [("abcd", "abcd"), ("abcde", "abcd"), ("abc\u00e4", "abc"), ("\u00e4" * 3, "\u00e4\u00e4")]
)
def test_text_is_cut_between_characters(text: str, kept: str) -> None:
    assert Room(4).fitting(text) == kept


def test_text_and_parts_share_the_room() -> None:
    room = Room(5)
    assert room.fits("abc")
    assert not room.fits("abc")
    assert room.fitting("abc") == "ab"


def test_an_answer_has_room_for_so_many_parts() -> None:
    room = Room(1 << 20)
    assert all(room.fits("x") for _ in range(MAX_PARTS))
    assert not room.fits("x")
