"""What is read from PostgreSQL, each by one statement, and so from one snapshot of the database."""

from collections import defaultdict
from collections.abc import Sequence

from moorline.backend.eventlog.base import (
    ANONYMOUS,
    FIRST_WORDS,
    SNAPSHOT_BYTES,
    SNAPSHOT_ROWS,
    EventQuery,
    ListCursor,
    RunFacts,
    RunHandle,
    SessionInfo,
    SessionSummary,
    epoch_bucket,
)
from moorline.backend.eventlog.postgres.connection import NOW, Connection
from moorline.backend.eventlog.records import COLUMNS, SELECTED, Kind, from_record
from moorline.backend.events import Event, MessageEnded, Position, Row, Snapshot, UserMessage
from moorline.backend.parts import decode_parts
from moorline.backend.session import check_owner, newest, partial_answer, row_of

__all__ = [
    "NEXT_EPOCH",
    "check",
    "find_session",
    "heads",
    "now",
    "read_after",
    "rows",
    "run_facts",
    "session_for",
    "sessions",
    "snapshot",
]

#: The epoch of the session %(session_id)s of %(patient_id)s if it begins now, from `epoch_seeds`; see `schema.py`.
NEXT_EPOCH = """
substr(encode(sha256(convert_to(seed || ' ' || %(session_id)s || ' ' || %(patient_id)s, 'UTF8')), 'hex'), 1, 32)
"""

# A seq that no event has.
_BEYOND = (1 << 63) - 1
# A row of the snapshot's statement that is no event: the position, the active run if there is one, its text, its parts.
_RUN = 0


async def check(db: Connection) -> None:
    """Return if the database answers."""
    await db.execute("SELECT 1")


async def now(db: Connection) -> float:
    """See Store.now."""
    found = await (await db.execute(f"SELECT {NOW}")).fetchone()
    assert found is not None
    return float(found[0])


async def find_session(db: Connection, session_id: str) -> SessionInfo | None:
    """The session, or None."""
    found = await (
        await db.execute(
            "SELECT patient_id, epoch, head, active_run_id FROM sessions WHERE session_id = %s", (session_id,)
        )
    ).fetchone()
    return None if found is None else SessionInfo(session_id, found[0], Position(found[1], found[2]), found[3])


async def session_for(db: Connection, session_id: str, patient_id: str) -> SessionInfo:
    """The session, or as it would begin for the patient."""
    found = await (
        await db.execute(
            f"SELECT s.patient_id, coalesce(s.epoch, {NEXT_EPOCH}), coalesce(s.head, 0), s.active_run_id"
            " FROM epoch_seeds LEFT JOIN sessions s ON s.session_id = %(session_id)s WHERE bucket = %(bucket)s",
            {"session_id": session_id, "patient_id": patient_id, "bucket": epoch_bucket(session_id)},
        )
    ).fetchone()
    assert found is not None  # each bucket has a seed
    owner, epoch, head, active_run_id = found
    if owner is not None:
        check_owner(owner, patient_id)
    return SessionInfo(session_id, patient_id, Position(epoch, head), active_run_id)


async def sessions(db: Connection, patient_id: str, before: ListCursor, limit: int) -> list[SessionSummary]:
    """The patient's sessions behind `before`; the first event of each is its first message."""
    found = await db.execute(
        f"SELECT session_id, touched_at,"
        f" (SELECT left(content, {FIRST_WORDS}) FROM events WHERE session = sessions.id AND seq = 1)"
        " FROM sessions WHERE patient_id = %s AND (touched_at, session_id) < (%s, %s)"
        " ORDER BY touched_at DESC, session_id DESC LIMIT %s",
        (patient_id, *before, limit),
    )
    return [SessionSummary(*row) for row in await found.fetchall()]


async def run_facts(db: Connection, run: RunHandle) -> RunFacts | None:
    """The patient and the sender of a run."""
    found = await db.execute(
        "SELECT s.patient_id, coalesce(r.principal, %s) FROM runs r JOIN sessions s ON s.id = r.session"
        " WHERE r.run_id = %s",
        (ANONYMOUS, run.run_id),
    )
    row = await found.fetchone()
    return None if row is None else RunFacts(*row)


async def heads(db: Connection, session_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Epoch and last seq of those of the sessions that exist."""
    # As one text, which no id can make ambiguous: an array of a thousand is a call and a regular expression for each.
    found = await db.execute(
        "SELECT session_id, epoch, head FROM sessions WHERE session_id = ANY(string_to_array(%s, chr(10)))",
        ("\n".join(session_ids),),
    )
    return {session_id: (epoch, head) for session_id, epoch, head in await found.fetchall()}


# None lies behind `head`. Without that end the planner expects a third of the session behind any seq: of a long one so
# much that it reads the table, or compiles the statement.
_READ = f"""
SELECT query.place, event.* FROM
    unnest(%s::int[], %s::text[], %s::bigint[], %s::int[], %s::text[], %s::bigint[])
    AS query (place, session_id, seq, most, epoch, size)
JOIN sessions s ON s.session_id = query.session_id AND (query.epoch IS NULL OR s.epoch = query.epoch)
CROSS JOIN LATERAL (
    SELECT {COLUMNS} FROM (
        SELECT e.*, sum(e.bytes) OVER (ORDER BY e.seq) - e.bytes AS before FROM (
            SELECT {SELECTED}, octet_length(content) + coalesce(octet_length(parts), 0) AS bytes
            FROM events WHERE session = s.id AND seq > query.seq AND seq <= s.head ORDER BY seq LIMIT query.most
        ) e
    ) e
    WHERE query.size IS NULL OR e.before < query.size
) event
ORDER BY query.place, event.seq
"""


async def read_after(db: Connection, queries: Sequence[EventQuery]) -> list[list[Event]]:
    """The events that each of `queries` asks for."""
    columns = [list(range(len(queries))), *(list(column) for column in zip(*queries, strict=True))]
    found: defaultdict[int, list[Event]] = defaultdict(list)
    for place, *record in await (await db.execute(_READ, columns)).fetchall():
        found[place].append(from_record(tuple(record)))
    return [found[place] for place in range(len(queries))]


async def rows(db: Connection, session_id: str, before: int | None, limit: int) -> list[Row]:
    """The last `limit` rows before the seq `before`."""
    # Not `before IS NULL OR`: a statement that is planned once for all values then begins at the newest row.
    records = await db.execute(
        f"SELECT {SELECTED} FROM events WHERE session = (SELECT id FROM sessions WHERE session_id = %s)"
        f" AND kind IN ({Kind.USER:d}, {Kind.ENDED:d}) AND seq < %s ORDER BY seq DESC LIMIT %s",
        (session_id, _BEYOND if before is None else before, limit),
    )
    return [_row(from_record(record)) for record in reversed(await records.fetchall())]


# `behind`, the size of all newer rows, bounds the snapshot: older rows are not even fetched. `head` as in _READ.
_SNAPSHOT = f"""
WITH s AS (
    SELECT s.id, s.epoch, s.head, r.run_id, r.message_id, r.started_seq
    FROM sessions s LEFT JOIN runs r ON r.run_id = s.active_run_id WHERE s.session_id = %s
), newest AS (
    SELECT e.*, sum(e.size) OVER (ORDER BY e.seq DESC) - e.size AS behind
    FROM s CROSS JOIN LATERAL (
        SELECT {SELECTED}, octet_length(content) + coalesce(octet_length(parts), 0) AS size
        FROM events WHERE session = s.id AND kind IN ({Kind.USER:d}, {Kind.ENDED:d})
        ORDER BY seq DESC LIMIT {SNAPSHOT_ROWS + 1}
    ) e
)
SELECT epoch, {_RUN}, head, run_id, message_id,
    (SELECT string_agg(content, '' ORDER BY seq) FROM events
     WHERE session = s.id AND seq > s.started_seq AND seq <= s.head),
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    (SELECT '[' || string_agg(coalesce(parts, 'null'), ',' ORDER BY seq) || ']'
     FROM events WHERE session = s.id AND seq > s.started_seq AND seq <= s.head), NULL FROM s
UNION ALL
SELECT NULL, {COLUMNS} FROM newest WHERE behind <= {SNAPSHOT_BYTES}
"""


async def snapshot(db: Connection, session_id: str) -> Snapshot | None:
    """The newest rows and the active run."""
    found = await (await db.execute(_SNAPSHOT, (session_id,))).fetchall()
    if not found:
        return None
    found.sort(key=lambda row: (row[1] != _RUN, -row[2]))
    epoch, _, head, run_id, message_id, text, *_, parts, _ = found[0]
    last, earlier = newest((_row(from_record(row[1:])) for row in found[1:]), count=SNAPSHOT_ROWS, size=SNAPSHOT_BYTES)
    run = None if run_id is None else partial_answer(run_id, message_id, text or "", decode_parts(parts or "[]"))
    return Snapshot(Position(epoch, head), last, earlier, run)


def _row(event: Event) -> Row:
    assert isinstance(event, UserMessage | MessageEnded)  # the statements select only these kinds
    return row_of(event)
