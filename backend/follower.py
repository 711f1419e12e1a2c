"""Reads a session's log for one client, from its position on, and waits for it to grow."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moorline.backend.eventlog.base import Hint, SessionInfo
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Position, Snapshot
from moorline.backend.history import next_events
from moorline.backend.session import can_replay
from moorline.backend.waiting import Waiter

__all__ = ["Follower", "Resumed"]


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where a client of version 2 begins: with `snapshot`, or None where the events after its own position follow."""

    head: Position
    run_id: str | None
    snapshot: Snapshot | None


class Follower:
    """Belongs to one task, which reads and waits; any other may `wake` it. While nothing happens it asks nothing."""

    def __init__(self, log: EventLog, start: SessionInfo, at_growth: Callable[[], bool] | None = None) -> None:
        """The client has seen all up to the head of `start`. See `Waiter` for `at_growth`."""
        self.position = start.head
        #: Whether the session was erased, so that nothing more comes.
        self.erased = False
        self._log = log
        self._session_id = start.session_id
        self._patient_id = start.patient_id
        self._watch = log.watch(start.session_id, start.head)
        self._waiter = Waiter(self._watch, at_growth)
        # What happened between `start` and the registration of the watch is unknown.
        self._hint: Hint | None = Hint.ERASED

    @property
    def behind(self) -> bool:
        """Whether the log may hold more than was read."""
        return self._hint is not None

    async def read(self) -> Sequence[Event]:
        """The next events behind the position, which the caller moves on.

        Raises:
            Refusal: `forbidden`, the session's first message was another patient's.
        """
        if self._hint is None:
            return ()
        events, full = await next_events(self._log, self._session_id, self.position)
        if full:
            return events
        # The epoch of a session that has not begun is not final, see EventLog.session_for.
        not_begun = self.position.seq == 0 and not events
        if self._hint is Hint.ERASED or not_begun:
            epoch = (await self._session()).head.epoch
            if epoch != self.position.epoch and not_begun:
                self.position = Position(epoch, 0)
                return ()
            self.erased = epoch != self.position.epoch
        self._hint = None
        return events

    def read_now(self) -> Sequence[Event]:
        """What `read` would return, where that can be had at once and nothing else has happened; otherwise nothing."""
        if self._hint is not None or self.position.seq == 0:
            return ()
        return self._log.read_tail(self._session_id, self.position.seq, epoch=self.position.epoch)

    async def resume(
        self, wanted: Position | None, turn: Callable[[], contextlib.AbstractAsyncContextManager[None]]
    ) -> Resumed:
        """Continue from `wanted`, or from a snapshot where that cannot be; raises as `read`.

        The snapshot is built in a `turn`, which has ended: encode it at once.
        """
        info = await self._session()
        if wanted is not None and can_replay(info.head, wanted):
            self.position, self._hint = wanted, Hint.GROWN
            return Resumed(info.head, info.active_run_id, None)
        async with turn():
            snapshot = await self._snapshot(info.head)
        # Of a session that has not begun only the log knows whether its epoch is still the same.
        self.position, self._hint = snapshot.position, None if snapshot.position.seq else Hint.GROWN
        return Resumed(snapshot.position, snapshot.run.run_id if snapshot.run else None, snapshot)

    async def wait(self, when: float) -> None:
        """Return when the log may have grown, when `wake` has been called, or at loop time `when`."""
        hint = await self._waiter.until(when)
        if hint is not None and self._hint is not Hint.ERASED:
            self._hint = hint

    def wake(self) -> None:
        """End the wait under way, or the next one at once."""
        self._waiter.wake()

    def close(self) -> None:
        """Stop watching; idempotent."""
        self._waiter.close()
        self._watch.close()

    async def _session(self) -> SessionInfo:
        return await self._log.session_for(self._session_id, self._patient_id)

    async def _snapshot(self, head: Position) -> Snapshot:
        snapshot = await self._log.snapshot(self._session_id, epoch=head.epoch)
        while snapshot is None and head.seq > 0:  # erased between the two reads
            head = (await self._session()).head
            snapshot = await self._log.snapshot(self._session_id, epoch=head.epoch)
        return snapshot or Snapshot(head, (), earlier=False)
