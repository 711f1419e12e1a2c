"""The timers of all tunnels of one event loop: those for the same moment are one timer of the loop.

Nearly all tunnels wait for a heartbeat, whose moment is a quarter of a second (`coalesced`): ten thousand of them need
eighty timers of the loop. To set one there and to cancel it takes several times as long as to join those that wait.
"""

import asyncio
from typing import Protocol

__all__ = ["Expiring", "Timers"]

# uvloop counts in whole milliseconds, and a timer that fires before its time has to fire again.
_LATE = 0.001


class Expiring(Protocol):
    """What waits for a moment."""

    def expire(self) -> None:
        """The moment has come, and nothing waits any more."""


class Timers:
    """Times are those of `time.monotonic`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # By moment: the loop's timer, and what waits for it.
        self._moments: dict[float, tuple[asyncio.TimerHandle, dict[Expiring, None]]] = {}
        # Whose moment has come.
        self._due: dict[Expiring, None] = {}

    def add(self, each: Expiring, at: float, now: float) -> None:
        """Have it expire at this moment, and at no other one."""
        if (moment := self._moments.get(at)) is not None:
            moment[1][each] = None
        else:
            timer = self._loop.call_later(max(0.0, at - now) + _LATE, self._fired, at)
            self._moments[at] = timer, {each: None}

    def remove(self, each: Expiring, at: float) -> None:
        """It waits for this moment no more."""
        if (moment := self._moments.get(at)) is None or each not in moment[1]:
            self._due.pop(each, None)
            return
        timer, waiting = moment
        del waiting[each]
        if not waiting:
            del self._moments[at]
            timer.cancel()

    def _fired(self, at: float) -> None:
        self._due |= self._moments.pop(at)[1]
        self._expire()

    def _expire(self) -> None:
        due = self._due
        try:
            while due:
                due.popitem()[0].expire()
        finally:
            # The loop reports the error of one, which is no reason to forget the others.
            if due:
                self._loop.call_soon(self._expire)
