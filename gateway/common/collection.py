"""When the interpreter searches for objects in cycles that nothing else refers to.

A search stops everything else in the process, and reads all objects of all modules in the longest of its kinds.
"""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["begin", "end", "keep_start", "no_collection", "serve"]

_USUAL = gc.get_threshold()
# New objects between two searches while the program serves. A handshake makes fifty that stay: with the usual 700 each
# fourteenth of them paid for a search, a twentieth of what handshakes cost.
_SERVING = 5000
# New objects between two searches while modules are read: what these make stays.
_STARTING = 100_000


def begin() -> None:
    """Call it when a program begins: a fifth of the time that it takes to read its modules went into searches."""
    gc.set_threshold(_STARTING, *_USUAL[1:])


def serve() -> None:
    """Call it before the event loop runs: from now on objects come and go."""
    gc.set_threshold(_SERVING, *_USUAL[1:])


def keep_start() -> None:
    """Call it once a program has started: what is there now stays, and no search goes through it any more.

    Each one took 50 ms in a gateway and 130 ms in a backend, in which nothing else is done.
    """
    gc.freeze()


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
    gc.freeze()
