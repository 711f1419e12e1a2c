"""When the interpreter searches for cycles."""

import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from moorline.gateway.common import collection
from moorline.gateway.common.collection import FullSearches, keep_start, no_collection


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    usual, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield
    gc.set_threshold(*usual)
    gc.callbacks[:] = callbacks


def test_modules_are_read_with_few_searches_and_an_event_loop_runs_with_more() -> None:
    usual = gc.get_threshold()
    collection.begin()
    # A hundred times what is usual up to Python 3.12.
    assert gc.get_threshold()[0] > 100 * 700
    collection.serve()
    serving = gc.get_threshold()
    assert usual[0] < serving[0] <= 10 * usual[0]
    assert serving[1:] == usual[1:]


def test_what_a_program_has_at_its_start_is_not_looked_through_for_cycles() -> None:
    before = gc.get_freeze_count()
    kept: list[list[int]] = [[] for _ in range(1000)]
    # Nothing unfreezes it: the objects of all tests are frozen, too.
    keep_start()
    assert gc.get_freeze_count() - before >= len(kept)


def test_searches_begin_again_behind_the_outermost_block() -> None:
    with no_collection():
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_program_that_has_switched_the_searches_off_finds_them_off() -> None:
    gc.disable()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


# Full searches --------------------------------------------------------------------------------------------------------


class Searching:
    """Full searches of a program, by a clock of its own; what they did to the collector."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, long: float = 0.0) -> None:
        self._memory, self._now = 100, 0.0
        self._done: list[str] = []
        monkeypatch.setattr(gc, "freeze", lambda: self._done.append("freeze"))
        monkeypatch.setattr(gc, "unfreeze", lambda: self._done.append("unfreeze"))
        self._searches = FullSearches(long=long, memory=lambda: self._memory, clock=lambda: self._now)

    def search(self, *, memory: int = 100, after: float = 1.0, generation: int = 2) -> list[str]:
        """One more, so many seconds later, with so much memory in use."""
        self._memory = memory
        self._now += after
        self._done.clear()
        for phase in ("start", "stop"):
            self._searches(phase, {"generation": generation})
        return self._done


def test_what_is_in_use_at_the_end_of_a_long_search_is_left_out_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Searching(monkeypatch).search() == ["freeze"]


def test_a_short_search_leaves_out_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Searching(monkeypatch, long=60.0).search() == []


@pytest.mark.parametrize("generation", [0, 1])
def test_a_search_of_new_objects_alone_leaves_out_nothing(monkeypatch: pytest.MonkeyPatch, generation: int) -> None:
    assert Searching(monkeypatch).search(generation=generation) == []


def test_all_is_searched_after_an_hour_once_memory_has_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    searching = Searching(monkeypatch, long=60.0)
    assert searching.search(memory=201, after=3599.0) == []
    assert searching.search(memory=200) == []
    assert searching.search(memory=201) == ["unfreeze", "freeze"]
    assert searching.search(memory=402, after=3600.0) == []
    assert searching.search(memory=403) == ["unfreeze", "freeze"]


def test_all_is_searched_at_once_when_memory_has_grown_by_millions_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    searching = Searching(monkeypatch)
    assert searching.search(memory=4_000_100) == ["freeze"]
    assert searching.search(memory=4_000_101) == ["unfreeze", "freeze"]
    assert searching.search(memory=8_000_101) == ["freeze"]


_PROGRAM = """
import gc, weakref
from moorline.gateway.common import collection

class Socket: pass

collection.keep_start()
assert len(gc.callbacks) == 1
collection.end()
assert gc.callbacks == []
memory = 0
gc.callbacks.append(collection.FullSearches(long=0.0, memory=lambda: memory))
gc.disable()
sockets = [Socket() for _ in range(1000)]
for socket in sockets:
    socket.itself = socket
before = gc.get_freeze_count()
gc.collect()
assert gc.get_freeze_count() >= before + len(sockets), "left out"
last = weakref.ref(sockets[-1])
del sockets, socket
gc.collect()
assert last() is not None, "what is left out is not searched"
memory = 1 << 30
gc.collect()
assert last() is None, "all is searched"
assert gc.get_freeze_count() > before - 1000, "and left out again"
"""


def test_cycles_that_are_left_out_are_found_once_memory_has_grown() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=50)
    assert ended.stderr == ""
