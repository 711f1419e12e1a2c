"""What is read from the SQLite file. Each function is one read in the transaction that it is given."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from moorline.backend.eventlog.base import (
    ANONYMOUS,
    FIRST_WORDS,
    IDENTITY_BUCKET,
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
from moorline.backend.eventlog.records import SELECTED, Kind, from_record
from moorline.backend.eventlog.sqlite.committer import Transaction
from moorline.backend.events import (
    Event,
    MessageEnded,
    PartAdded,
    Position,
    Row,
    Snapshot,
    TextAdded,
    UserMessage,
    fitting,
)
from moorline.backend.parts import Part, decode_part
from moorline.backend.session import check_owner, newest, partial_answer, row_of

__all__ = [
    "SessionRecord",
    "check",
    "find_session",
    "identity",
    "next_epoch",
    "read_after",
    "rows",
    "run_answer",
    "run_facts",
    "session_for",
    "session_record",
    "sessions",
    "snapshot",
]


class SessionRecord(NamedTuple):
    """A row of the table `sessions`."""

    id: int
    session_id: str
    patient_id: str
    epoch: str
    head: int
    fence: int
    active_run_id: str | None
    written: int

    def info(self) -> SessionInfo:
        """As the log returns it."""
        return SessionInfo(self.session_id, self.patient_id, Position(self.epoch, self.head), self.active_run_id)


def session_record(tx: Transaction, session_id: str) -> SessionRecord | None:
    """The session's row as it will be when its recent text is merged, or None."""
    found = tx.db.execute(
        "SELECT id, session_id, patient_id, epoch, head, fence, active_run_id, written FROM sessions"
        " WHERE session_id = ?",
        (session_id,),
    ).fetchone()
    if found is None:
        return None
    record, growing = SessionRecord(*found), tx.recent.find(session_id)
    return record if growing is None else record._replace(head=growing.head, written=growing.written)


def check(tx: Transaction) -> None:
    """Return if the file can be read."""
    tx.db.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def identity(tx: Transaction) -> str:
    """See Store.identity."""
    (found,) = tx.db.execute("SELECT seed FROM epoch_seeds WHERE bucket = ?", (IDENTITY_BUCKET,)).fetchone()
    return str(found)


def find_session(tx: Transaction, session_id: str) -> SessionInfo | None:
    """The session, or None."""
    session = session_record(tx, session_id)
    return session and session.info()


def session_for(tx: Transaction, session_id: str, patient_id: str) -> SessionInfo:
    """The session, or as it would begin for the patient."""
    session = session_record(tx, session_id)
    if session is None:
        return SessionInfo(session_id, patient_id, Position(next_epoch(tx.db, session_id, patient_id), 0), None)
    check_owner(session.patient_id, patient_id)
    return session.info()


def sessions(tx: Transaction, patient_id: str, before: ListCursor, limit: int) -> list[SessionSummary]:
    """The patient's sessions behind `before`; the first event of each is its first message."""
    found = tx.db.execute(
        f"SELECT session_id, touched_at,"
        f" (SELECT substr(content, 1, {FIRST_WORDS}) FROM events WHERE session = sessions.id AND seq = 1)"
        " FROM sessions WHERE patient_id = ? AND (touched_at, session_id) < (?, ?)"
        " ORDER BY touched_at DESC, session_id DESC LIMIT ?",
        (patient_id, *before, limit),
    )
    return [SessionSummary(*row) for row in found]


def next_epoch(db: sqlite3.Connection, session_id: str, patient_id: str) -> str:
    """The epoch of the session if it begins now; see `schema.py`."""
    (seed,) = db.execute("SELECT seed FROM epoch_seeds WHERE bucket = ?", (epoch_bucket(session_id),)).fetchone()
    return hashlib.sha256(f"{seed} {session_id} {patient_id}".encode()).hexdigest()[:32]


def run_facts(tx: Transaction, run: RunHandle) -> RunFacts | None:
    """The patient and the sender of a run."""
    found = tx.db.execute(
        "SELECT s.patient_id, coalesce(r.principal, ?) FROM runs r JOIN sessions s ON s.id = r.session"
        " WHERE r.run_id = ?",
        (ANONYMOUS, run.run_id),
    ).fetchone()
    return None if found is None else RunFacts(*found)


def read_after(tx: Transaction, queries: Sequence[EventQuery]) -> list[list[Event]]:
    """The events that each of `queries` asks for."""
    return [_events(tx, query) for query in queries]


def rows(tx: Transaction, session_id: str, before: int | None, limit: int) -> list[Row]:
    """The last `limit` rows before the seq `before`."""
    session = session_record(tx, session_id)
    if session is None:
        return []
    return list(_newest_first(tx.db, session, session.head + 1 if before is None else before, limit))[::-1]


def snapshot(tx: Transaction, session_id: str) -> Snapshot | None:
    """The newest rows and the active run."""
    session = session_record(tx, session_id)
    if session is None:
        return None
    found = _newest_first(tx.db, session, session.head + 1, SNAPSHOT_ROWS + 1)
    last, earlier = newest(found, count=SNAPSHOT_ROWS, size=SNAPSHOT_BYTES)
    run = None
    if session.active_run_id is not None:
        message_id, started_seq = tx.db.execute(
            "SELECT message_id, started_seq FROM runs WHERE run_id = ?", (session.active_run_id,)
        ).fetchone()
        run = partial_answer(session.active_run_id, message_id, *run_answer(tx, session, started_seq))
    position = Position(session.epoch, session.head)
    return Snapshot(position, last, earlier, run)


def run_answer(tx: Transaction, session: SessionRecord, started_seq: int) -> tuple[str, list[Part | None]]:
    """The text of the active run that began at `started_seq`, and the part of each event: nothing else follows that."""
    found = tx.db.execute(
        "SELECT content, parts FROM events WHERE session = ? AND seq > ? ORDER BY seq", (session.id, started_seq)
    ).fetchall()
    texts = [text for text, _ in found]
    parts = [None if part is None else decode_part(part) for _, part in found]
    for event in tx.recent.unmerged(session.session_id):
        texts.append(event.text if isinstance(event, TextAdded) else "")
        parts.append(event.part if isinstance(event, PartAdded) else None)
    return "".join(texts), parts


def _events(tx: Transaction, query: EventQuery) -> list[Event]:
    # Numbered placeholders would name the epoch once; Python 3.12.0 to 3.12.3 take them for named ones and warn.
    records = tx.db.execute(
        f"SELECT {SELECTED} FROM events WHERE session ="
        " (SELECT id FROM sessions WHERE session_id = ? AND (? IS NULL OR epoch = ?)) AND seq > ?"
        " ORDER BY seq LIMIT ?",
        (query.session_id, query.epoch, query.epoch, query.seq, query.limit),
    )
    recent = (event for event in tx.recent.unmerged(query.session_id, query.epoch) if event.seq > query.seq)
    events = islice(chain(map(from_record, records), recent), query.limit)
    # What is over the size is not even fetched.
    return list(events if query.size is None else fitting(events, query.size))


def _newest_first(db: sqlite3.Connection, session: SessionRecord, before: int, limit: int) -> Iterator[Row]:
    records = db.execute(
        f"SELECT {SELECTED} FROM events WHERE session = ? AND seq < ? AND kind IN ({Kind.USER:d}, {Kind.ENDED:d})"
        " ORDER BY seq DESC LIMIT ?",
        (session.id, before, limit),
    )
    for event in map(from_record, records):
        if isinstance(event, UserMessage | MessageEnded):
            yield row_of(event)
