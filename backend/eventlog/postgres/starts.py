"""Sends and retries in PostgreSQL: see `postgres_commands.py` for how they are written."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from moorline.backend.errors import Refusal
from moorline.backend.eventlog.base import LogUnavailable, RunHandle, Started
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.backend.eventlog.postgres.write import MAX_ATTEMPTS, create, one
from moorline.backend.eventlog.records import Kind
from moorline.backend.eventlog.sqlite.committer import Growth
from moorline.backend.events import Event, Finish, RunStarted, UserMessage
from moorline.backend.session import Known, judge_owner, judge_retry, judge_send

__all__ = ["Start", "start_run"]


def _new_id() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Start:
    """A send (`content`) or a retry (`retry_of`) and the ids that what it writes will have, whichever attempt does."""

    session_id: str
    client_msg_id: str
    now: float
    refusal: Refusal | None
    patient_id: str = ""
    content: str = ""
    retry_of: str | None = None
    run_id: str = field(default_factory=_new_id)
    message_id: str = field(default_factory=_new_id)
    user_message_id: str = field(default_factory=_new_id)


@dataclass(frozen=True, slots=True)
class _Session:
    id: int
    patient_id: str
    epoch: str
    head: int
    fence: int
    active_run_id: str | None


_JUDGE = """
SELECT s.id, s.patient_id, s.epoch, s.head, s.fence, s.active_run_id,
       c.run_id, c.user_seq, e.content, c.retry_of, r.user_seq, r.finish
FROM sessions s
LEFT JOIN commands c ON c.session = s.id AND c.client_msg_id = %s
LEFT JOIN events e ON e.session = c.session AND e.seq = c.user_seq
LEFT JOIN runs r ON r.session = s.id AND r.run_id = %s
WHERE s.session_id = %s
"""

_START = f"""
WITH moved AS (
    UPDATE sessions SET head = %(started_seq)s, fence = fence + 1, active_run_id = %(run_id)s, owner = %(owner)s,
        claimed_at = clock_timestamp(), takeovers = 0, cancel_requested = false, written = 0, touched_at = %(now)s
    WHERE id = %(id)s AND head = %(head)s AND fence = %(fence)s AND active_run_id IS NULL
    RETURNING id
), said AS (
    INSERT INTO events (session, seq, kind, run_id, message_id, content, at, client_msg_id)
    SELECT id, %(user_seq)s, {Kind.USER:d}, %(run_id)s, %(user_message_id)s, %(content)s, %(now)s, %(client_msg_id)s
    FROM moved WHERE %(retry_of)s::text IS NULL
), began AS (
    INSERT INTO events (session, seq, kind, run_id, message_id, content, at)
    SELECT id, %(started_seq)s, {Kind.STARTED:d}, %(run_id)s, %(message_id)s, '', %(now)s FROM moved
), run AS (
    INSERT INTO runs (run_id, session, message_id, user_seq, started_seq)
    SELECT %(run_id)s, id, %(message_id)s, %(user_seq)s, %(started_seq)s FROM moved
), command AS (
    INSERT INTO commands (session, client_msg_id, run_id, user_seq, retry_of)
    SELECT id, %(client_msg_id)s, %(run_id)s, %(user_seq)s, %(retry_of)s FROM moved
)
SELECT id FROM moved
"""


async def start_run(db: Connection, start: Start, owner: str) -> tuple[Started, list[Growth]]:
    """See EventLog.start_run and EventLog.retry_run."""
    for _ in range(MAX_ATTEMPTS):
        found = await one(db, _JUDGE, (start.client_msg_id, start.retry_of, start.session_id))
        session = None if found is None else _Session(*found[:6])
        known = None if found is None or found[6] is None else Known(*found[6:10])
        target = None if found is None or found[10] is None else (found[10], found[11])
        known = _judge(start, session, known, target)
        if known is not None:
            return Started(known.user_seq, known.run_id, _ours(start, session, known)), []
        if session is None:
            await create(db, start.session_id, start.patient_id, start.now)
            continue
        user_seq = session.head + 1 if target is None else target[0]
        started_seq = session.head + (2 if target is None else 1)
        if await one(db, _START, _start_parameters(start, session, owner, user_seq, started_seq)) is None:
            continue
        handle = RunHandle(start.session_id, start.run_id, start.message_id, session.fence + 1)
        events: list[Event] = [RunStarted(started_seq, start.run_id, start.message_id, start.now)]
        if start.retry_of is None:
            said = start.user_message_id, start.client_msg_id, start.run_id, start.content, start.now
            events.insert(0, UserMessage(user_seq, *said))
        growth: list[Growth] = [(start.session_id, session.epoch, event) for event in events]
        return Started(user_seq, start.run_id, handle), growth
    raise LogUnavailable("too many write to the session at once")


def _judge(start: Start, session: _Session | None, known: Known | None, target: Any) -> Known | None:
    active_run_id = None if session is None else session.active_run_id
    if start.retry_of is not None:
        return judge_retry(
            start.retry_of,
            known=known,
            exists=target is not None,
            finish=Finish(target[1]) if target and target[1] else None,
            active_run_id=active_run_id,
            refusal=start.refusal,
        )
    if session is not None:
        judge_owner(session.patient_id, start.patient_id)
    return judge_send(start.content, known=known, active_run_id=active_run_id, refusal=start.refusal)


def _ours(start: Start, session: _Session | None, known: Known) -> RunHandle | None:
    """The handle of a run that an earlier attempt at this very command has begun."""
    if session is None or known.run_id != start.run_id or session.active_run_id != start.run_id:
        return None
    return RunHandle(start.session_id, start.run_id, start.message_id, session.fence)


def _start_parameters(
    start: Start, session: _Session, owner: str, user_seq: int, started_seq: int
) -> dict[str, object]:
    return {
        "id": session.id,
        "head": session.head,
        "fence": session.fence,
        "owner": owner,
        "user_seq": user_seq,
        "started_seq": started_seq,
        "run_id": start.run_id,
        "message_id": start.message_id,
        "user_message_id": start.user_message_id,
        "client_msg_id": start.client_msg_id,
        "content": start.content,
        "retry_of": start.retry_of,
        "now": start.now,
    }
