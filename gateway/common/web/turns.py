"""Turns for connections whose input is costly to parse, so that they do not hold up the others.

A body in chunks of one byte, or tiny frames, cost hundreds of times what the same bytes cost in one piece: a read of
256 KiB of them takes a third of a second, and fifty such connections stop an event loop for a minute. Input is
therefore parsed in slices. A connection whose slice took long waits in a queue with others of its kind, and each
iteration of the event loop takes a few slices from the queue; all other connections are served as they come, as long as
what they send in one iteration costs little: fifty that show their costly input at once wait in the queue, too.
"""

import asyncio
import time
from collections import deque
from typing import Protocol

__all__ = ["Pace", "Turns"]

# A slice that takes longer makes its connection a slow one; ordinary input takes a tenth of it.
_COSTLY_SECONDS = 0.0002
# An iteration of the event loop that takes longer takes fewer slices the next time. What is counted is the whole
# iteration: handlers that read the input cost several times what parsing it does.
_ITERATION_SECONDS = 0.002
# Of a new connection, some hundred chunks of one byte: a millisecond.
_FIRST_SLICE = 4 << 10
_SMALLEST_SLICE = 512
# What a connection can cost that shows its costly input late.
_LARGEST_SLICE = 32 << 10


class Pace:
    """How much of one connection's input is parsed at a time."""

    __slots__ = ("is_slow", "slice")

    def __init__(self) -> None:
        self.slice = _FIRST_SLICE
        self.is_slow = False

    def parsed(self, size: int, seconds: float) -> None:
        """So many bytes took so long."""
        if seconds > _COSTLY_SECONDS:
            self.is_slow = True
            self.slice = max(_SMALLEST_SLICE, int(size * _COSTLY_SECONDS / seconds))
        elif size >= self.slice:
            self.is_slow = False
            self.slice = min(_LARGEST_SLICE, self.slice * 2)


class Parsing(Protocol):
    """A connection with input that waits for a turn."""

    def parse_slice(self) -> bool:
        """Parse some of it; whether it waits for another turn."""


class Turns:
    """The queue of one server's connections that wait for a turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: deque[Parsing] = deque()
        self._slices = 1
        self._began = 0.0
        # What this iteration has spent outside of the queue.
        self._spent = 0.0

    @property
    def are_spent(self) -> bool:
        """Whether this iteration has no time left for input outside of the queue."""
        return self._spent > _ITERATION_SECONDS

    def spend(self, seconds: float) -> None:
        """Input that came in this iteration took so long."""
        if not self._spent:
            self.loop.call_soon(self._renew)
        self._spent += seconds

    def _renew(self) -> None:
        self._spent = 0.0

    def add(self, connection: Parsing) -> None:
        """Give this connection a turn; not while it waits for one."""
        if not self._waiting:
            self._began = time.perf_counter()
            self.loop.call_soon(self._run)
        self._waiting.append(connection)

    def _run(self) -> None:
        now = time.perf_counter()
        self._slices = self._slices + 1 if now - self._began < _ITERATION_SECONDS else max(1, self._slices // 2)
        self._began = now
        try:
            for _ in range(min(self._slices, len(self._waiting))):
                connection = self._waiting.popleft()
                if connection.parse_slice():
                    self._waiting.append(connection)
        finally:
            # An error of one connection must not end the turns of all.
            if self._waiting:
                self.loop.call_soon(self._run)
