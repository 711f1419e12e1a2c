"""Group commit of text: the pieces that many runs have written meanwhile are one statement, with one flush to disk.

Each piece carries its fence and its place. What the statement did not take is asked for afterwards: its run is lost, or
the piece stands in the log already, because an attempt whose outcome nobody learned was committed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import psycopg
from moorline.backend.eventlog.base import LogUnavailable, RunHandle, RunLost, unwritten
from moorline.backend.eventlog.batches import Batches
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.backend.eventlog.records import Kind
from moorline.backend.eventlog.sqlite.committer import Growth
from moorline.backend.events import TextAdded

__all__ = ["Append", "Appends"]

#: Pieces in one statement.
SIZE = 500
# Statements that failed for one of their rows alone: lock_timeout, statement_timeout, deadlock.
_FAILED_FOR_ONE = ("55P03", "57014", "40P01")

_APPEND = f"""
WITH piece AS (
    SELECT * FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::int[], %s::text[], %s::text[])
    AS piece (session_id, run_id, fence, at, size, message_id, content)
), moved AS (
    UPDATE sessions s SET head = s.head + 1, written = s.written + piece.size FROM piece
    WHERE s.session_id = piece.session_id AND s.active_run_id = piece.run_id AND s.fence = piece.fence
        AND (piece.at IS NULL OR s.written = piece.at)
    RETURNING s.id, s.epoch, s.head, piece.run_id, piece.message_id, piece.content
), added AS (
    INSERT INTO events (session, seq, kind, run_id, message_id, content, at)
    SELECT id, head, {Kind.TEXT:d}, run_id, message_id, content, 0 FROM moved
)
SELECT run_id, epoch, head FROM moved
"""

_PROGRESS = "SELECT active_run_id, fence, written, head FROM sessions WHERE session_id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Append:
    """A piece of a run's text; see EventLog.add_text."""

    run: RunHandle
    text: str
    at: int | None


Outcomes = list[int | Exception]
#: What one statement is carried out by, and its growth told of.
Write = Callable[[Callable[[Connection], Awaitable[tuple[Outcomes, list[Growth]]]]], Awaitable[Outcomes]]


class Appends:
    """All the text that this process writes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._batches: Batches[Append, int] = Batches(self._append, size=SIZE)

    async def submit(self, piece: Append) -> int:
        """Its seq; see EventLog.add_text."""
        # What the database cannot hold is found here, as it would fail the whole statement.
        piece.text.encode()
        if "\0" in piece.text:
            raise ValueError("text holds NUL")
        return await self._batches.submit(piece)

    async def settled(self) -> None:
        """Return when nothing is under way."""
        await self._batches.settled()

    async def _append(self, pieces: Sequence[Append]) -> Sequence[int | Exception]:
        attempts = iter((False, True))
        try:
            return await self._write(lambda db: _append(db, pieces, again=next(attempts)))
        except LogUnavailable as error:
            cause = error.__cause__
            if len(pieces) == 1 or not isinstance(cause, psycopg.Error) or cause.sqlstate not in _FAILED_FOR_ONE:
                raise
        # Somebody holds the row of one of them; the others must not wait with it for ever.
        parts = await asyncio.gather(*(self._append([piece]) for piece in pieces), return_exceptions=True)
        return [_outcome(part) for part in parts]


def _outcome(part: Sequence[int | Exception] | BaseException) -> int | Exception:
    if isinstance(part, Exception):
        return part
    assert not isinstance(part, BaseException)  # nobody cancels a batch
    return part[0]


async def _append(
    db: Connection, appends: Sequence[Append], *, again: bool
) -> tuple[list[int | Exception], list[Growth]]:
    """The seq of each of `appends`, or why it has none. `again`: an earlier attempt may have been committed."""
    outcomes: list[int | Exception] = [LogUnavailable("the connection broke")] * len(appends)
    growth: list[Growth] = []
    left = [place for place, each in enumerate(appends) if each.at is not None or not again]
    pieces = list(appends)
    while left:
        # One piece of a run at a time: an UPDATE takes a row once.
        first = {pieces[place].run.run_id: place for place in reversed(left)}
        written = await _write(db, [pieces[place] for place in first.values()])
        for run_id, epoch, seq in written:
            place = first.pop(run_id)
            piece = pieces[place]
            outcomes[place] = seq
            growth.append((piece.run.session_id, epoch, TextAdded(seq, run_id, piece.run.message_id, piece.text)))
            left.remove(place)
        if first:
            await _resolve(db, pieces, list(first.values()), outcomes, left)
    return outcomes, growth


async def _write(db: Connection, pieces: Sequence[Append]) -> list[tuple[str, str, int]]:
    columns = [
        [piece.run.session_id for piece in pieces],
        [piece.run.run_id for piece in pieces],
        [piece.run.fence for piece in pieces],
        [piece.at for piece in pieces],
        [len(piece.text) for piece in pieces],
        [piece.run.message_id for piece in pieces],
        [piece.text for piece in pieces],
    ]
    return [(row[0], row[1], row[2]) for row in await (await db.execute(_APPEND, columns)).fetchall()]


async def _resolve(
    db: Connection, pieces: list[Append], places: Sequence[int], outcomes: list[int | Exception], left: list[int]
) -> None:
    """Answer the pieces that were not taken, or cut them to what is missing and leave them for another attempt."""
    asked = await db.execute(_PROGRESS, ([pieces[place].run.session_id for place in places],))
    progress = {(run_id, fence): (written, head) for run_id, fence, written, head in await asked.fetchall()}
    for place in places:
        piece = pieces[place]
        written, head = progress.get((piece.run.run_id, piece.run.fence), (None, 0))
        try:
            if written is None:
                raise RunLost(piece.run.run_id)
            rest = unwritten(piece.text, at=piece.at, written=written)
        except RunLost as lost:
            outcomes[place] = lost
            left.remove(place)
            continue
        if rest or not piece.text:
            pieces[place] = replace(piece, text=rest, at=None if piece.at is None else written)
        else:
            outcomes[place] = head
            left.remove(place)
