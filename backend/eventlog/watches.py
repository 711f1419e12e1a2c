"""Who waits for a session to grow. A hint carries no data, so all watchers of a session share one bell."""

import asyncio
import weakref

__all__ = ["SessionWatch", "Watches"]


class _Bell:
    """Counts the growth of one session. It lives as long as a watch holds it."""

    __slots__ = ("__weakref__", "count", "waiters")

    def __init__(self) -> None:
        self.count = 0
        self.waiters: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        self.count += 1
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)
        self.waiters.clear()


class SessionWatch:
    """A `Watch`. One that is dropped without `close` leaves nothing behind."""

    __slots__ = ("_bell", "_seen")

    def __init__(self, bell: _Bell) -> None:
        self._bell: _Bell | None = bell
        self._seen = bell.count

    async def wait(self) -> None:
        """Return once there may be something new; at once when closed."""
        bell = self._bell
        if bell is None:
            return
        while self._seen == bell.count and self._bell is not None:
            waiter = asyncio.get_running_loop().create_future()
            bell.waiters.add(waiter)
            try:
                await waiter
            finally:
                bell.waiters.discard(waiter)
        self._seen = bell.count

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

    def ring(self, session_id: str) -> None:
        """Wake whoever watches the session."""
        bell = self._bells.get(session_id)
        if bell is not None:
            bell.ring()

    def ring_all(self) -> None:
        """Wake everybody: the log closes, and nobody may wait for what will not come."""
        for bell in list(self._bells.values()):
            bell.ring()
