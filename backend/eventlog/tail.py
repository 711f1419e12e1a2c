"""The last committed events of the sessions that grow, so that readers that keep up do not query the database. Pure.

It is a copy of what is committed, never ahead of it. What is not in here is in the database. Where several processes
write to it, a tail may lag behind; it holds one epoch of a session, so it never returns events of another log.
"""

import sys
from collections import OrderedDict, deque
from itertools import islice

from moorline.backend.eventlog.base import Commit
from moorline.backend.events import Event, MessageEnded, PartAdded, Position, TextAdded, UserMessage, fitting
from moorline.backend.parts import Part, encode_part

__all__ = ["Tail"]

#: Of one session: some seconds of an answer. A reader further behind queries the database.
MAX_EVENTS = 256
#: Of all sessions; the one that has not grown for longest is dropped first.
MAX_BYTES = 32 << 20
#: An event without its text, and its slot in the deque.
EVENT_BYTES = 300


class Tail:
    """Bounded in events per session and in bytes altogether."""

    def __init__(self, *, max_events: int = MAX_EVENTS, max_bytes: int = MAX_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._sessions: OrderedDict[str, tuple[str, deque[Event]]] = OrderedDict()
        self.size = 0

    def add(self, commit: Commit) -> None:
        """Add a committed event, or drop the session that was erased."""
        session_id, epoch, event = commit
        known, events = self._sessions.get(session_id, ("", None))
        if event is None or (events is not None and (known != epoch or event.seq != events[-1].seq + 1)):
            self.drop(session_id)
            events = None
        if event is None:
            return
        if events is None:
            events = deque()
            self._sessions[session_id] = (epoch, events)
        self._sessions.move_to_end(session_id)
        events.append(event)
        self.size += _size(event)
        while len(events) > self._max_events:
            self.size -= _size(events.popleft())
        while self.size > self._max_bytes:
            self.drop(next(iter(self._sessions)))

    def read_after(
        self, session_id: str, seq: int, limit: int, epoch: str, size: int | None = None
    ) -> list[Event] | None:
        """Up to `limit` events above `seq`, until `size` is reached; None when they may be in the database only."""
        known, events = self._sessions.get(session_id, ("", None))
        if not events or seq < events[0].seq - 1 or epoch != known:
            return None
        # The events in here have no gaps, so the index of a seq is known: no search for readers that keep up.
        # A client's cursor may be any number up to MAX_SEQ.
        start = min(seq - events[0].seq + 1, len(events))
        if start == len(events) - 1:
            # The reader of an answer under way: to walk to the last one would cost time in the length of the answer.
            return [events[-1]]
        found = islice(events, start, start + limit)
        return list(found if size is None else fitting(found, size))

    def drop_behind(self, session_id: str, head: Position) -> None:
        """Forget the session where what is in here ends before `head`: another process has written to it since."""
        known, events = self._sessions.get(session_id, ("", None))
        if events and (known != head.epoch or events[-1].seq < head.seq):
            self.drop(session_id)

    def drop(self, session_id: str) -> None:
        """Forget a session."""
        _, events = self._sessions.pop(session_id, ("", ()))
        for event in events:
            self.size -= _size(event)


def _size(event: Event) -> int:
    # First, and without a pattern: of all events these are the most.
    if isinstance(event, TextAdded):
        return EVENT_BYTES + sys.getsizeof(event.text)
    match event:
        case UserMessage(content=text):
            return EVENT_BYTES + sys.getsizeof(text)
        case MessageEnded(content=text, parts=parts):
            return EVENT_BYTES + sys.getsizeof(text) + sum(map(_part_size, parts))
        case PartAdded(part=part):
            return EVENT_BYTES + _part_size(part)
    return EVENT_BYTES


def _part_size(part: Part) -> int:
    return sys.getsizeof(encode_part(part))
