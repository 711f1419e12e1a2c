"""The rules of a session: the fold, and which command is legal now."""

import pytest

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import Finish, MessageEnded, PartialAnswer, Row, RunStarted, TextAdded, UserMessage
from moorline.backend.session import PriorCommand, check_retry, check_send, newest
from tests.support.view import Gap, View, fold

EVENTS = (
    UserMessage(1, "u", "m1", "r", "Hello", 0.0),
    RunStarted(2, "r", "a", 0.0),
    TextAdded(3, "r", "a", "Good "),
    TextAdded(4, "r", "a", "day"),
    MessageEnded(5, 3, "r", "a", "Good day.", Finish.STOP, 1.0),
)


def folded(count: int) -> View:
    view = View()
    for event in EVENTS[:count]:
        view = fold(view, event)
    return view


def test_pieces_build_the_partial_answer() -> None:
    assert folded(4).run == PartialAnswer("r", "a", "Good day")


def test_the_end_replaces_what_the_pieces_built() -> None:
    view = folded(5)
    assert view.run is None
    assert [row.content for row in view.rows] == ["Hello", "Good day."]


@pytest.mark.parametrize("seen", [2, 3, 4])
def test_the_end_closes_the_gap_of_a_compacted_answer(seen: int) -> None:
    assert fold(folded(seen), EVENTS[4]) == folded(5)


def test_an_event_seen_before_changes_nothing() -> None:
    assert fold(folded(4), EVENTS[2]) == folded(4)


@pytest.mark.parametrize("event", [EVENTS[3], EVENTS[4]])
def test_a_missing_event_is_noticed(event: TextAdded | MessageEnded) -> None:
    with pytest.raises(Gap):
        fold(folded(1), event)


SEND = PriorCommand("r", 1, "Hello", None)
RETRY = PriorCommand("r2", 1, "Hello", "r")


def test_a_repeated_command_is_answered_before_busy_is_asked() -> None:
    assert check_send("Hello", prior=SEND, active_run_id="r") is SEND
    assert check_retry("r", prior=RETRY, exists=True, finish=None, active_run_id="r2") is RETRY


@pytest.mark.parametrize(("content", "prior"), [("other", SEND), ("Hello", RETRY)])
def test_an_id_used_for_something_else_is_rejected(content: str, prior: PriorCommand) -> None:
    with pytest.raises(Refusal) as caught:
        check_send(content, prior=prior, active_run_id=None)
    assert caught.value.code is ErrorCode.REJECTED


@pytest.mark.parametrize(
    ("exists", "finish", "active", "code"),
    [
        (False, None, None, ErrorCode.NOT_FOUND),
        (True, Finish.STOP, None, ErrorCode.REJECTED),
        (True, None, "r", ErrorCode.BUSY),
        (True, Finish.CANCELLED, "other", ErrorCode.BUSY),
    ],
)
def test_a_retry_needs_a_run_that_ended_short(
    *, exists: bool, finish: Finish | None, active: str | None, code: ErrorCode
) -> None:
    with pytest.raises(Refusal) as caught:
        check_retry("r", prior=None, exists=exists, finish=finish, active_run_id=active)
    assert caught.value.code is code


FULL = Refusal(ErrorCode.LLM_BUSY)


def test_where_nothing_new_may_begin_a_repeated_command_is_answered_still() -> None:
    assert check_send("Hello", prior=SEND, active_run_id=None, refusal=FULL) is SEND
    assert check_retry("r", prior=RETRY, exists=True, finish=Finish.STOP, active_run_id=None, refusal=FULL) is RETRY


def test_where_nothing_new_may_begin_a_new_command_is_refused() -> None:
    with pytest.raises(Refusal) as sent:
        check_send("Hello", prior=None, active_run_id=None, refusal=FULL)
    with pytest.raises(Refusal) as retried:
        check_retry("r", prior=None, exists=True, finish=Finish.ERROR, active_run_id=None, refusal=FULL)
    assert (sent.value, retried.value) == (FULL, FULL)


@pytest.mark.parametrize(
    ("sizes", "kept", "more"),
    [
        ([], [], False),
        ([9], [9], False),
        ([9, 1], [9], True),
        ([1, 2, 3], [3, 2, 1], False),
        ([1, 2, 6], [2, 1], True),
        ([1, 1, 1, 1], [1, 1, 1], True),
    ],
)
def test_the_newest_rows_are_bounded_in_number_and_bytes_but_there_is_always_one(
    sizes: list[int], kept: list[int], *, more: bool
) -> None:
    rows = [Row(f"m{number}", "user", "x" * size, 100 - number, 0.0) for number, size in enumerate(sizes)]
    found, earlier = newest(rows, count=3, size=8)
    assert ([len(row.content) for row in found], earlier) == (kept, more)
