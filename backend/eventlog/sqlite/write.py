"""What is written to the SQLite file. Each function is one command in the transaction that it is given."""

import sqlite3
from collections.abc import Sequence

from moorline.backend.eventlog.base import (
    CHECKED_BYTES,
    ERASED_AT_ONCE,
    Commit,
    End,
    Retried,
    RunHandle,
    RunLost,
    Start,
    Started,
    check_start,
    epoch_bucket,
    new_id,
    unwritten,
)
from moorline.backend.eventlog.records import STORED, to_record
from moorline.backend.eventlog.sqlite.committer import Transaction
from moorline.backend.eventlog.sqlite.erasure import delete_rows, first_messages
from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog, erasure_key
from moorline.backend.eventlog.sqlite.read import SessionRecord, next_epoch, run_answer, session_record
from moorline.backend.events import Finish, MessageEnded, RunStarted, UserMessage
from moorline.backend.parts import kept
from moorline.backend.session import PriorCommand

__all__ = [
    "check_write",
    "delete_session",
    "end_orphans",
    "end_run",
    "expire",
    "long_sessions",
    "start_run",
    "thin_out",
]

_INSERT = f"INSERT INTO events (session, {STORED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


# Of a session that is thinned out, behind its events. In the order of the events each row would be on another page, as
# their ids are random, and be found by reading all that are left; so they are deleted in the order of the ids. Those of
# the events that stay are kept, of the first message and of the newest part, and the run under way.
_THIN_OUT_COMMANDS = """
DELETE FROM commands WHERE session = :session AND client_msg_id IN (
    SELECT client_msg_id FROM commands
    WHERE session = :session AND user_seq < :oldest AND (user_seq > 1 OR retry_of IS NOT NULL) LIMIT :count
)
"""
_THIN_OUT_RUNS = """
DELETE FROM runs WHERE run_id IN (
    SELECT run_id FROM runs
    WHERE session = :session AND started_seq > 2 AND started_seq < :oldest AND run_id IS NOT :active LIMIT :count
)
"""


def check_write(tx: Transaction) -> None:
    """See Store.check_write. Committed: a full disk, or one that may only be read, shows at the flush alone."""
    tx.db.execute(
        "INSERT INTO events (session, seq, kind, run_id, message_id, content, at) VALUES (0, 0, 0, '', '', ?, 0.0)",
        ("0" * CHECKED_BYTES,),
    )
    # No session has this number.
    tx.db.execute("DELETE FROM events WHERE session = 0")


def long_sessions(tx: Transaction, before: float, limit: int) -> list[tuple[str, str]]:
    """See Store.long_sessions."""
    found = tx.db.execute(
        "SELECT session_id, epoch, head FROM sessions WHERE touched_at < ? AND active_run_id IS NULL"
        " ORDER BY touched_at LIMIT ?",
        (before, limit),
    )
    return [(session_id, epoch) for session_id, epoch, head in found if head > ERASED_AT_ONCE]


def thin_out(tx: Transaction, session_id: str, epoch: str | None, after: int) -> int | None:
    """See Store.thin_out. The first message stays: its id names the session in the erasure log."""
    session = _of_epoch(tx, session_id, epoch)
    if session is None:
        return None
    if (through := _end_of_part(tx, session)) is not None:
        tx.db.execute("DELETE FROM events WHERE session = ? AND seq > 1 AND seq < ?", (session.id, through))
        return after
    values = {
        "session": session.id,
        "oldest": _oldest(tx, session),
        "active": session.active_run_id,
        "count": ERASED_AT_ONCE,
    }
    # The commands first: `delete_session` sees by the runs whether all were.
    for statement in (_THIN_OUT_COMMANDS, _THIN_OUT_RUNS):
        if tx.db.execute(statement, values).rowcount:
            return after
    return None


def _end_of_part(tx: Transaction, session: SessionRecord) -> int | None:
    """The event behind the oldest part of a session that is too long to be erased at once; None where it is not."""
    oldest = _oldest(tx, session)
    return None if session.head - oldest < ERASED_AT_ONCE else oldest + ERASED_AT_ONCE


def _oldest(tx: Transaction, session: SessionRecord) -> int:
    """The oldest event but the first, or the next one: what is left of an answer may be recent text alone."""
    found = tx.db.execute("SELECT min(seq) FROM events WHERE session = ? AND seq > 1", (session.id,)).fetchone()
    return session.head + 1 if found[0] is None else int(found[0])


def _is_long(tx: Transaction, session: SessionRecord) -> bool:
    if _end_of_part(tx, session) is not None:
        return True
    # One that was thinned out in part.
    runs = tx.db.execute("SELECT 1 FROM runs WHERE session = ? LIMIT 1 OFFSET ?", (session.id, ERASED_AT_ONCE))
    return runs.fetchone() is not None


def delete_session(tx: Transaction, session_id: str, epoch: str | None, erasures: ErasureLog) -> bool | None:
    """See Store.delete_session."""
    session = _of_epoch(tx, session_id, epoch)
    if session is None:
        return False
    if _is_long(tx, session):
        return None
    _erase(tx, [session], erasures)
    return True


def expire(tx: Transaction, before: float, limit: int, erasures: ErasureLog) -> list[str]:
    """Erase up to `limit` idle sessions, the oldest first; returns their ids."""
    found = tx.db.execute(
        "SELECT session_id FROM sessions WHERE touched_at < ? AND active_run_id IS NULL ORDER BY touched_at LIMIT ?",
        (before, limit),
    ).fetchall()
    sessions = [session for (session_id,) in found if (session := session_record(tx, session_id)) is not None]
    _erase(tx, sessions, erasures)
    return [session.session_id for session in sessions]


def start_run(tx: Transaction, start: Start) -> Started:
    """Append `UserMessage` (of a send) and `RunStarted`, as `check_start` allows."""
    session = session_record(tx, start.session_id)
    known = check_start(
        start,
        patient_id=session and session.patient_id,
        epoch=session and session.epoch,
        active_run_id=session and session.active_run_id,
        prior=session and _known(tx.db, session.id, start.client_msg_id),
        retried=session and _retried(tx.db, session.id, start.retry_of),
    )
    if known is not None:
        return Started(known.user_seq, known.run_id, None)
    if session is None:
        session = _create(tx, start)
    retried = _retried(tx.db, session.id, start.retry_of)
    if retried is None:
        user_seq, seq = session.head + 1, session.head + 2
        _append(tx, session, start.message(user_seq))
    else:
        user_seq, seq = retried.user_seq, session.head + 1
    _append(tx, session, RunStarted(seq, start.run_id, start.message_id, start.now))
    tx.db.execute(
        "INSERT INTO runs (run_id, session, message_id, user_seq, started_seq, principal) VALUES (?, ?, ?, ?, ?, ?)",
        (start.run_id, session.id, start.message_id, user_seq, seq, start.principal),
    )
    # Or replace the command of a message that an erasure has deleted which then failed: commands are deleted last.
    tx.db.execute(
        "INSERT OR REPLACE INTO commands (session, client_msg_id, run_id, user_seq, retry_of) VALUES (?, ?, ?, ?, ?)",
        (session.id, start.client_msg_id, start.run_id, user_seq, start.retry_of),
    )
    fence = session.fence + 1
    tx.db.execute(
        "UPDATE sessions SET head = ?, fence = ?, active_run_id = ?, written = 0, touched_at = ? WHERE id = ?",
        (seq, fence, start.run_id, start.now, session.id),
    )
    return Started(user_seq, start.run_id, RunHandle(start.session_id, start.run_id, start.message_id, fence))


def end_run(tx: Transaction, end: End) -> int:
    """Append `MessageEnded` in the place of the run's text and parts; returns its seq."""
    run = end.run
    session = _owned(tx, run)
    text = unwritten(end.text, at=end.at, written=session.written)
    (started_seq,) = tx.db.execute("SELECT started_seq FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
    written, parts = run_answer(tx, session, started_seq)
    tx.db.execute("DELETE FROM events WHERE session = ? AND seq > ?", (session.id, started_seq))
    seq = session.head + 1
    event = end.as_event(seq, from_seq=started_seq + 1, content=written + text, parts=kept(parts))
    _append(tx, session, event)
    tx.db.execute(
        "UPDATE sessions SET head = ?, active_run_id = NULL, touched_at = ? WHERE id = ?", (seq, end.now, session.id)
    )
    tx.db.execute("UPDATE runs SET finish = ? WHERE run_id = ?", (end.finish.value, run.run_id))
    tx.recent.drop(session.session_id)
    return seq


def end_orphans(tx: Transaction, now: float) -> int:
    """End every active run as `interrupted`: the file is locked, so no other process owns one. Returns how many."""
    orphans = tx.db.execute(
        "SELECT s.session_id, r.run_id, r.message_id, s.fence FROM sessions s JOIN runs r ON r.run_id = s.active_run_id"
    ).fetchall()
    for orphan in orphans:
        end_run(tx, End(RunHandle(*orphan), Finish.INTERRUPTED, now))
    return len(orphans)


# Steps ----------------------------------------------------------------------------------------------------------------


def _of_epoch(tx: Transaction, session_id: str, epoch: str | None) -> SessionRecord | None:
    """The session's row, if its epoch is this one; None: whatever it is."""
    session = session_record(tx, session_id)
    return session if session is not None and epoch in (None, session.epoch) else None


def _create(tx: Transaction, start: Start) -> SessionRecord:
    tx.db.execute(
        "INSERT INTO sessions (session_id, patient_id, epoch, touched_at) VALUES (?, ?, ?, ?)",
        (start.session_id, start.patient_id, next_epoch(tx.db, start.session_id, start.patient_id), start.now),
    )
    session = session_record(tx, start.session_id)
    assert session is not None  # inserted just above
    return session


def _known(db: sqlite3.Connection, session: int, client_msg_id: str) -> PriorCommand | None:
    found = db.execute(
        "SELECT c.run_id, c.user_seq, e.content, c.retry_of FROM commands c"
        " LEFT JOIN events e ON e.session = c.session AND e.seq = c.user_seq"
        " WHERE c.session = ? AND c.client_msg_id = ? AND (e.seq IS NOT NULL OR c.retry_of IS NOT NULL)",
        (session, client_msg_id),
    ).fetchone()
    return None if found is None else PriorCommand(*found)


def _retried(db: sqlite3.Connection, session: int, run_id: str | None) -> Retried | None:
    if run_id is None:
        return None
    # Only while its message is there, see `thin_out`: the answer would be to another one.
    found = db.execute(
        "SELECT r.user_seq, r.finish FROM runs r JOIN events e ON e.session = r.session AND e.seq = r.user_seq"
        " WHERE r.run_id = ? AND r.session = ?",
        (run_id, session),
    ).fetchone()
    return None if found is None else Retried(*found)


def _append(tx: Transaction, session: SessionRecord, event: UserMessage | RunStarted | MessageEnded) -> None:
    tx.db.execute(_INSERT, (session.id, *to_record(event)))
    tx.commits.append(Commit(session.session_id, session.epoch, event))


def _erase(tx: Transaction, sessions: Sequence[SessionRecord], erasures: ErasureLog) -> None:
    if not sessions:
        return
    # Of answers under way, and of those that have ended: their rows are still there.
    tx.recent.merge(tx.db)
    # Before the commit. If that fails the lines stand, and are carried out at the next start: it was asked for.
    keys = map(erasure_key, first_messages(tx.db, [session.id for session in sessions]))
    tx.db.execute("UPDATE erasures SET applied = ?", (erasures.append(list(keys)),))
    for session in sessions:
        delete_rows(tx.db, session.id)
        tx.recent.drop(session.session_id)
        tx.db.execute("UPDATE epoch_seeds SET seed = ? WHERE bucket = ?", (new_id(), epoch_bucket(session.session_id)))
        tx.commits.append(Commit(session.session_id, session.epoch, None))


def _owned(tx: Transaction, run: RunHandle) -> SessionRecord:
    """The session of `run`, if its handle is still the owner's."""
    session = session_record(tx, run.session_id)
    if session is None or session.active_run_id != run.run_id or session.fence != run.fence:
        raise RunLost(run.run_id)
    return session
