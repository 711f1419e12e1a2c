"""The newest rows of a session, bounded in number and in bytes, for pages of history and for prompts."""

from collections.abc import Sequence

from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Row
from moorline.backend.session import newest

__all__ = ["newest_rows"]

# Rows fetched at once: a page may be full of bytes long before it is full of rows.
_ROWS_AT_ONCE = 32


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
