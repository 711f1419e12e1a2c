"""The event log in one SQLite file, for one process: the contract of `base.py` over `committer.py`."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Sequence
from typing import TypeVar

from moorline.backend.errors import Refusal
from moorline.backend.eventlog.base import LogUnavailable, RunHandle, RunLost, RunOwner, SessionInfo, Started, Watch
from moorline.backend.eventlog.batches import Batches
from moorline.backend.eventlog.sqlite import read as queries
from moorline.backend.eventlog.sqlite import write as commands
from moorline.backend.eventlog.sqlite.committer import Committer, Growth, Transaction
from moorline.backend.eventlog.sqlite.connection import connect
from moorline.backend.eventlog.sqlite.texts import Piece, add_texts
from moorline.backend.eventlog.tail import Tail
from moorline.backend.eventlog.watches import Watches, hints_of
from moorline.backend.events import Event, Finish, Row, RunError, Snapshot, Usage
from moorline.gateway.common.errors import UsageError

__all__ = ["SQLiteLog"]

log = logging.getLogger("moorline.backend")

#: Pieces of text in one command.
TEXTS = 1000

T = TypeVar("T")


class SQLiteLog:
    """An `EventLog` in the file at `path`, which it holds alone from `open` to `close`."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._watches = Watches()
        self._tail = Tail()
        self._committer: Committer | None = None
        self._texts: Batches[Piece, int] = Batches(self._add_texts, size=TEXTS)
        self._owner: RunOwner | None = None

    # Opening and closing ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See EventLog.open."""
        self._tail = Tail()  # between close and open the file may have changed
        self._committer = Committer(functools.partial(connect, self._path), self._committed)
        await self._committer.start()
        now = time.time()
        try:
            ended = await self._committer.submit(lambda tx: commands.end_orphans(tx, now))
        except LogUnavailable as error:
            await self._committer.stop()
            raise UsageError(f'database: "{self._path}" cannot be used ({error}); is its disk full?') from error
        if ended:
            log.info("database: %d unfinished answers of an earlier process ended as interrupted", ended)

    async def close(self) -> None:
        """See EventLog.close."""
        await self._texts.settled()
        if self._committer is not None:
            await self._committer.stop()
        self._watches.ring_all()

    async def check(self) -> None:
        """See EventLog.check."""
        await self._queue.submit(_check)

    def attach(self, owner: RunOwner) -> None:
        """See EventLog.attach. All runs are of this process, so `open` finds none to take over that it could answer."""
        self._owner = owner

    # Sessions ---------------------------------------------------------------------------------------------------------

    async def find_session(self, session_id: str) -> SessionInfo | None:
        """See EventLog.find_session."""
        return await self._queue.submit(lambda tx: queries.find_session(tx, session_id))

    async def open_session(self, session_id: str, patient_id: str, *, now: float) -> SessionInfo:
        """See EventLog.open_session."""
        return await self._queue.submit(lambda tx: commands.open_session(tx, session_id, patient_id, now))

    async def delete_session(self, session_id: str) -> bool:
        """See EventLog.delete_session."""
        return await self._queue.submit(lambda tx: commands.delete_session(tx, session_id))

    async def expire(self, before: float, *, limit: int = 100) -> Sequence[str]:
        """See EventLog.expire."""
        return await self._queue.submit(lambda tx: commands.expire(tx, before, limit))

    # Writing ----------------------------------------------------------------------------------------------------------

    async def start_run(
        self,
        session_id: str,
        patient_id: str,
        *,
        client_msg_id: str,
        content: str,
        now: float,
        refusal: Refusal | None = None,
    ) -> Started:
        """See EventLog.start_run."""
        return await self._owned(
            self._queue.submit(
                lambda tx: commands.start_run(tx, session_id, patient_id, client_msg_id, content, now, refusal)
            ),
            now,
        )

    async def retry_run(
        self, session_id: str, *, run_id: str, client_msg_id: str, now: float, refusal: Refusal | None = None
    ) -> Started:
        """See EventLog.retry_run."""
        return await self._owned(
            self._queue.submit(lambda tx: commands.retry_run(tx, session_id, run_id, client_msg_id, now, refusal)), now
        )

    async def add_text(self, run: RunHandle, text: str, *, at: int | None = None) -> int:
        """See EventLog.add_text."""
        # What the database cannot hold is found here, as it would fail all that is written with it.
        text.encode()
        if "\0" in text:
            raise ValueError("text holds NUL")
        return await self._texts.submit(Piece(run, text, at))

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
        """See EventLog.end_run."""
        return await self._queue.submit(lambda tx: commands.end_run(tx, run, finish, now, text, at, error, usage))

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """See EventLog.cancel_run. A process that dies takes the wish along: its runs end as `interrupted`."""
        session = await self.find_session(session_id)
        if self._owner is not None and session is not None and session.active_run_id == run_id:
            self._owner.stop_run(run_id)

    # Reading ----------------------------------------------------------------------------------------------------------

    async def read_after(self, session_id: str, seq: int, *, limit: int, epoch: str | None = None) -> Sequence[Event]:
        """See EventLog.read_after."""
        events = self._tail.read_after(session_id, seq, limit, epoch)
        if events is None:
            events = await self._queue.submit(lambda tx: queries.read_after(tx, session_id, seq, limit, epoch))
        return events

    async def snapshot(self, session_id: str) -> Snapshot | None:
        """See EventLog.snapshot."""
        return await self._queue.submit(lambda tx: queries.snapshot(tx, session_id))

    async def rows(self, session_id: str, *, before: int | None, limit: int) -> Sequence[Row]:
        """See EventLog.rows."""
        return await self._queue.submit(lambda tx: queries.rows(tx, session_id, before, limit))

    def watch(self, session_id: str) -> Watch:
        """See EventLog.watch."""
        return self._watches.watch(session_id)

    # Inside -----------------------------------------------------------------------------------------------------------

    @property
    def _queue(self) -> Committer:
        if self._committer is None:
            raise RuntimeError("open() comes first")
        return self._committer

    async def _add_texts(self, pieces: Sequence[Piece]) -> Sequence[int | Exception]:
        try:
            return await self._queue.submit(lambda tx: add_texts(tx, pieces))
        except LogUnavailable:
            if len(pieces) == 1:
                raise
        # On a disk that is almost full some may fit where all do not.
        return [await self._add_alone(piece) for piece in pieces]

    async def _add_alone(self, piece: Piece) -> int | Exception:
        try:
            return (await self._add_texts([piece]))[0]
        except LogUnavailable as error:
            return error

    def _committed(self, growth: list[Growth]) -> None:
        for session_id, epoch, event in growth:
            self._tail.add(session_id, epoch, event)
        self._watches.ring(hints_of(growth))

    async def _owned(self, started: "asyncio.Future[Started]", now: float) -> Started:
        """Wait for a new run. A caller that is cancelled meanwhile never gets the handle, so nobody could end the run
        and its session would stay busy: then it is ended here."""
        try:
            return await asyncio.shield(started)
        except asyncio.CancelledError:
            started.add_done_callback(functools.partial(self._abandoned, now=now))
            raise

    def _abandoned(self, started: "asyncio.Future[Started]", *, now: float) -> None:
        if started.cancelled() or started.exception() is not None or self._committer is None:
            return
        handle = started.result().handle
        if handle is not None:
            # Where the log is closed meanwhile, the next open() ends the run.
            with contextlib.suppress(LogUnavailable):
                ending = self._committer.submit(
                    lambda tx: commands.end_run(tx, handle, Finish.INTERRUPTED, now, "", None, None, None)
                )
                ending.add_done_callback(_forget)


def _check(tx: Transaction) -> None:
    tx.db.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def _forget(ending: "asyncio.Future[int]") -> None:
    error = None if ending.cancelled() else ending.exception()
    if error is not None and not isinstance(error, RunLost):
        log.warning("database: an abandoned run could not be ended: %s", error)
