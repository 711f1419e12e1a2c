"""A time limit for a wait that is begun again and again, as for each event of an answer."""

import asyncio
from types import TracebackType

__all__ = ["Silence"]


class Silence:
    """`with silence:` around each wait raises TimeoutError at loop time `deadline`, which may be moved at any time.

    `asyncio.timeout_at` sets and cancels a timer for each wait. Here there is one: where the deadline was moved
    meanwhile it is set again when it fires. `close` it at the end.
    """

    __slots__ = ("_cancelling", "_due", "_expired", "_loop", "_task", "_timer", "deadline")

    def __init__(self, deadline: float) -> None:
        self.deadline = self._due = deadline
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # That waits. It may be another one each time.
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._expired = False

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        self._cancelling = 0 if task is None else task.cancelling()
        if self._timer is None or self._due > self.deadline:
            self._set_timer()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if not self._expired or task is None:
            return
        self._expired = False
        # As asyncio.timeout does: of two cancellations the other one counts.
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self.close()
        self._due = self.deadline
        self._timer = self._loop.call_at(self._due, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self.deadline:
            self._set_timer()
        else:
            self._expired = True
            self._task.cancel()
