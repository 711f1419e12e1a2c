"""Ends of runs in PostgreSQL: see `postgres_commands.py` for how they are written."""

from dataclasses import dataclass

from moorline.backend.eventlog.base import LogUnavailable, RunHandle, RunLost, unwritten
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.backend.eventlog.postgres.write import MAX_ATTEMPTS, one
from moorline.backend.eventlog.records import COLUMNS, Kind, ended_record
from moorline.backend.eventlog.sqlite.committer import Growth
from moorline.backend.events import Finish, MessageEnded, RunError, Usage

__all__ = ["Ending", "end_run"]


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run."""

    run: RunHandle
    finish: Finish
    now: float
    text: str = ""
    at: int | None = None
    error: RunError | None = None
    usage: Usage | None = None


_END = f"""
WITH moved AS (
    UPDATE sessions SET head = head + 1, active_run_id = NULL, owner = NULL, touched_at = %s
    WHERE session_id = %s AND active_run_id = %s AND fence = %s AND written = %s
    RETURNING id, epoch, head
), run AS (
    UPDATE runs SET finish = %s FROM moved WHERE runs.run_id = %s RETURNING started_seq
), texts AS (
    DELETE FROM events USING moved, run WHERE events.session = moved.id AND events.seq > run.started_seq
    RETURNING events.seq, events.content
), event AS (
    INSERT INTO events (session, {COLUMNS})
    SELECT moved.id, %s, moved.head, %s, %s,
        coalesce((SELECT string_agg(content, '' ORDER BY seq) FROM texts), '') || %s,
        %s, %s, run.started_seq + 1, %s, %s, %s::boolean, %s, %s, %s
    FROM moved, run RETURNING seq, from_seq, content
)
SELECT moved.epoch, event.seq, event.from_seq, event.content FROM moved, event
"""


async def end_run(db: Connection, ending: Ending, *, again: bool) -> tuple[int, list[Growth]]:
    """See EventLog.end_run. `again`: an earlier attempt at this may have been committed."""
    run, text, at = ending.run, ending.text, ending.at
    for _ in range(MAX_ATTEMPTS):
        if at is not None:
            found = await one(db, _END, _end_parameters(ending, text, at))
            if found is not None:
                epoch, seq, from_seq, content = found
                event = MessageEnded(
                    seq,
                    from_seq,
                    run.run_id,
                    run.message_id,
                    content,
                    ending.finish,
                    ending.now,
                    ending.error,
                    ending.usage,
                )
                return seq, [(run.session_id, epoch, event)]
        progress = await one(
            db,
            "SELECT written FROM sessions WHERE session_id = %s AND active_run_id = %s AND fence = %s",
            (run.session_id, run.run_id, run.fence),
        )
        if progress is None:
            return await _ended_before(db, run, again=again), []
        text, at = unwritten(text, at=at, written=progress[0]), progress[0]
    raise LogUnavailable("too many write to the run at once")


def _end_parameters(ending: Ending, text: str, at: int) -> tuple[object, ...]:
    run = ending.run
    # A MessageEnded without what only the statement finds out, for the order of its columns.
    kind, _, run_id, message_id, content, now, client_msg_id, _, *rest = ended_record(
        MessageEnded(0, 0, run.run_id, run.message_id, text, ending.finish, ending.now, ending.error, ending.usage)
    )
    whose = ending.now, run.session_id, run.run_id, run.fence, at
    finish, code, retryable, *others = rest
    flag = None if retryable is None else bool(retryable)
    event = kind, run_id, message_id, content, now, client_msg_id, finish, code, flag, *others
    return (*whose, ending.finish.value, run.run_id, *event)


async def _ended_before(db: Connection, run: RunHandle, *, again: bool) -> int:
    """The seq of the end that an earlier attempt has written: nobody else can have where the fence is still ours."""
    found = await one(
        db,
        f"SELECT e.seq FROM sessions s JOIN events e ON e.session = s.id AND e.seq = s.head"
        f" WHERE s.session_id = %s AND s.fence = %s AND e.run_id = %s AND e.kind = {Kind.ENDED:d}",
        (run.session_id, run.fence, run.run_id),
    )
    if found is None or not again:
        raise RunLost(run.run_id)
    return int(found[0])
