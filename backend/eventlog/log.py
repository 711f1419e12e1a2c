"""The event log: one ordered log per session. The tail, watches, batches and the ownership of runs, over a `Store`.

Three promises hold for every method that writes: it returns after its commit, never before; it is atomic; and readers
see an event only once it is committed. A reader pulls from its own position. The hints of a watch have no data, so a
lost one costs time and never an event.

A run has one owner, the process that was given its handle. Where several processes share a log, it tells the owner of
a run through `RunOwner`: a run was cancelled by another process, or another process died and left one behind.
"""

import asyncio
import contextlib
import functools
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from moorline.backend.errors import Refusal
from moorline.backend.eventlog.base import (
    ANONYMOUS,
    Commit,
    DatabaseState,
    End,
    EventQuery,
    FoundTicket,
    Hint,
    ListCursor,
    LogUnavailable,
    Piece,
    RunFacts,
    RunHandle,
    RunOwner,
    SessionInfo,
    SessionSummary,
    Start,
    Started,
    Store,
    Ticket,
)
from moorline.backend.eventlog.batches import Batches
from moorline.backend.eventlog.tail import Tail
from moorline.backend.eventlog.watches import Watch, Watches, hints_of
from moorline.backend.events import Event, Finish, Position, Row, RunError, Snapshot, Usage
from moorline.backend.parts import Part

__all__ = ["EventLog", "text_gap"]

log = logging.getLogger("moorline.backend")

#: Pieces of text that the store writes at once, and queries for events that it answers at once.
TEXTS = 1000
QUERIES = 64
#: Events that are read at once from what has just been committed.
TAIL_EVENTS = 16
# Seconds between two commits of text, for each piece of the first one, and the most there are. A commit takes the event
# loop and a thread through several changes, whatever is in it. A single answer, a piece at a time, does not wait.
_TEXT_SPACING = 0.001
_LONGEST_TEXT_SPACING = 0.015
# The same where there are more than 5,000 pieces a second, with which an event loop is full. An answer has no second
# event within three such times: of 20 tokens a second two become one, and the loop has a quarter less to do.
_CROWDED_SPACING = 0.0002
_LONGEST_CROWDED_SPACING = 0.040
# Between two lines in the log while it is unavailable: each of thousands of sockets and runs tries again each second.
_WARN_SECONDS = 10.0
# Between two attempts to write for `check`: each costs a flush to disk, and to a locked database half a second.
_CHECK_WRITE_SECONDS = 2.0

T = TypeVar("T")


def text_gap(pieces: int) -> float:
    """Seconds from the beginning of a commit of so many pieces of text to that of the next."""
    usual = min(pieces * _TEXT_SPACING, _LONGEST_TEXT_SPACING)
    return max(usual, min(pieces * _CROWDED_SPACING, _LONGEST_CROWDED_SPACING))


class EventLog:
    """Every method but `watch` raises LogUnavailable when the database cannot do its work."""

    def __init__(self, store: Store) -> None:
        self._run_owner: RunOwner | None = None
        self._on_revoked: Callable[[str, float], None] | None = None
        self._store = store
        self._tail = Tail()
        self._watches = Watches()
        self.database = DatabaseState.OK
        """As the last operation found it."""
        self._check_write_at = self._warn_at = -math.inf
        # A line in the log says that it is unavailable.
        self._is_reported = False
        self.commits = 0
        """Transactions of this process that added something."""
        self._texts: Batches[Piece, int] = Batches(
            self._add_texts, size=TEXTS, gap_after=text_gap, separate=self._separate_texts
        )
        self._queries: Batches[EventQuery, list[Event]] = Batches(self._read_after, size=QUERIES)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    @property
    def identity(self) -> str:
        """Names the database, once it is open. A session that is not in it was erased if it was in one of this name;
        otherwise that one was lost or replaced, or this one restored."""
        return self._store.identity

    # Opening and closing ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Create or migrate the schema, and end the runs that no living process owns as `interrupted`.

        Where many processes share the log this goes on while it is open: see `attach`.

        Raises:
            UsageError: the database cannot be used at all (no permission, another process owns it, not a database).
        """
        try:
            await self._store.open(self)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Commit what is under way and release the database. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        # The store bounds each of them in time, and none is begun any more.
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._texts.settled()
        await self._queries.settled()
        await self._store.close()
        # A waiting reader would never be woken; it finds the log closed.
        self._watches.notify_all()

    async def check(self) -> None:
        """Return if the database answers (for /readyz).

        Where the last write failed, and reads do not show whether the next one would, a write is tried, once in
        `_CHECK_WRITE_SECONDS` at most: a load balancer may send no message to a backend that reports a failure.
        """
        if self.database.outlives_reads and (now := time.monotonic()) >= self._check_write_at:
            self._check_write_at = now + _CHECK_WRITE_SECONDS
            with contextlib.suppress(LogUnavailable):  # what it finds is noted
                await self._carry_out(self._store.check_write(), writes=True)
        await self._carry_out(self._store.check())

    def attach(self, owner: RunOwner) -> None:
        """Tell `owner` about the runs of this process. Comes before `open`; without it no run is taken over."""
        self._run_owner = owner

    def on_revoked(self, callback: Callable[[str, float], None]) -> None:
        """Call it with each principal whose credentials were revoked, and when. Comes before `open`."""
        self._on_revoked = callback

    # Sessions ---------------------------------------------------------------------------------------------------------

    async def find_session(self, session_id: str) -> SessionInfo | None:
        """The session, or None where there is none."""
        return await self._carry_out(self._store.find_session(session_id))

    async def session_for(self, session_id: str, patient_id: str) -> SessionInfo:
        """The session; before its first message, which alone begins it, the session as it would begin for the patient.

        The epoch given before then is final, unless another patient's message is the first, or a session that shares
        its `epoch_bucket` is erased meanwhile. A reader at seq 0 continues with the new one.

        Raises:
            Refusal: `forbidden`, when it belongs to another patient.
        """
        return await self._carry_out(self._store.session_for(session_id, patient_id))

    async def sessions(self, patient_id: str, before: ListCursor, *, limit: int) -> Sequence[SessionSummary]:
        """Up to `limit` of the patient's sessions behind `before`, the one last active first."""
        return await self._carry_out(self._store.sessions(patient_id, before, limit))

    async def now(self) -> float:
        """The time that all processes of the database have, as `time.time()` counts: their own clocks may differ."""
        return await self._carry_out(self._store.now())

    async def add_ticket(self, digest: str, ticket: Ticket, *, lifetime: float, age: float = 0.0) -> None:
        """Keep a ticket by the hash of its text, valid for so many seconds of the database's clock; its principal was
        decided about at most `age` seconds ago."""
        await self._carry_out(self._store.add_ticket(digest, ticket, lifetime, age))

    async def find_ticket(self, digest: str) -> FoundTicket | None:
        """The ticket; None where it was taken already, is too old, or was never added."""
        return await self._carry_out(self._store.find_ticket(digest))

    async def take_ticket(self, digest: str) -> bool:
        """Take the ticket, which one caller alone can; False where `find_ticket` would return None."""
        return await self._carry_out(self._store.take_ticket(digest))

    async def revoke(self, principal: str) -> float:
        """Revoke what the principal has until now, in every process that shares the log; the time of that."""
        return await self._carry_out(self._store.revoke(principal))

    async def prune(self, *, revoked_within: float) -> None:
        """Remove tickets that are not valid any more, and revocations that are older than so many seconds."""
        await self._carry_out(self._store.prune(revoked_within))

    async def delete_session(self, session_id: str, *, epoch: str | None = None) -> bool:
        """Erase the session and all its events; watchers are woken. False when there was none.

        With `epoch` only the session of that epoch: not the one that has begun under its id since.

        A very long one is erased in parts, the oldest first (`base.ERASED_AT_ONCE`).
        """
        return await self._carry_out(self._delete(session_id, epoch))

    async def expire(self, before: float, *, limit: int = 100) -> Sequence[str]:
        """Erase sessions last written to before `before`, the oldest first; watchers are woken.

        Returns the ids of up to `limit` erased ones; call again while there are so many. One with an active run stays.
        """
        return await self._carry_out(self._expire(before, limit))

    async def _delete(self, session_id: str, epoch: str | None) -> bool:
        # All but very long ones are gone with the first command: what is sent behind it begins a new session.
        while (erased := await self._store.delete_session(session_id, epoch)) is None:
            await self._thin_out(session_id, epoch)
        return erased

    async def _expire(self, before: float, limit: int) -> Sequence[str]:
        # What a message that comes meanwhile keeps from the end is the newest part; the rest had expired.
        for session_id, epoch in await self._store.long_sessions(before, limit):
            await self._thin_out(session_id, epoch)
        return await self._store.expire(before, limit)

    async def _thin_out(self, session_id: str, epoch: str | None) -> None:
        """Other commands are carried out in between, and one that fails leaves a session that can be erased again."""
        # The first event stays.
        after: int | None = 1
        while after is not None:
            after = await self._store.thin_out(session_id, epoch, after)

    # Writing ----------------------------------------------------------------------------------------------------------

    async def start_run(
        self,
        session_id: str,
        patient_id: str,
        *,
        client_msg_id: str,
        content: str,
        now: float,
        principal: str = ANONYMOUS,
        epoch: str | None = None,
        refusal: Refusal | None = None,
    ) -> Started:
        """Append `UserMessage` and `RunStarted` in one transaction; the first ones begin the session, unless an `epoch`
        says which session the message is for.

        Idempotent by (session_id, client_msg_id): the same text again gives the first outcome with `handle` None.
        With `refusal` no run is started: it is raised where one would begin, while a duplicate is still answered.

        Raises:
            Refusal: `forbidden` (another patient's), `rejected` (the id was used for another text), `not_found` (the
                session of that epoch was erased), `busy` (a run is active; a duplicate is answered before these two are
                asked).
        """
        start = Start(
            session_id,
            client_msg_id,
            now,
            refusal,
            patient_id=patient_id,
            content=content,
            principal=principal,
            epoch=epoch,
        )
        return await self._start(start)

    async def retry_run(
        self,
        session_id: str,
        *,
        run_id: str,
        client_msg_id: str,
        now: float,
        principal: str = ANONYMOUS,
        refusal: Refusal | None = None,
    ) -> Started:
        """Append `RunStarted` for the user message of `run_id`, which must have ended otherwise than with `stop`.

        Idempotent by (session_id, client_msg_id) as `start_run` is; `refusal` as there.

        Raises:
            Refusal: `not_found` (no such run), `rejected` (it ended with `stop`, or the id was used otherwise), `busy`.
        """
        return await self._start(Start(session_id, client_msg_id, now, refusal, principal=principal, retry_of=run_id))

    async def run_facts(self, run: RunHandle) -> RunFacts | None:
        """The patient and the sender of a run; None where its session was erased."""
        return await self._carry_out(self._store.run_facts(run))

    @property
    def text_spacing(self) -> float:
        """Seconds between two commits of text, now: they grow with the pieces that come at once."""
        return self._texts.gap

    def add_text(self, run: RunHandle, text: str, *, at: int | None = None) -> "asyncio.Future[int]":
        """Append `TextAdded`; its seq, once it is committed.

        `at` is the offset of `text` in the answer, see `Piece`. What is in the log already, because an attempt that
        raised LogUnavailable was committed, is not written again.

        Raises:
            RunLost: the run has ended or has another owner; stop writing.
        """
        return self._submit(Piece(run, text, at))

    def add_part(self, run: RunHandle, part: Part, *, at: int | None = None) -> "asyncio.Future[int]":
        """Append `PartAdded`; its seq, once it is committed. `at` and errors as in `add_text`.

        `part` is as `decode_part` returns.
        """
        return self._submit(Piece(run, "", at, part))

    def _submit(self, piece: Piece) -> "asyncio.Future[int]":
        try:
            # What a database cannot hold is found here, because it would fail the whole batch.
            if not piece.text.isascii():
                piece.text.encode()
            if "\0" in piece.text:
                raise ValueError("text holds NUL")
            self._refuse_when_closed()
            return self._texts.submit(piece)
        except (ValueError, LogUnavailable) as error:
            refused: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            refused.set_exception(error)
            return refused

    async def end_run(
        self,
        run: RunHandle,
        *,
        finish: Finish,
        now: float,
        text: str = "",
        at: int | None = None,
        error: RunError | None = None,
        usage: Usage | None = None,
    ) -> int:
        """Append `MessageEnded`; returns its seq.

        Its content is all the text of the run and `text`, the last piece, which gets no event of its own; `at` as in
        `add_text`. Its parts are those of the run but its status. The run's other events may be compacted away.

        Raises:
            RunLost: the run has ended already or has another owner.
        """
        return await self._carry_out(self._store.end_run(End(run, finish, now, text, at, error, usage)), writes=True)

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Have the owner of the active run, in whatever process, stop it (`RunOwner.stop_run`); otherwise nothing.

        Returns once the request is stored, if other processes could own the run: it then ends as `cancelled` also when
        its owner dies before it learns of the request. With a single process such a run ends as `interrupted`.
        """
        await self._carry_out(self._store.cancel_run(session_id, run_id))

    # Reading ----------------------------------------------------------------------------------------------------------

    async def read_after(
        self, session_id: str, seq: int, *, limit: int, epoch: str | None = None, size: int | None = None
    ) -> Sequence[Event]:
        """Up to `limit` committed events with a seq above `seq`, in order; empty when there are none.

        With `size` no more than until so many bytes of text are reached (`events.fitting`).

        With `epoch` only those of the log of that epoch: none when the session was erased, and perhaps begun again.
        A compacted range is missing; the `MessageEnded` after it closes the gap by its `from_seq`.
        """
        # Where other processes write too the tail may lag behind, but what it holds is committed, and of this epoch.
        events = None if epoch is None else self._tail.read_after(session_id, seq, limit, epoch, size)
        if events or (events is not None and self._store.exclusive):
            return events
        self._refuse_when_closed()
        return await self._queries.submit(EventQuery(session_id, seq, limit, epoch, size))

    def read_tail(self, session_id: str, seq: int, *, epoch: str) -> Sequence[Event]:
        """The next events that `read_after` would return, where they can be had at once; otherwise none."""
        return self._tail.read_after(session_id, seq, TAIL_EVENTS, epoch) or ()

    async def snapshot(self, session_id: str, *, epoch: str | None = None) -> Snapshot | None:
        """The newest rows, the active run and their position, read in one transaction.

        None: there is no such session, or it is not of `epoch`.

        At most SNAPSHOT_ROWS rows, and no more than SNAPSHOT_BYTES of text in all; but always the newest row. See
        `moorline.backend.session.newest`.
        """
        snapshot = await self._carry_out(self._store.snapshot(session_id))
        return None if snapshot and epoch is not None and snapshot.position.epoch != epoch else snapshot

    async def rows(self, session_id: str, *, before: int | None, limit: int) -> Sequence[Row]:
        """The last `limit` rows with a seq below `before` (None: the newest), in order; empty without a session."""
        return await self._carry_out(self._store.rows(session_id, before, limit))

    def watch(self, session_id: str, head: Position | None = None) -> Watch:
        """Hints that this session has grown or was erased. `head` is that of an earlier read: where nothing has come
        since, there is none."""
        if head is not None:
            # What another process wrote to the session while it had no watch may have been missed.
            self._tail.drop_behind(session_id, head)
        return self._watches.watch(session_id, head)

    # StoreOwner -------------------------------------------------------------------------------------------------------

    def committed(self, commits: Sequence[Commit]) -> None:
        """See StoreOwner.committed."""
        self.commits += bool(commits)
        for commit in commits:
            self._tail.add(commit)
        self._watches.notify(hints_of(commits))

    def changed_elsewhere(self, hints: Mapping[str, Hint]) -> None:
        """See StoreOwner.changed_elsewhere."""
        for session_id in hints:
            self._tail.drop(session_id)
        self._watches.notify(hints)

    def watched(self) -> Mapping[str, Position | None]:
        """See StoreOwner.watched."""
        return self._watches.watched()

    def revoked(self, principals: Mapping[str, float]) -> None:
        """See StoreOwner.revoked."""
        if self._on_revoked is not None:
            for principal, at in principals.items():
                self._on_revoked(principal, at)

    def stop_run(self, run_id: str) -> None:
        """See StoreOwner.stop_run."""
        if self._run_owner is not None:
            self._run_owner.stop_run(run_id)

    def adopt_run(self, started: Started) -> bool:
        """See StoreOwner.adopt_run."""
        if self._run_owner is None:
            return False
        self._run_owner.adopt_run(started)
        return True

    # Inside -----------------------------------------------------------------------------------------------------------

    def _refuse_when_closed(self) -> None:
        if self._closing is not None:
            raise LogUnavailable("the log is closed")

    def _carry_out(self, operation: Coroutine[Any, Any, T], *, writes: bool = False) -> "asyncio.Future[T]":
        """Await the result: the operation is carried out to its end also when its caller is cancelled."""
        return asyncio.shield(self._begin(operation, writes=writes))

    def _begin(self, operation: Coroutine[Any, Any, T], *, writes: bool = False) -> "asyncio.Task[T]":
        if self._closing is not None:
            operation.close()
            raise LogUnavailable("the log is closed")
        task = asyncio.create_task(operation)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._noted(task, writes=writes)
        return task

    def _done(self, writes: bool, future: "asyncio.Future[Any]") -> None:  # noqa: FBT001 - bound by `_noted`
        if not future.cancelled():
            # Retrieved here, as a cancelled caller does not.
            self._note(future.exception(), writes=writes)

    def _noted(self, future: "asyncio.Future[T]", *, writes: bool) -> "asyncio.Future[T]":
        future.add_done_callback(functools.partial(self._done, writes))
        return future

    def _note(self, error: BaseException | None, *, writes: bool) -> None:
        if isinstance(error, LogUnavailable):
            self.database = error.state
            self._report(error)
        elif writes or not self.database.outlives_reads:
            self.database = DatabaseState.OK
            if self._is_reported:
                self._is_reported = False
                log.info("event log restored")

    def _report(self, error: LogUnavailable) -> None:
        if (now := time.monotonic()) >= self._warn_at:
            self._warn_at, self._is_reported = now + _WARN_SECONDS, True
            log.warning("event log unavailable: %s", error)

    async def _start(self, start: Start) -> Started:
        """A caller that is cancelled meanwhile never gets the handle, and the session would stay busy: then the run is
        ended here."""
        starting = self._begin(self._store.start_run(start), writes=True)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._end_abandoned)
            raise

    def _end_abandoned(self, starting: "asyncio.Task[Started]") -> None:
        if starting.cancelled() or starting.exception() is not None:
            return
        handle = starting.result().handle
        if handle is not None:
            # Once the log is closed, the next process to open it finds the run without an owner.
            with contextlib.suppress(LogUnavailable):
                self._begin(self._store.end_run(End(handle, Finish.INTERRUPTED, time.time())))

    def _read_after(self, queries: Sequence[EventQuery]) -> "asyncio.Future[Sequence[list[Event] | Exception]]":
        return self._noted(asyncio.ensure_future(self._store.read_after(queries)), writes=False)

    def _add_texts(self, pieces: Sequence[Piece]) -> "asyncio.Future[Sequence[int | Exception]]":
        return self._noted(self._store.add_texts(pieces), writes=True)

    def _separate_texts(
        self, pieces: Sequence[Piece], error: BaseException
    ) -> "asyncio.Future[Sequence[int | Exception]] | None":
        if len(pieces) == 1 or not (isinstance(error, LogUnavailable) and error.separable):
            return None
        return asyncio.ensure_future(self._one_by_one(pieces))

    async def _one_by_one(self, pieces: Sequence[Piece]) -> Sequence[int | Exception]:
        return await asyncio.gather(*(self._add_alone(piece) for piece in pieces))

    async def _add_alone(self, piece: Piece) -> int | Exception:
        try:
            return (await self._store.add_texts([piece]))[0]
        except Exception as error:
            return error
