"""The tail is bounded, and never answers for what it does not hold."""

from moorline.backend.eventlog.base import Commit
from moorline.backend.eventlog.tail import EVENT_BYTES, Tail
from moorline.backend.events import PartAdded, TextAdded
from moorline.backend.parts import Data


def text(seq: int) -> TextAdded:
    return TextAdded(seq, "r", "m", "x")


def test_it_returns_only_what_it_holds() -> None:
    tail = Tail(max_events=3)
    for seq in range(5, 10):
        tail.add(Commit("s", "e", text(seq)))
    assert tail.read_after("s", 5, 9, "e") is None
    assert tail.read_after("s", 6, 2, "e") == [text(7), text(8)]
    assert tail.read_after("s", 9, 9, "e") == []
    assert tail.read_after("s", 99, 9, "e") == []
    assert tail.read_after("other", 0, 9, "e") is None


def test_it_restarts_after_a_gap_and_in_another_epoch() -> None:
    tail = Tail()
    for epoch, seq in (("e", 1), ("e", 2), ("e", 4), ("f", 5)):
        tail.add(Commit("s", epoch, text(seq)))
        if seq == 4:
            assert tail.read_after("s", 2, 9, "e") is None
            assert tail.read_after("s", 3, 9, "e") == [text(4)]
    assert tail.read_after("s", 3, 9, "e") is None
    assert tail.read_after("s", 4, 9, "e") is None
    assert tail.read_after("s", 4, 9, "f") == [text(5)]


def test_an_erased_session_leaves_nothing() -> None:
    tail = Tail()
    tail.add(Commit("s", "e", text(1)))
    tail.add(Commit("s", "e", None))
    assert tail.read_after("s", 0, 9, "e") is None
    assert tail.size == 0


def test_parts_count_with_their_size() -> None:
    tail = Tail(max_bytes=3 * EVENT_BYTES)
    tail.add(Commit("a", "e", text(1)))
    tail.add(Commit("b", "e", PartAdded(1, "r", "m", Data("chart", "x" * (2 * EVENT_BYTES)))))
    assert tail.read_after("a", 0, 9, "e") is None
    tail.add(Commit("b", "e", None))
    assert tail.size == 0


def test_the_session_that_grew_longest_ago_is_dropped_first() -> None:
    tail = Tail(max_bytes=3 * EVENT_BYTES)
    for session_id in ("a", "b", "a", "c"):
        tail.add(Commit(session_id, "e", text(1)))
    assert tail.read_after("b", 0, 9, "e") is None
    assert tail.read_after("c", 0, 9, "e") == [text(1)]
    assert tail.size <= 3 * EVENT_BYTES
