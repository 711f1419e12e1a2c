"""What is read from PostgreSQL, each in one statement: so it is read as one."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from moorline.backend.eventlog.base import SNAPSHOT_BYTES, SNAPSHOT_ROWS, SessionInfo
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.backend.eventlog.records import COLUMNS, Kind, from_record
from moorline.backend.events import Event, MessageEnded, PartialAnswer, Position, Row, Snapshot, UserMessage
from moorline.backend.session import newest, row_of

__all__ = ["Reading", "find_session", "heads", "read_after", "rows", "snapshot"]

# A row of the snapshot's statement that is no event: the run under way, if there is one, and its text.
_RUN = 0


class Reading(NamedTuple):
    """What one reader asks for; see EventLog.read_after."""

    session_id: str
    seq: int
    limit: int
    epoch: str | None


async def find_session(db: Connection, session_id: str) -> SessionInfo | None:
    """See EventLog.find_session."""
    found = await (
        await db.execute(
            "SELECT patient_id, epoch, head, active_run_id FROM sessions WHERE session_id = %s", (session_id,)
        )
    ).fetchone()
    return None if found is None else SessionInfo(session_id, found[0], Position(found[1], found[2]), found[3])


async def heads(db: Connection, session_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Epoch and last seq of those of the sessions that exist."""
    found = await db.execute(
        "SELECT session_id, epoch, head FROM sessions WHERE session_id = ANY(%s)", (list(session_ids),)
    )
    return {session_id: (epoch, head) for session_id, epoch, head in await found.fetchall()}


_READ = f"""
SELECT reader.place, event.* FROM
    unnest(%s::int[], %s::text[], %s::bigint[], %s::int[], %s::text[])
    AS reader (place, session_id, seq, most, epoch)
JOIN sessions s ON s.session_id = reader.session_id AND (reader.epoch IS NULL OR s.epoch = reader.epoch)
CROSS JOIN LATERAL (
    SELECT {COLUMNS} FROM events e WHERE e.session = s.id AND e.seq > reader.seq ORDER BY e.seq LIMIT reader.most
) event
ORDER BY reader.place, event.seq
"""


async def read_after(db: Connection, readings: Sequence[Reading]) -> list[list[Event]]:
    """See EventLog.read_after; for many readers at once."""
    columns = [list(range(len(readings))), *(list(column) for column in zip(*readings, strict=True))]
    found: defaultdict[int, list[Event]] = defaultdict(list)
    for place, *record in await (await db.execute(_READ, columns)).fetchall():
        found[place].append(from_record(tuple(record)))
    return [found[place] for place in range(len(readings))]


async def rows(db: Connection, session_id: str, before: int | None, limit: int) -> list[Row]:
    """See EventLog.rows."""
    records = await db.execute(
        f"SELECT {COLUMNS} FROM events WHERE session = (SELECT id FROM sessions WHERE session_id = %s)"
        f" AND kind IN ({Kind.USER:d}, {Kind.ENDED:d}) AND (%s::bigint IS NULL OR seq < %s) ORDER BY seq DESC LIMIT %s",
        (session_id, before, before, limit),
    )
    return [_row(from_record(record)) for record in reversed(await records.fetchall())]


# The text before a row, newest first, says whether the row is still wanted: what is not is not even fetched.
_SNAPSHOT = f"""
WITH s AS (
    SELECT s.id, s.epoch, s.head, r.run_id, r.message_id, r.started_seq
    FROM sessions s LEFT JOIN runs r ON r.run_id = s.active_run_id WHERE s.session_id = %s
), newest AS (
    SELECT e.*, sum(octet_length(e.content)) OVER (ORDER BY e.seq DESC) - octet_length(e.content) AS behind
    FROM s CROSS JOIN LATERAL (
        SELECT {COLUMNS} FROM events WHERE session = s.id AND kind IN ({Kind.USER:d}, {Kind.ENDED:d})
        ORDER BY seq DESC LIMIT {SNAPSHOT_ROWS + 1}
    ) e
)
SELECT epoch, {_RUN}, head, run_id, message_id,
    (SELECT string_agg(content, '' ORDER BY seq) FROM events WHERE session = s.id AND seq > s.started_seq),
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM s
UNION ALL
SELECT NULL, {COLUMNS} FROM newest WHERE behind <= {SNAPSHOT_BYTES}
"""


async def snapshot(db: Connection, session_id: str) -> Snapshot | None:
    """See EventLog.snapshot."""
    found = await (await db.execute(_SNAPSHOT, (session_id,))).fetchall()
    if not found:
        return None
    found.sort(key=lambda row: (row[1] != _RUN, -row[2]))
    epoch, _, head, run_id, message_id, text, *_ = found[0]
    last, earlier = newest((_row(from_record(row[1:])) for row in found[1:]), count=SNAPSHOT_ROWS, size=SNAPSHOT_BYTES)
    run = None if run_id is None else PartialAnswer(run_id, message_id, text or "")
    return Snapshot(Position(epoch, head), last, earlier, run)


def _row(event: Event) -> Row:
    assert isinstance(event, UserMessage | MessageEnded)  # the statements ask for these kinds alone
    return row_of(event)
