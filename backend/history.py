"""Parts of a session, bounded in number and in bytes: its newest rows, for pages of history and for prompts, and its
next events, for readers that may not take them."""

from collections.abc import Sequence

from moorline.backend.eventlog.base import SNAPSHOT_BYTES
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Position, Row, event_size
from moorline.backend.session import newest

__all__ = ["newest_rows", "next_events"]

# Rows fetched at once: a page may be full of bytes long before it is full of rows.
_ROWS_AT_ONCE = 32
# Events read at once.
_EVENTS_AT_ONCE = 256


async def newest_rows(log: EventLog, session_id: str, *, before: int | None, count: int, size: int) -> Sequence[Row]:
    """The last `count` rows before `before` (None: of all), of up to `size` bytes of text, but always the last one."""
    found: list[Row] = []
    left = size
    while len(found) < count and left >= 0:
        most = min(_ROWS_AT_ONCE, count - len(found))
        rows = await log.rows(session_id, before=before, limit=most)
        found += reversed(rows)
        left -= sum(row.size for row in rows)
        if len(rows) < most:
            break
        before = rows[0].seq
    return newest(found, count=count, size=size)[0]


async def next_events(log: EventLog, session_id: str, cursor: Position) -> tuple[Sequence[Event], bool]:
    """Events behind `cursor`, bounded as a snapshot is but for the last one, and whether there may be more.

    Many messages may have been written before a reader comes: it would hold all of them while it sends the first.
    """
    events = await log.read_after(
        session_id, max(cursor.seq, 0), limit=_EVENTS_AT_ONCE, epoch=cursor.epoch, size=SNAPSHOT_BYTES
    )
    full = len(events) == _EVENTS_AT_ONCE or sum(map(event_size, events)) >= SNAPSHOT_BYTES
    return events, full
