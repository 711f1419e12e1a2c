"""What is written to PostgreSQL. Each write is one statement that commits by itself, so nobody ever waits for a client.

A command that must judge first reads, and then writes on condition that the session's row is still the one it has read;
otherwise it reads again. The row is touched by every write to its session. That also keeps statements right that wait
for the row and then would work on events as they were before the wait: the condition no longer holds.

Any of them may be carried out twice (see `Pool.run`): what the first attempt has done is then found and answered for.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from moorline.backend.eventlog.base import LogUnavailable, SessionInfo
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.backend.eventlog.sqlite.committer import Growth
from moorline.backend.events import Position
from moorline.backend.session import judge_owner

__all__ = ["MAX_ATTEMPTS", "cancel_run", "create", "delete_session", "expire", "one", "open_session"]

#: How often a command reads again because others write to its session. Two or three times are seen.
MAX_ATTEMPTS = 20


async def one(db: Connection, query: str, parameters: Sequence[object] | Mapping[str, object]) -> Any:
    """The only row of a statement's answer, or None."""
    return await (await db.execute(query, parameters)).fetchone()


async def create(db: Connection, session_id: str, patient_id: str, now: float) -> None:
    """An empty session, if there is none; whose it is, a reader finds out."""
    await db.execute(
        "INSERT INTO sessions (session_id, patient_id, epoch, touched_at) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (session_id) DO NOTHING",
        (session_id, patient_id, secrets.token_hex(16), now),
    )


async def open_session(db: Connection, session_id: str, patient_id: str, now: float) -> SessionInfo:
    """See EventLog.open_session."""
    for _ in range(MAX_ATTEMPTS):
        found = await one(
            db, "SELECT patient_id, epoch, head, active_run_id FROM sessions WHERE session_id = %s", (session_id,)
        )
        if found is not None:
            judge_owner(found[0], patient_id)
            return SessionInfo(session_id, patient_id, Position(found[1], found[2]), found[3])
        await create(db, session_id, patient_id, now)
    raise LogUnavailable("the session is erased again and again")


async def delete_session(db: Connection, session_id: str) -> tuple[bool, list[Growth]]:
    """See EventLog.delete_session. The other tables' rows go with the session's, whatever was written meanwhile."""
    found = await one(db, "DELETE FROM sessions WHERE session_id = %s RETURNING epoch", (session_id,))
    return found is not None, [] if found is None else [(session_id, found[0], None)]


async def expire(db: Connection, before: float, limit: int) -> tuple[list[str], list[Growth]]:
    """See EventLog.expire. One by one: a statement is bounded in time, and what it has done so far would be undone."""
    candidates = await db.execute(
        "SELECT id FROM sessions WHERE touched_at < %s AND active_run_id IS NULL ORDER BY touched_at LIMIT %s",
        (before, limit),
    )
    growth: list[Growth] = []
    for (session,) in await candidates.fetchall():
        found = await one(
            db,
            "DELETE FROM sessions WHERE id = %s AND touched_at < %s AND active_run_id IS NULL"
            " RETURNING session_id, epoch",
            (session, before),
        )
        growth += [] if found is None else [(found[0], found[1], None)]
    return [session_id for session_id, _, _ in growth], growth


async def cancel_run(db: Connection, session_id: str, run_id: str) -> bool:
    """See EventLog.cancel_run. False: it is not the active one."""
    found = await one(
        db,
        "UPDATE sessions SET cancel_requested = true WHERE session_id = %s AND active_run_id = %s RETURNING id",
        (session_id, run_id),
    )
    return found is not None
