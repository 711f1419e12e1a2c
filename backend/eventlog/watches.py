"""Who waits for a session to grow. A hint carries no data, so all watchers of a session share one bell."""

import asyncio
import weakref
from collections.abc import Iterable, Mapping

from moorline.backend.eventlog.base import Hint
from moorline.backend.events import Event

__all__ = ["SessionWatch", "Watches", "add_hint", "hints_of"]


def hints_of(growth: Iterable[tuple[str, str, Event | None]]) -> dict[str, Hint]:
    """The hints for what a commit wrote: session, epoch and event, None for an erasure."""
    hints: dict[str, Hint] = {}
    for session_id, _, event in growth:
        add_hint(hints, session_id, Hint.ERASED if event is None else Hint.GROWN)
    return hints


def add_hint(hints: dict[str, Hint], session_id: str, hint: Hint) -> None:
    """Add `hint` to those that wait: an erasure stays one when the session is opened again and grows."""
    if hints.get(session_id) is not Hint.ERASED:
        hints[session_id] = hint


class _Bell:
    """Counts the hints of one session. It lives as long as a watch holds it."""

    __slots__ = ("__weakref__", "count", "erasures", "waiters")

    def __init__(self) -> None:
        self.count = 0
        self.erasures = 0
        self.waiters: set[asyncio.Future[None]] = set()

    def ring(self, hint: Hint) -> None:
        self.count += 1
        self.erasures += hint is Hint.ERASED
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class SessionWatch:
    """A `Watch`. One that is dropped without `close` leaves nothing behind."""

    __slots__ = ("_bell", "_erasures", "_seen")

    def __init__(self, bell: _Bell) -> None:
        self._bell: _Bell | None = bell
        self._seen = bell.count
        self._erasures = bell.erasures

    async def wait(self) -> Hint:
        """Return once something may have happened; at once when closed."""
        bell = self._bell
        if bell is None:
            return Hint.GROWN
        while self._seen == bell.count and self._bell is not None:
            waiter = asyncio.get_running_loop().create_future()
            bell.waiters.add(waiter)
            try:
                await waiter
            finally:
                bell.waiters.discard(waiter)
        hint = Hint.GROWN if self._erasures == bell.erasures else Hint.ERASED
        self._seen, self._erasures = bell.count, bell.erasures
        return hint

    def close(self) -> None:
        """Stop watching; idempotent."""
        self._bell = None


class Watches:
    """The bells of all watched sessions."""

    def __init__(self) -> None:
        self._bells: weakref.WeakValueDictionary[str, _Bell] = weakref.WeakValueDictionary()

    def watch(self, session_id: str) -> SessionWatch:
        """A new watch, which has seen all growth up to now."""
        bell = self._bells.get(session_id)
        if bell is None:
            bell = self._bells[session_id] = _Bell()
        return SessionWatch(bell)

    def watched(self) -> list[str]:
        """The sessions that somebody watches."""
        return list(self._bells.keys())

    def ring(self, hints: Mapping[str, Hint]) -> None:
        """Give each session's hint to all who watch it."""
        for session_id, hint in hints.items():
            bell = self._bells.get(session_id)
            if bell is not None:
                bell.ring(hint)

    def ring_all(self) -> None:
        """Wake everybody: the log closes, and nobody may wait for what will not come."""
        for bell in list(self._bells.values()):
            bell.ring(Hint.GROWN)
