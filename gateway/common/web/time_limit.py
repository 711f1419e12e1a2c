"""Time limits that every request has: `asyncio.timeout` at a quarter of its cost.

    limits = TimeLimits()
    with limits.of(60.0):
        await response

`asyncio.timeout` sets a timer of the event loop and cancels it: 7 us, of the 300 that a handshake takes, for what one
request in a million exceeds. Limits of one length expire in the order in which they begin. So the limits of each
length are in a queue, and the event loop has one timer for the queue, set for the first of them. It is not cancelled
when that one ends in time: it fires, and is set for the one that is first by then. What is no block of a task is put
into such a queue by itself, see `Deadlines`.
"""

import asyncio
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Protocol

__all__ = ["Deadlines", "TimeLimits"]


class TimeLimits:
    """Use one in one event loop, with few different lengths, as those of the settings: each has a queue of its own."""

    def __init__(self) -> None:
        self._queues: dict[float, Deadlines] = {}

    def of(self, seconds: float | None) -> AbstractContextManager[object]:
        """The block of this raises TimeoutError when it has taken so long; None: it may take for ever."""
        if seconds is None:
            return nullcontext()
        if (queue := self._queues.get(seconds)) is None:
            queue = self._queues[seconds] = Deadlines(asyncio.get_running_loop(), seconds)
        return _Limit(queue)

    def close(self) -> None:
        """Nothing expires from now on."""
        for queue in self._queues.values():
            queue.close()


class _Limit:
    """One block of one task."""

    __slots__ = ("_cancelling", "_queue", "_task", "expired")

    def __init__(self, queue: "Deadlines") -> None:
        self._queue = queue
        self.expired = False

    def __enter__(self) -> None:
        task = asyncio.current_task(self._queue.loop)
        assert task is not None, "a limit is a task's"
        self._task = task
        self._cancelling = task.cancelling()
        self._queue.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.expired:
            self._queue.remove(self)
        # As asyncio.timeout does: of two cancellations the other one counts.
        elif self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def expire(self) -> None:
        self.expired = True
        self._task.cancel()


class Expiring(Protocol):
    """What is in a queue of `Deadlines`."""

    def expire(self) -> None:
        """Its time is over; it is in the queue no more."""


class Deadlines:
    """The queue of what may last equally long."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self.loop = loop
        self._seconds = seconds
        # When each is due, the first one first.
        self._due: dict[Expiring, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, each: Expiring) -> None:
        """It has its time from now on. It must not be in the queue."""
        due = self._due[each] = self.loop.time() + self._seconds
        if self._timer is None:
            self._timer = self.loop.call_at(due, self._timer_fired)

    def remove(self, each: Expiring) -> None:
        """It has ended in time."""
        del self._due[each]

    def close(self) -> None:
        """Nothing expires from now on."""
        if self._timer is not None:
            self._timer.cancel()

    def _timer_fired(self) -> None:
        self._timer = None
        now = self.loop.time()
        expired = []
        for each, due in self._due.items():
            if due > now:
                self._timer = self.loop.call_at(due, self._timer_fired)
                break
            expired.append(each)
        for each in expired:
            # The end of one may be that of another.
            if self._due.pop(each, None) is not None:
                each.expire()
