"""What is written to the SQLite log. Each function is one command inside the transaction that it is given."""

import secrets
import sqlite3
from typing import NamedTuple

from moorline.backend.errors import Refusal
from moorline.backend.eventlog.base import RunHandle, RunLost, SessionInfo, Started, unwritten
from moorline.backend.eventlog.records import insert
from moorline.backend.eventlog.sqlite.committer import Transaction
from moorline.backend.eventlog.sqlite.read import SessionRecord, run_text, session_record
from moorline.backend.events import Event, Finish, MessageEnded, RunError, RunStarted, Usage, UserMessage
from moorline.backend.session import Known, judge_owner, judge_retry, judge_send

__all__ = ["delete_session", "end_orphans", "end_run", "expire", "open_session", "retry_run", "start_run"]


def open_session(tx: Transaction, session_id: str, patient_id: str, now: float) -> SessionInfo:
    """See EventLog.open_session."""
    return _opened(tx.db, session_id, patient_id, now).info()


def delete_session(tx: Transaction, session_id: str) -> bool:
    """See EventLog.delete_session."""
    session = session_record(tx.db, session_id)
    if session is None:
        return False
    _erase(tx, session)
    return True


def expire(tx: Transaction, before: float, limit: int) -> list[str]:
    """See EventLog.expire."""
    found = tx.db.execute(
        "SELECT session_id FROM sessions WHERE touched_at < ? AND active_run_id IS NULL ORDER BY touched_at LIMIT ?",
        (before, limit),
    ).fetchall()
    for (session_id,) in found:
        session = session_record(tx.db, session_id)
        assert session is not None  # found just above
        _erase(tx, session)
    return [session_id for (session_id,) in found]


def start_run(
    tx: Transaction,
    session_id: str,
    patient_id: str,
    client_msg_id: str,
    content: str,
    now: float,
    refusal: Refusal | None,
) -> Started:
    """See EventLog.start_run."""
    session = _opened(tx.db, session_id, patient_id, now)
    known = _known(tx.db, session.id, client_msg_id)
    known = judge_send(content, known=known, active_run_id=session.active_run_id, refusal=refusal)
    if known is not None:
        return Started(known.user_seq, known.run_id, None)
    user = UserMessage(session.head + 1, _new_id(), client_msg_id, _new_id(), content, now)
    _append(tx, session, user)
    return _begin(tx, session, user.run_id, user.seq, user.seq + 1, client_msg_id, None, now)


def retry_run(
    tx: Transaction, session_id: str, run_id: str, client_msg_id: str, now: float, refusal: Refusal | None
) -> Started:
    """See EventLog.retry_run."""
    session = session_record(tx.db, session_id)
    known, target = None, None
    if session is not None:
        known = _known(tx.db, session.id, client_msg_id)
        target = tx.db.execute(
            "SELECT finish, user_seq FROM runs WHERE run_id = ? AND session = ?", (run_id, session.id)
        ).fetchone()
    known = judge_retry(
        run_id,
        known=known,
        exists=target is not None,
        finish=Finish(target[0]) if target and target[0] else None,
        active_run_id=session and session.active_run_id,
        refusal=refusal,
    )
    if known is not None:
        return Started(known.user_seq, known.run_id, None)
    assert session is not None  # judge_retry refuses without a target,
    assert target is not None  # and a target has a session
    return _begin(tx, session, _new_id(), target[1], session.head + 1, client_msg_id, run_id, now)


def end_run(
    tx: Transaction,
    run: RunHandle,
    finish: Finish,
    now: float,
    text: str,
    at: int | None,
    error: RunError | None,
    usage: Usage | None,
) -> int:
    """See EventLog.end_run."""
    text = unwritten(text, at=at, written=_written(tx.db, run))
    step = _advance(tx.db, run, text)
    (started_seq,) = tx.db.execute("SELECT started_seq FROM runs WHERE run_id = ?", (run.run_id,)).fetchone()
    content = run_text(tx.db, step.session, started_seq) + text
    tx.db.execute("DELETE FROM events WHERE session = ? AND seq > ?", (step.session, started_seq))
    event = MessageEnded(step.seq, started_seq + 1, run.run_id, run.message_id, content, finish, now, error, usage)
    insert(tx.db, step.session, event)
    tx.db.execute("UPDATE sessions SET active_run_id = NULL, touched_at = ? WHERE id = ?", (now, step.session))
    tx.db.execute("UPDATE runs SET finish = ? WHERE run_id = ?", (finish.value, run.run_id))
    tx.growth.append((run.session_id, step.epoch, event))
    return step.seq


def end_orphans(tx: Transaction, now: float) -> int:
    """End every active run as `interrupted`: whoever opens the file is alone, so no run has an owner. Returns how many.

    Each run gets a new fence first: this process is now its owner.
    """
    orphans = tx.db.execute(
        "UPDATE sessions SET fence = fence + 1 WHERE active_run_id IS NOT NULL"
        " RETURNING session_id, active_run_id, fence"
    ).fetchall()
    for session_id, run_id, fence in orphans:
        (message_id,) = tx.db.execute("SELECT message_id FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        end_run(tx, RunHandle(session_id, run_id, message_id, fence), Finish.INTERRUPTED, now, "", None, None, None)
    return len(orphans)


# Steps ----------------------------------------------------------------------------------------------------------------


def _opened(db: sqlite3.Connection, session_id: str, patient_id: str, now: float) -> SessionRecord:
    session = session_record(db, session_id)
    if session is None:
        db.execute(
            "INSERT INTO sessions (session_id, patient_id, epoch, touched_at) VALUES (?, ?, ?, ?)",
            (session_id, patient_id, _new_id(), now),
        )
        session = session_record(db, session_id)
    assert session is not None  # written just above
    judge_owner(session.patient_id, patient_id)
    return session


def _known(db: sqlite3.Connection, session: int, client_msg_id: str) -> Known | None:
    found = db.execute(
        "SELECT c.run_id, c.user_seq, e.content, c.retry_of FROM commands c"
        " JOIN events e ON e.session = c.session AND e.seq = c.user_seq WHERE c.session = ? AND c.client_msg_id = ?",
        (session, client_msg_id),
    ).fetchone()
    return None if found is None else Known(*found)


def _begin(
    tx: Transaction,
    session: SessionRecord,
    run_id: str,
    user_seq: int,
    seq: int,
    client_msg_id: str,
    retry_of: str | None,
    now: float,
) -> Started:
    event = RunStarted(seq, run_id, _new_id(), now)
    _append(tx, session, event)
    tx.db.execute(
        "INSERT INTO runs (run_id, session, message_id, user_seq, started_seq) VALUES (?, ?, ?, ?, ?)",
        (run_id, session.id, event.message_id, user_seq, seq),
    )
    tx.db.execute(
        "INSERT INTO commands (session, client_msg_id, run_id, user_seq, retry_of) VALUES (?, ?, ?, ?, ?)",
        (session.id, client_msg_id, run_id, user_seq, retry_of),
    )
    fence = session.fence + 1
    tx.db.execute(
        "UPDATE sessions SET head = ?, fence = ?, active_run_id = ?, written = 0, touched_at = ? WHERE id = ?",
        (seq, fence, run_id, now, session.id),
    )
    return Started(user_seq, run_id, RunHandle(session.session_id, run_id, event.message_id, fence))


def _append(tx: Transaction, session: SessionRecord, event: Event) -> None:
    insert(tx.db, session.id, event)
    tx.growth.append((session.session_id, session.epoch, event))


def _erase(tx: Transaction, session: SessionRecord) -> None:
    for table in ("events", "commands", "runs"):
        tx.db.execute(f"DELETE FROM {table} WHERE session = ?", (session.id,))
    tx.db.execute("DELETE FROM sessions WHERE id = ?", (session.id,))
    tx.growth.append((session.session_id, session.epoch, None))


class _Step(NamedTuple):
    """A seq that was taken, in the session with the row number `session`."""

    session: int
    seq: int
    epoch: str


def _written(db: sqlite3.Connection, run: RunHandle) -> int:
    """How many characters the owner of `run` has written."""
    found = db.execute(
        "SELECT written FROM sessions WHERE session_id = ? AND active_run_id = ? AND fence = ?",
        (run.session_id, run.run_id, run.fence),
    ).fetchone()
    if found is None:
        raise RunLost(run.run_id)
    written: int = found[0]
    return written


def _advance(db: sqlite3.Connection, run: RunHandle, text: str) -> _Step:
    """Take the next seq of the session of `run`."""
    found = db.execute(
        "UPDATE sessions SET head = head + 1, written = written + ? WHERE session_id = ? RETURNING id, head, epoch",
        (len(text), run.session_id),
    ).fetchall()
    return _Step(*found[0])


def _new_id() -> str:
    return secrets.token_hex(16)
