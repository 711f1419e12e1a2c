"""When the interpreter searches for objects in cycles that nothing else refers to.

A search stops everything else in the process. A full one reads all objects: a second with 9,000 open sockets. What
sockets, requests and answers leave is freed without a search, so `FullSearches` keeps it short.
"""

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["FullSearches", "begin", "end", "keep_start", "no_collection", "serve"]

_USUAL = gc.get_threshold()
# New objects between two searches while the program starts and serves. A handshake makes fifty that stay: with the
# usual 700 each fourteenth of them paid for a search, a twentieth of what handshakes cost.
_SERVING = 5000
# New objects between two searches while modules are read: what these make stays.
_STARTING = 100_000
# Once a program has started each second search has the objects of the one before as well, and each fourth is full. With
# the usual ten the second kind read 50,000 objects in 0.1 s, and full ones came after 500,000.
_OFTEN = 0
_OLDEST = 2
# A full search that takes more of the processor's time leaves what is in use out of the next ones.
_LONG_SECONDS = 0.01
# All is searched once there is twice the memory in use as the last time, an hour later; or so many more of the
# interpreter's blocks, some 450 MB or 20,000 sockets, at once.
_GROWN, _GROWN_MUCH = 2, 4_000_000
_HOUR = 3600.0


class FullSearches:
    """Has each full search read only what has come since the last ones; the interpreter calls it around each search.

    What is in use when a long one ends is left out from then on. Only a cycle that was in use then, and is not any
    more, is not found. Where such cycles may have become as much as all the rest, everything is searched.
    """

    def __init__(
        self,
        *,
        long: float = _LONG_SECONDS,
        memory: Callable[[], int] = sys.getallocatedblocks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._long = long
        self._memory = memory
        self._clock = clock
        self._began = 0.0
        self._is_of_all = False
        # When all was searched last, and the memory that was in use then.
        self._searched_at, self._searched = clock(), memory()

    def __call__(self, phase: str, info: Mapping[str, Any]) -> None:
        if info["generation"] != _OLDEST:
            return
        if phase == "start":
            if self._is_due():
                gc.unfreeze()
                self._is_of_all = True
            self._began = time.thread_time()
        elif self._is_of_all:
            self._is_of_all = False
            self.leave_out_all()
        elif time.thread_time() - self._began >= self._long:
            gc.freeze()

    def leave_out_all(self) -> None:
        """All that is in use now has been searched, or is known to stay."""
        gc.freeze()
        self._searched_at, self._searched = self._clock(), self._memory()

    def _is_due(self) -> bool:
        memory, before = self._memory(), self._searched
        if memory > before + _GROWN_MUCH:
            return True
        return memory > _GROWN * before and self._clock() - self._searched_at >= _HOUR


_full_searches = FullSearches()


def begin() -> None:
    """Call it when a program begins: a fifth of the time that it takes to read its modules went into searches."""
    gc.set_threshold(_STARTING, *_USUAL[1:])


def serve() -> None:
    """Call it before the event loop runs: from now on objects come and go."""
    gc.set_threshold(_SERVING, *_USUAL[1:])


def keep_start() -> None:
    """Call it once a program has started: what is there now stays, and no search goes through it any more.

    Each one took 50 ms in a gateway and 130 ms in a backend, in which nothing else is done. From now on they are short.
    """
    _full_searches.leave_out_all()
    if _full_searches not in gc.callbacks:
        gc.callbacks.append(_full_searches)
    gc.set_threshold(_SERVING, _OFTEN, _OFTEN)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Search for no cycles within this block, or within one around it: in a hand-over of 5,000 tunnels each search took
    80 to 170 ms."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def end() -> None:
    """Call it when a program ends: the interpreter would search all of it, 0.1 s and on a busy machine 0.9 s, before a
    supervisor or a person sees that the program has ended.
    """
    if _full_searches in gc.callbacks:
        gc.callbacks.remove(_full_searches)
    gc.freeze()
