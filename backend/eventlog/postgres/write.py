"""What is written to PostgreSQL. Each write is one statement that commits by itself: no lock waits for a client.

A command that depends on what is in the log first reads, and then writes on condition that the session's row is still
the one it has read; otherwise it reads again. Every write to a session updates its row. That also keeps a statement
correct that waits for the row's lock and then continues with the events as they were before the wait: its condition no
longer holds.

Any of them may be carried out twice (see `Pool.run`): what the first attempt has committed is then found, and returned.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from moorline.backend.eventlog.base import (
    CHECKED_BYTES,
    ERASED_AT_ONCE,
    Commit,
    End,
    LogUnavailable,
    Piece,
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
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.backend.eventlog.postgres.read import NEXT_EPOCH
from moorline.backend.eventlog.postgres.schema import KEY
from moorline.backend.eventlog.records import Kind
from moorline.backend.events import Event, RunStarted
from moorline.backend.parts import STATUS_PREFIX, decode_parts, encode_part
from moorline.backend.session import PriorCommand

__all__ = [
    "Written",
    "add_texts",
    "check_write",
    "delete_session",
    "end_run",
    "expire",
    "long_sessions",
    "request_cancel",
    "start_run",
    "thin_out",
]

#: How often a command reads again because others write to its session. Two or three times are seen.
MAX_ATTEMPTS = 20

T = TypeVar("T")
#: The result of a write, and what it has committed.
Written = tuple[T, list[Commit]]


# Sessions -------------------------------------------------------------------------------------------------------------


_CHECK_WRITE = f"""
WITH session AS (
    INSERT INTO sessions (session_id, patient_id, epoch, touched_at) VALUES (%s, '', '', 0) RETURNING id
)
INSERT INTO events (session, seq, kind, run_id, message_id, content, at)
SELECT id, 1, {Kind.USER:d}, '', '', repeat('0', {CHECKED_BYTES}), 0 FROM session
"""


async def check_write(db: Connection) -> None:
    """See Store.check_write. Undone: what needs room or a lock needs it before a commit."""
    async with db.transaction(force_rollback=True):
        await db.execute("SET LOCAL lock_timeout = 500")
        # A new id: two processes that check at once do not wait for each other.
        await db.execute(_CHECK_WRITE, (new_id(),))


async def long_sessions(db: Connection, before: float, limit: int) -> list[tuple[str, str]]:
    """See Store.long_sessions."""
    found = await db.execute(
        "SELECT session_id, epoch, head FROM sessions WHERE touched_at < %s AND active_run_id IS NULL"
        " ORDER BY touched_at LIMIT %s",
        (before, limit),
    )
    return [(session_id, epoch) for session_id, epoch, head in await found.fetchall() if head > ERASED_AT_ONCE]


_OF_EPOCH = "session_id = %(session_id)s AND (%(epoch)s::text IS NULL OR epoch = %(epoch)s)"
# From the oldest event but the first.
_LENGTH = f"""
SELECT id, head - (SELECT min(seq) FROM events WHERE session = s.id AND seq > 1) FROM sessions s WHERE {_OF_EPOCH}
"""
# By what the events of the part name, and not by `user_seq`: each part would read all rows that are left of a session.
# OFFSET 0 has the planner look up each command by the whole primary key. By its statistics a session has few commands,
# and it would read all of this one's.
_THIN_OUT = f"""
WITH session AS MATERIALIZED (
    SELECT id, head, active_run_id, (SELECT min(seq) FROM events WHERE session = s.id AND seq > %(after)s) AS oldest
    FROM sessions s WHERE {_OF_EPOCH}
), part AS (
    SELECT id, active_run_id, oldest, oldest + %(count)s AS through FROM session WHERE head - oldest >= %(count)s
), event AS (
    DELETE FROM events USING part WHERE session = part.id AND seq >= part.oldest AND seq < part.through
    RETURNING seq, kind, run_id, client_msg_id
), command AS (
    DELETE FROM commands WHERE ctid = ANY(ARRAY(
        SELECT named.ctid FROM part, event, LATERAL (
            SELECT ctid FROM commands WHERE session = part.id AND client_msg_id = event.client_msg_id OFFSET 0
        ) named WHERE event.kind = {Kind.USER:d}
    ))
), run AS (
    -- Neither that of the first message, which stays, nor the one under way, which readers and its own end ask for.
    DELETE FROM runs WHERE run_id = ANY(ARRAY(SELECT run_id FROM event WHERE kind = {Kind.STARTED:d} AND seq > 2))
        AND run_id IS DISTINCT FROM (SELECT active_run_id FROM part)
)
SELECT oldest FROM part
"""


async def thin_out(db: Connection, session_id: str, epoch: str | None, after: int) -> int | None:
    """See Store.thin_out. The first message stays: its id names the session among the erasures.

    Returns where its part began. The next call passes once over what this one has deleted, with which PostgreSQL marks
    it in the index: a statement that has all parts to pass over, as the last one, need not ask each row then. No event
    names the command of a retry, which stays until that last statement: 500,000 add a quarter of a second to it.
    """
    parameters = {"session_id": session_id, "epoch": epoch, "after": after, "count": ERASED_AT_ONCE}
    found = await _one(db, _THIN_OUT, parameters)
    return None if found is None else int(found[0])


async def delete_session(db: Connection, session_id: str, epoch: str | None) -> Written[bool | None]:
    """See Store.delete_session. The foreign keys delete its rows in the other tables."""
    found = await _one(db, _LENGTH, {"session_id": session_id, "epoch": epoch})
    if found is None:
        return False, []
    number, length = found
    if length is not None and length >= ERASED_AT_ONCE:
        return None, []
    await _replace_seeds(db, [session_id])
    # By the number of its row: the session that has perhaps begun under this id since is another one.
    found = await _one(db, _erase("id = %s"), (number,))
    return True, [] if found is None else [Commit(found[0], found[1], None)]


async def expire(db: Connection, before: float, limit: int) -> Written[list[str]]:
    """Erase up to `limit` idle sessions, the oldest first; returns their ids.

    One statement for each: a statement is bounded in time, and one that fails undoes all it has done.
    """
    candidates = await db.execute(
        "SELECT id, session_id FROM sessions WHERE touched_at < %s AND active_run_id IS NULL"
        " ORDER BY touched_at LIMIT %s",
        (before, limit),
    )
    commits: list[Commit] = []
    sessions = await candidates.fetchall()
    await _replace_seeds(db, [session_id for _, session_id in sessions])
    for session, _ in sessions:
        found = await _one(db, _erase("id = %s AND touched_at < %s AND active_run_id IS NULL"), (session, before))
        commits += [] if found is None else [Commit(found[0], found[1], None)]
    return [commit.session_id for commit in commits], commits


def _erase(condition: str) -> str:
    """The statement that deletes a session and notes it among the erasures, both or neither; see `schema.py`."""
    return f"""
    WITH session AS (
        DELETE FROM sessions WHERE {condition} RETURNING id, session_id, epoch
    ), erasure AS (
        INSERT INTO moorline_erasures.erasures (key)
        SELECT {KEY} FROM session JOIN events e ON e.session = session.id AND e.seq = 1
    )
    SELECT session_id, epoch FROM session
    """


async def _replace_seeds(db: Connection, session_ids: Sequence[str]) -> None:
    """Committed before these are erased: see `schema.py`. One by one, so that no two callers can deadlock."""
    for bucket in {epoch_bucket(session_id) for session_id in session_ids}:
        await db.execute("UPDATE epoch_seeds SET seed = %s WHERE bucket = %s", (new_id(), bucket))


# Starting a run -------------------------------------------------------------------------------------------------------


class _Session(NamedTuple):
    id: int
    patient_id: str
    epoch: str
    head: int
    fence: int
    active_run_id: str | None


_CHECK = """
SELECT s.id, s.patient_id, s.epoch, s.head, s.fence, s.active_run_id,
       c.run_id, c.user_seq, e.content, c.retry_of, r.user_seq, r.finish
FROM sessions s
LEFT JOIN commands c ON c.session = s.id AND c.client_msg_id = %s
LEFT JOIN events e ON e.session = c.session AND e.seq = c.user_seq
-- Only while its message is there, see `thin_out`: the answer would be to another one.
LEFT JOIN (runs r JOIN events m ON m.session = r.session AND m.seq = r.user_seq) ON r.session = s.id AND r.run_id = %s
WHERE s.session_id = %s
"""

# After a CTE `session`, which returns its id, epoch and fence where the condition still holds: there was no active run,
# and every run that has begun since has changed the fence.
_APPEND = f"""
, message AS (
    INSERT INTO events (session, seq, kind, run_id, message_id, content, at, client_msg_id)
    SELECT id, %(user_seq)s, {Kind.USER:d}, %(run_id)s, %(user_message_id)s, %(content)s, %(now)s, %(client_msg_id)s
    FROM session WHERE %(retry_of)s::text IS NULL
), started AS (
    INSERT INTO events (session, seq, kind, run_id, message_id, content, at)
    SELECT id, %(started_seq)s, {Kind.STARTED:d}, %(run_id)s, %(message_id)s, '', %(now)s FROM session
), run AS (
    INSERT INTO runs (run_id, session, message_id, user_seq, started_seq, principal)
    SELECT %(run_id)s, id, %(message_id)s, %(user_seq)s, %(started_seq)s, %(principal)s FROM session
), command AS (
    INSERT INTO commands (session, client_msg_id, run_id, user_seq, retry_of)
    SELECT id, %(client_msg_id)s, %(run_id)s, %(user_seq)s, %(retry_of)s FROM session
)
SELECT epoch, fence FROM session
"""

_NEXT_RUN = f"""
WITH session AS (
    UPDATE sessions SET head = %(started_seq)s, fence = fence + 1, active_run_id = %(run_id)s, owner = %(owner)s,
        claimed_at = clock_timestamp(), takeovers = 0, cancel_requested = false, written = 0, touched_at = %(now)s
    WHERE id = %(id)s AND fence = %(fence)s
    RETURNING id, epoch, fence
){_APPEND}"""

_FIRST_RUN = f"""
WITH session AS (
    INSERT INTO sessions (session_id, patient_id, epoch, head, fence, active_run_id, owner, claimed_at, touched_at)
    SELECT %(session_id)s, %(patient_id)s, {NEXT_EPOCH}, %(started_seq)s, 1, %(run_id)s, %(owner)s,
        clock_timestamp(), %(now)s
    FROM epoch_seeds WHERE bucket = %(bucket)s FOR SHARE
    ON CONFLICT (session_id) DO NOTHING RETURNING id, epoch, fence
){_APPEND}"""


async def start_run(db: Connection, start: Start, owner: str) -> Written[Started]:
    """Append `UserMessage` (of a send) and `RunStarted`, as `check_start` allows."""
    for _ in range(MAX_ATTEMPTS):
        session, known, retried = await _state(db, start)
        known = check_start(
            start,
            patient_id=session and session.patient_id,
            epoch=session and session.epoch,
            active_run_id=session and session.active_run_id,
            prior=known,
            retried=retried,
        )
        if known is not None:
            return Started(known.user_seq, known.run_id, _own_handle(start, session, known)), []
        head = 0 if session is None else session.head
        user_seq, started_seq = (head + 1, head + 2) if retried is None else (retried.user_seq, head + 1)
        parameters = _parameters(start, session, owner=owner, user_seq=user_seq, started_seq=started_seq)
        written = await _one(db, _FIRST_RUN if session is None else _NEXT_RUN, parameters)
        if written is None:
            continue
        epoch, fence = written
        handle = RunHandle(start.session_id, start.run_id, start.message_id, fence)
        events: list[Event] = [RunStarted(started_seq, start.run_id, start.message_id, start.now)]
        if retried is None:
            events.insert(0, start.message(user_seq))
        commits = [Commit(start.session_id, epoch, event) for event in events]
        return Started(user_seq, start.run_id, handle), commits
    raise LogUnavailable("too many concurrent writes to the session")


async def _state(db: Connection, start: Start) -> tuple[_Session | None, PriorCommand | None, Retried | None]:
    found = await _one(db, _CHECK, (start.client_msg_id, start.retry_of, start.session_id))
    if found is None:
        return None, None, None
    return (
        _Session(*found[:6]),
        None if found[6] is None else PriorCommand(*found[6:10]),
        None if found[10] is None else Retried(*found[10:]),
    )


def _own_handle(start: Start, session: _Session | None, known: PriorCommand) -> RunHandle | None:
    """The handle of a run that an earlier attempt at this very command has begun."""
    if session is None or known.run_id != start.run_id or session.active_run_id != start.run_id:
        return None
    return RunHandle(start.session_id, start.run_id, start.message_id, session.fence)


def _parameters(
    start: Start, session: _Session | None, *, owner: str, user_seq: int, started_seq: int
) -> dict[str, object]:
    return {
        "session_id": start.session_id,
        "patient_id": start.patient_id,
        "bucket": epoch_bucket(start.session_id),
        "id": session and session.id,
        "fence": session and session.fence,
        "owner": owner,
        "user_seq": user_seq,
        "started_seq": started_seq,
        "run_id": start.run_id,
        "message_id": start.message_id,
        "user_message_id": start.user_message_id,
        "client_msg_id": start.client_msg_id,
        "content": start.content,
        "principal": start.principal,
        "retry_of": start.retry_of,
        "now": start.now,
    }


# Text -----------------------------------------------------------------------------------------------------------------

_ADD = f"""
WITH piece AS (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::text[],
        %s::text[])
    AS piece (session_id, run_id, fence, at, size, message_id, content, part)
), session AS (
    UPDATE sessions s SET head = s.head + 1, written = s.written + piece.size FROM piece
    WHERE s.session_id = piece.session_id AND s.active_run_id = piece.run_id AND s.fence = piece.fence
        AND (piece.at IS NULL OR s.written = piece.at)
    RETURNING s.id, s.epoch, s.head, piece.run_id, piece.message_id, piece.content, piece.part
), event AS (
    INSERT INTO events (session, seq, kind, run_id, message_id, content, at, parts)
    SELECT id, head, {Kind.TEXT:d}, run_id, message_id, content, 0, part FROM session
)
SELECT run_id, epoch, head FROM session
"""

_PROGRESS = "SELECT active_run_id, fence, written, head FROM sessions WHERE session_id = ANY(%s)"


async def add_texts(db: Connection, pieces: Sequence[Piece], attempt: int) -> Written[list[int | Exception]]:
    """The seq of each of `pieces`, or why it has none: one statement, whatever their number.

    Each piece carries its fence and its offset. Those that the statement did not write are looked up afterwards: their
    run is lost, or they are in the log already, because an attempt whose result was lost had been committed.
    """
    outcomes: list[int | Exception] = [LogUnavailable("the connection broke")] * len(pieces)
    commits: list[Commit] = []
    # Without an offset the log does not show whether the first attempt has written it.
    left = {place: piece for place, piece in enumerate(pieces) if piece.at is not None or attempt == 0}
    while left:
        # One piece of a run at a time: an UPDATE changes a row once.
        first = {piece.run.run_id: place for place, piece in reversed(left.items())}
        for run_id, epoch, seq in await _add(db, [left[place] for place in first.values()]):
            place = first.pop(run_id)
            piece = left.pop(place)
            outcomes[place] = seq
            commits.append(Commit(piece.run.session_id, epoch, piece.as_event(seq)))
        if first:
            await _look_up(db, first.values(), left, outcomes)
    return outcomes, commits


async def _add(db: Connection, pieces: Sequence[Piece]) -> list[Any]:
    columns = [
        [piece.run.session_id for piece in pieces],
        [piece.run.run_id for piece in pieces],
        [piece.run.fence for piece in pieces],
        [piece.at for piece in pieces],
        [piece.size for piece in pieces],
        [piece.run.message_id for piece in pieces],
        [piece.text for piece in pieces],
        [None if piece.part is None else encode_part(piece.part) for piece in pieces],
    ]
    return await (await db.execute(_ADD, columns)).fetchall()


async def _look_up(
    db: Connection, places: Collection[int], left: dict[int, Piece], outcomes: list[int | Exception]
) -> None:
    """Settle the pieces that were not written, or cut them to what is missing and leave them for the next statement."""
    found = await db.execute(_PROGRESS, ([left[place].run.session_id for place in places],))
    progress = {(run_id, fence): (written, head) for run_id, fence, written, head in await found.fetchall()}
    for place in places:
        piece = left[place]
        written, head = progress.get((piece.run.run_id, piece.run.fence), (None, 0))
        try:
            if written is None:
                raise RunLost(piece.run.run_id)
            missing = piece.beyond(written)
        except RunLost as lost:
            outcomes[place] = lost
            del left[place]
            continue
        if missing is not None:
            left[place] = missing
        else:
            outcomes[place] = head
            del left[place]


# Ending a run ---------------------------------------------------------------------------------------------------------

_END = f"""
WITH session AS (
    UPDATE sessions SET head = head + 1, active_run_id = NULL, owner = NULL, touched_at = %(now)s
    WHERE session_id = %(session_id)s AND active_run_id = %(run_id)s AND fence = %(fence)s AND written = %(at)s
    RETURNING id, epoch, head
), run AS (
    UPDATE runs SET finish = %(finish)s FROM session WHERE runs.run_id = %(run_id)s RETURNING started_seq
), texts AS (
    DELETE FROM events USING session, run WHERE events.session = session.id AND events.seq > run.started_seq
    RETURNING events.seq, events.content, events.parts
), event AS (
    INSERT INTO events (session, kind, seq, run_id, message_id, content, at, from_seq,
        finish, error_code, error_retryable, error_retry_after, input_tokens, output_tokens, parts)
    SELECT session.id, {Kind.ENDED:d}, session.head, %(run_id)s, %(message_id)s,
        coalesce((SELECT string_agg(content, '' ORDER BY seq) FROM texts), '') || %(text)s,
        %(now)s, run.started_seq + 1, %(finish)s, %(code)s, %(retryable)s::boolean, %(retry_after)s,
        %(input_tokens)s, %(output_tokens)s,
        (SELECT '[' || string_agg(parts, ',' ORDER BY seq) || ']' FROM texts WHERE NOT starts_with(parts, %(status)s))
    FROM session, run RETURNING seq, from_seq, content, parts
)
SELECT session.epoch, event.seq, event.from_seq, event.content, event.parts FROM session, event
"""


async def end_run(db: Connection, end: End, attempt: int) -> Written[int]:
    """Append `MessageEnded` in the place of the run's text and parts; returns its seq."""
    run, text, at = end.run, end.text, end.at
    for _ in range(MAX_ATTEMPTS):
        if at is not None and (found := await _one(db, _END, _end_parameters(end, text, at))) is not None:
            epoch, seq, from_seq, content, parts = found
            event = end.as_event(seq, from_seq=from_seq, content=content, parts=decode_parts(parts or "[]"))
            return seq, [Commit(run.session_id, epoch, event)]
        progress = await _one(
            db,
            "SELECT written FROM sessions WHERE session_id = %s AND active_run_id = %s AND fence = %s",
            (run.session_id, run.run_id, run.fence),
        )
        if progress is None:
            if attempt == 0:
                raise RunLost(run.run_id)
            return await _ended_before(db, run), []
        text, at = unwritten(text, at=at, written=progress[0]), progress[0]
    raise LogUnavailable("too many concurrent writes to the run")


def _end_parameters(end: End, text: str, at: int) -> dict[str, object]:
    return {
        "session_id": end.run.session_id,
        "run_id": end.run.run_id,
        "message_id": end.run.message_id,
        "fence": end.run.fence,
        "at": at,
        "text": text,
        "finish": end.finish.value,
        "now": end.now,
        "code": end.error and end.error.code.value,
        "retryable": end.error and end.error.retryable,
        "retry_after": end.error and end.error.retry_after,
        "input_tokens": end.usage and end.usage.input_tokens,
        "output_tokens": end.usage and end.usage.output_tokens,
        "status": STATUS_PREFIX,
    }


async def _ended_before(db: Connection, run: RunHandle) -> int:
    """The seq of the end that the first attempt has written: the fence shows that no other owner has."""
    found = await _one(
        db,
        f"SELECT e.seq FROM sessions s JOIN events e ON e.session = s.id AND e.seq = s.head"
        f" WHERE s.session_id = %s AND s.fence = %s AND e.run_id = %s AND e.kind = {Kind.ENDED:d}",
        (run.session_id, run.fence, run.run_id),
    )
    if found is None:
        raise RunLost(run.run_id)
    return int(found[0])


async def request_cancel(db: Connection, session_id: str, run_id: str) -> Written[bool]:
    """Note that the run is to stop; False when it is not active."""
    found = await _one(
        db,
        "UPDATE sessions SET cancel_requested = true WHERE session_id = %s AND active_run_id = %s RETURNING id",
        (session_id, run_id),
    )
    return found is not None, []


async def _one(db: Connection, query: str, parameters: Sequence[object] | Mapping[str, object]) -> Any:
    """The only row of a statement's result, or None."""
    return await (await db.execute(query, parameters)).fetchone()
