"""What a server does when file descriptors run short: it lets go of connections that wait, then of new ones.

nginx counts all its connections (worker_connections) and, when few are left, closes the idle ones first. Here nothing
is counted: the kernel gives a new connection the lowest free number, so that the number itself says how many are taken.
"""

import contextlib
import logging
import resource
import time
from typing import Protocol

__all__ = ["Room", "raise_limit"]

log = logging.getLogger("moorline.http")

# Kept for files, and for connections to the backend; of a small limit a quarter.
_RESERVE = 64
# What nobody needs more of: two for each of 10,000 sockets, several times over.
_ENOUGH = 1 << 16
# Between two lines in the log.
_WARN_SECONDS = 10.0


class _Waiting(Protocol):
    def is_waiting(self) -> bool: ...

    def force_close(self) -> None: ...


class Room:
    """The connections of one server that may be waiting for a request, the longest first."""

    def __init__(self) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        limit = _ENOUGH if soft == resource.RLIM_INFINITY else soft
        self._full = limit - min(_RESERVE, limit // 4)
        self._waiting: dict[_Waiting, None] = {}
        # Closed, but not to their end yet.
        self._going: set[_Waiting] = set()
        self._warned = 0.0

    def has(self, descriptor: int) -> bool:
        """Whether there is room for a new connection with this number. Those that wait may have to go for it: a flood
        of them makes place for those that have something to ask.
        """
        # Each that waits may need a second descriptor, for the backend; open sockets have theirs.
        shed = False
        while descriptor + 1 - len(self._going) + len(self._waiting) > self._full and self._shed():
            shed = True
        full = descriptor >= self._full and not self._going
        if shed or full:
            self._warn()
        return not full

    def waits(self, connection: _Waiting) -> None:
        """From now on it waits for a request, or soon will."""
        self._waiting.pop(connection, None)
        self._waiting[connection] = None

    def left(self, connection: _Waiting) -> None:
        """Its descriptor is free again."""
        self._waiting.pop(connection, None)
        self._going.discard(connection)

    def _shed(self) -> bool:
        while self._waiting:
            connection = next(iter(self._waiting))
            # One that is busy is entered again when it is done.
            del self._waiting[connection]
            if connection.is_waiting():
                self._going.add(connection)
                connection.force_close()
                return True
        return False

    def _warn(self) -> None:
        now = time.monotonic()
        if now - self._warned > _WARN_SECONDS:
            self._warned = now
            log.warning("file descriptors run short: idle connections are closed, then new ones; see ulimit -n")


def raise_limit() -> None:
    """Have as many descriptors as this process may: the limit that shells give is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has a lower limit beside this one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
