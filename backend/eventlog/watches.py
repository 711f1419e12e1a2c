"""Readers that wait for a session to change. A hint has no data, so all watches of a session share a signal."""

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence

from moorline.backend.eventlog.base import Commit, Hint
from moorline.backend.events import Position

__all__ = ["Watch", "Watches", "add_hint", "hints_of"]


def hints_of(commits: Sequence[Commit]) -> dict[str, Hint]:
    """The hint for each session that was written to; ERASED where it has begun again since."""
    hints: dict[str, Hint] = {}
    for session_id, _, event in commits:
        add_hint(hints, session_id, Hint.ERASED if event is None else Hint.GROWN)
    return hints


def add_hint(hints: dict[str, Hint], session_id: str, hint: Hint) -> None:
    """Add `hint` to the pending ones: ERASED remains when the session begins again and grows."""
    if hints.get(session_id) is not Hint.ERASED:
        hints[session_id] = hint


class _Signal:
    """Counts the hints of one session. It lives as long as a watch refers to it."""

    __slots__ = ("__weakref__", "count", "erasures", "head", "listeners")

    def __init__(self, head: Position | None) -> None:
        self.head = head
        self.count = 0
        self.erasures = 0
        self.listeners: set[Callable[[], None]] = set()

    def notify(self, hint: Hint) -> None:
        self.count += 1
        # A reader may have more than that, and has to be told where it is erased.
        self.head = None
        if hint is Hint.ERASED:
            self.erasures += 1
        # A copy: one that was waiting for this hint alone listens no more.
        for listener in tuple(self.listeners):
            listener()


class Watch:
    """Waits for a session to grow. Register (`EventLog.watch`) first, then read, then wait, and no growth is missed.

    A reader that reads at each hint, and calls `find_session` at ERASED, executes no statement while nothing happens.
    A watch that is dropped without `close` leaves nothing behind.
    """

    __slots__ = ("_erasures", "_listener", "_seen", "_signal")

    def __init__(self, signal: _Signal) -> None:
        self._signal: _Signal | None = signal
        self._seen = signal.count
        self._erasures = signal.erasures
        self._listener: Callable[[], None] | None = None

    async def wait(self) -> Hint:
        """Return once something may have happened since the last `wait` returned (or since registration).

        Returns at once when closed.
        """
        while (hint := self.take()) is None:
            event = asyncio.Event()
            self.listen(event.set)
            try:
                await event.wait()
            finally:
                self.listen(None)
        return hint

    def take(self) -> Hint | None:
        """What `wait` would return at once, if it would."""
        hint = self.peek()
        if hint is not None:
            self.skip()
        return hint

    def skip(self) -> None:
        """What `peek` has returned is done."""
        if self._signal is not None:
            self._seen, self._erasures = self._signal.count, self._signal.erasures

    def peek(self) -> Hint | None:
        """What `take` would return. It is not taken."""
        signal = self._signal
        if signal is None:
            return Hint.GROWN
        if self._seen == signal.count:
            return None
        return Hint.GROWN if self._erasures == signal.erasures else Hint.ERASED

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call `listener`, and no other one, at each hint until it is closed. The log goes on when it returns."""
        if self._signal is None:
            return
        if self._listener is not None:
            self._signal.listeners.discard(self._listener)
        if listener is not None:
            self._signal.listeners.add(listener)
        self._listener = listener

    def close(self) -> None:
        """Stop watching; idempotent."""
        self.listen(None)
        self._signal = None


class Watches:
    """The signals of all watched sessions."""

    def __init__(self) -> None:
        self._signals: weakref.WeakValueDictionary[str, _Signal] = weakref.WeakValueDictionary()

    def watch(self, session_id: str, head: Position | None = None) -> Watch:
        """A new watch, which has seen all growth up to now. `head` was read before."""
        signal = self._signals.get(session_id)
        if signal is None:
            signal = self._signals[session_id] = _Signal(head)
        return Watch(signal)

    def watched(self) -> dict[str, Position | None]:
        """The sessions that have a watch, each with the head that was read before the first of its watches, until
        there is a hint."""
        return {session_id: signal.head for session_id, signal in self._signals.items()}

    def notify(self, hints: Mapping[str, Hint]) -> None:
        """Wake the watches of these sessions."""
        for session_id, hint in hints.items():
            signal = self._signals.get(session_id)
            if signal is not None:
                signal.notify(hint)

    def notify_all(self) -> None:
        """Wake all watches, because the log closes."""
        for signal in list(self._signals.values()):
            signal.notify(Hint.GROWN)
