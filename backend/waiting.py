"""One wait, without a task, for a session to grow, for a point in time, or for a call from this process."""

import asyncio

from moorline.backend.eventlog.base import Hint
from moorline.backend.eventlog.watches import Watch

__all__ = ["Waiter"]


class Waiter:
    """Belongs to one task, which waits; any other may `wake` it.

    To wake means to let the wait's own timeout expire now. A second task or future per socket would do the same and
    cost its memory thousands of times over.
    """

    __slots__ = ("_called", "_timeout", "_watch")

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._timeout: asyncio.Timeout | None = None
        self._called = False

    def wake(self) -> None:
        """End the wait under way, or the next one at once."""
        self._called = True
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

    async def until(self, when: float) -> Hint | None:
        """Return at a hint of the watch; None at loop time `when` and when `wake` has been called."""
        hint = None
        if not self._called:
            try:
                async with asyncio.timeout_at(when) as self._timeout:
                    hint = await self._watch.wait()
            except TimeoutError:
                pass
            finally:
                self._timeout = None
        self._called = False
        return hint
