"""One wait, without a task, for a session to grow, for a point in time, or for a call from this process."""

import asyncio
import math
from collections.abc import Callable

from moorline.backend.eventlog.base import Hint
from moorline.backend.eventlog.watches import Watch
from moorline.gateway.common.timers import coalesced

__all__ = ["Waiter"]


class Waiter:
    """Belongs to one task, which waits; any other may `wake` it.

    A second task per socket would do the same and cost its memory thousands of times over. There is one timer: one that
    fires before its time is set again, which costs less than to set it for each event of an answer.
    """

    __slots__ = ("_at_growth", "_called", "_due", "_future", "_timer", "_watch", "_when")

    def __init__(self, watch: Watch, at_growth: Callable[[], bool] | None = None) -> None:
        """`at_growth` is called when the session has grown during a wait, which goes on where it returns True: to wake
        the task for each event of an answer would cost more than to send it."""
        self._watch = watch
        self._at_growth = at_growth
        self._called = False
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # When the timer fires, and when the wait under way ends.
        self._due = self._when = math.inf
        watch.listen(self._hinted)

    def wake(self) -> None:
        """End the wait under way, or the next one at once."""
        self._called = True
        self._end_wait()

    async def until(self, when: float) -> Hint | None:
        """Return at a hint of the watch; None at loop time `when` and when `wake` has been called."""
        hint = None
        if not self._called and (hint := self._watch.take()) is None:
            await self._wait(when)
            hint = self._watch.take()
        self._called = False
        return hint

    def close(self) -> None:
        """Stop the timer and the calls of the watch, which refer to this. No wait is under way."""
        self._watch.listen(None)
        # Its owner, which has this: both would stay until a search for cycles.
        self._at_growth = None
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _wait(self, when: float) -> None:
        loop = asyncio.get_running_loop()
        future = self._future = loop.create_future()
        self._when = when
        if self._timer is None or when < self._due:
            self._set_timer(loop)
        try:
            await future
        finally:
            self._future = None

    def _hinted(self) -> None:
        if self._future is None or self._future.done():
            return
        # Here and not in the next iteration of the event loop, which on a busy server is 20 ms away.
        if self._watch.peek() is Hint.GROWN and self._deal_with_growth():
            self._watch.skip()
        else:
            self._end_wait()

    def _deal_with_growth(self) -> bool:
        try:
            return self._at_growth is not None and self._at_growth()
        except Exception:
            # The task meets the same error and ends by it. Here it would keep the commit from all other sessions.
            return False

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stop_timer()
        self._due = self._when
        self._timer = loop.call_at(coalesced(self._due, loop.time()), self._timer_fired, loop)

    def _timer_fired(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._future is None:
            return
        if loop.time() < self._when:
            self._set_timer(loop)
        else:
            self._end_wait()

    def _end_wait(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
