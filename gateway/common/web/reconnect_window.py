"""How long the clients of a server that restarts should take to come back, all of them together.

Each handshake takes time of the event loop. If all clients came at once the last would wait for the sum, and time-outs
would make clients come again that are waiting already. So they are told a time over which to spread. Where other
programs have the processor as well a handshake takes longer, and so the time that is told is longer, too.
"""

import time
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Measured", "ReconnectWindow"]

T = TypeVar("T")

#: Of a handshake before one was measured.
_FIRST_COST = 0.001
#: Of the time that there is, for those that come back; the rest serves those that are there, and what comes unevenly.
_SHARE = 0.5
#: Shorter than a client's own jitter after a restart: not worth saying.
_LEAST_SECONDS = 1.0
#: Longer is no restart that a person waits for.
_MOST_SECONDS = 300.0


class Measured(Generic[T]):
    """Await it as `work`; afterwards `seconds` is how long the event loop was occupied by it, without its waits."""

    def __init__(self, work: Coroutine[Any, Any, T]) -> None:
        self._work = work
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        step, argument = steps.send, None
        while True:
            began = time.perf_counter()
            try:
                awaited = step(argument)
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                self.seconds += time.perf_counter() - began
            try:
                step, argument = steps.send, (yield awaited)
            except BaseException as error:  # a cancellation, or what the future raised
                step, argument = steps.throw, error


class ReconnectWindow:
    """The mean cost of a handshake, and what follows from it. Pure.

    `whole` is all that a client costs when it comes back, in both parts on one machine, in handshakes as they are
    measured; `python -m tests.bench restart` prints it. The mean is that of about the `weight` newest.
    """

    def __init__(self, *, whole: float, weight: int) -> None:
        self._whole = whole
        self._weight = weight
        self._cost = _FIRST_COST

    def add(self, seconds: float) -> None:
        """A handshake has occupied the event loop for so long."""
        self._cost += (seconds - self._cost) / self._weight

    def seconds(self, sockets: int) -> float | None:
        """For so many clients; None: they need not be told."""
        needed = sockets * self._cost * self._whole / _SHARE
        return None if needed <= _LEAST_SECONDS else round(min(needed, _MOST_SECONDS), 1)
