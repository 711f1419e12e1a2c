"""One process among those that share the log: its connections, its runs, what it tells its readers and the others."""

import asyncio
import contextlib
import functools
import logging
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from moorline.backend.eventlog.base import Hint, LogUnavailable, RunLost, RunOwner, Started
from moorline.backend.eventlog.batches import Batches
from moorline.backend.eventlog.postgres import read as queries
from moorline.backend.eventlog.postgres.appends import Append, Appends
from moorline.backend.eventlog.postgres.connection import (
    Connection,
    Pool,
    Timing,
    connect,
    connect_first,
    first_line,
    translated,
)
from moorline.backend.eventlog.postgres.endings import Ending, end_run
from moorline.backend.eventlog.postgres.lease import Keeper, Listener, Orphan
from moorline.backend.eventlog.postgres.notify import Hints
from moorline.backend.eventlog.postgres.schema import migrate
from moorline.backend.eventlog.postgres.starts import Start, start_run
from moorline.backend.eventlog.sqlite.committer import Growth
from moorline.backend.eventlog.tail import Tail
from moorline.backend.eventlog.watches import Watches, hints_of
from moorline.backend.events import Event, Finish
from moorline.backend.settings import shown_database
from moorline.gateway.common.errors import UsageError

__all__ = ["Process"]

log = logging.getLogger("moorline.backend")

T = TypeVar("T")

#: Readers in one statement.
READINGS = 64


class Process:
    """From `start` to `stop`."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        timing: Timing,
        hints: bool,
        watches: Watches,
        owner: Callable[[], RunOwner | None],
        clock: Callable[[], float],
    ) -> None:
        self.name = secrets.token_hex(16)
        self.tail = Tail()
        self._url = url
        self._timing = timing
        self._watches = watches
        self._owner = owner
        self._clock = clock
        self._pool = Pool(url, timing, size=pool_size)
        #: Our runs: the session of each, and whether we know that it has begun.
        self._runs: dict[str, tuple[str, bool]] = {}
        self._appends = Appends(self._write)
        self._readings: Batches[queries.Reading, list[Event]] = Batches(self._read, size=READINGS)
        new = functools.partial(connect, url, timing)
        self._keeper = Keeper(new, self.name, timing, self._listener())
        self._hints = Hints(new, self.name, timing, on_hint=self._hinted, on_gap=self._keeper.poll) if hints else None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping: asyncio.Task[None] | None = None

    def _listener(self) -> Listener:
        return Listener(
            confirmed=lambda: {run_id for run_id, (_, confirmed) in self._runs.items() if confirmed},
            begun=lambda: list(self._runs),
            watched=self._watches.watched,
            on_stop=self._lost,
            on_orphans=self._take,
            on_growth=self._grown,
            on_alone=self._alone,
        )

    # Starting and stopping --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See EventLog.open."""
        name = shown_database(self._url)
        connection = await connect_first(self._url, self._timing)
        try:
            await migrate(connection, name)
        except psycopg.Error as error:
            raise UsageError(f'database: "{name}" cannot be used ({first_line(error)})') from error
        finally:
            await connection.close()
        with translated():
            await self._keeper.start()
        if self._hints is not None:
            self._hints.start()

    async def stop(self) -> None:
        """Finish what is under way and let go of everything. Idempotent."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        # Each is bounded by Timing.answer, and none is begun any more.
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        await self._appends.settled()
        await self._readings.settled()
        await self._keeper.stop()
        if self._hints is not None:
            await self._hints.stop()
        await self._pool.close()

    # Statements -------------------------------------------------------------------------------------------------------

    async def read(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Carry out `work`, which may be done twice."""
        return await asyncio.shield(self._begin(self._pool.run(work)))

    async def write(self, work: Callable[[Connection], Awaitable[tuple[T, list[Growth]]]]) -> T:
        """As `read`, and tell readers what was committed. Carried out also when its caller leaves."""
        return await asyncio.shield(self._begin(self._write(work)))

    async def read_after(self, reading: queries.Reading) -> Sequence[Event]:
        """See EventLog.read_after."""
        if reading.epoch is not None:
            # It may lag behind, so what it does not have says nothing; what it has is of that epoch, and committed.
            events = self.tail.read_after(reading.session_id, reading.seq, reading.limit, reading.epoch)
            if events:
                return events
        self._refuse_when_stopping()
        return await self._readings.submit(reading)

    async def begin_run(self, start: Start) -> Started:
        """See EventLog.start_run. A caller that is cancelled meanwhile never gets the handle: the run is ended here."""
        starting = self._begin(self._start(start))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(self._abandoned)
            raise

    async def add_text(self, piece: Append) -> int:
        """See EventLog.add_text."""
        self._refuse_when_stopping()
        try:
            return await self._appends.submit(piece)
        except RunLost:
            self._runs.pop(piece.run.run_id, None)
            raise

    async def end_run(self, ending: Ending) -> int:
        """See EventLog.end_run."""
        return await asyncio.shield(self._begin(self._end(ending)))

    def look(self) -> None:
        """One of our runs was cancelled, or is lost."""
        self._keeper.look()

    def announce(self, hints: Mapping[str, Hint]) -> None:
        """Give these to the other processes."""
        if self._hints is not None:
            self._hints.announce(hints)

    # Inside -----------------------------------------------------------------------------------------------------------

    def _refuse_when_stopping(self) -> None:
        if self._stopping is not None:
            raise LogUnavailable("the log is closed")

    def _begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        if self._stopping is not None:
            work.close()
            raise LogUnavailable("the log is closed")
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have left; then nobody else asks

    async def _write(self, work: Callable[[Connection], Awaitable[tuple[T, list[Growth]]]]) -> T:
        value, growth = await self._pool.run(work)
        self._committed(growth)
        return value

    async def _start(self, start: Start) -> Started:
        self._runs[start.run_id] = (start.session_id, False)
        started = None
        try:
            started = await self._write(lambda db: start_run(db, start, self.name))
        finally:
            if started is None or started.handle is None:
                # Where the answer never came it may have begun all the same: the keeper finds and adopts it.
                del self._runs[start.run_id]
            else:
                self._runs[start.run_id] = (start.session_id, True)
        return started

    def _abandoned(self, starting: "asyncio.Task[Started]") -> None:
        if starting.cancelled() or starting.exception() is not None:
            return
        handle = starting.result().handle
        if handle is not None:
            # Where the log is closed meanwhile, others find the run without an owner.
            with contextlib.suppress(LogUnavailable):
                self._begin(self._end(Ending(handle, Finish.INTERRUPTED, self._clock())))

    async def _end(self, ending: Ending) -> int:
        attempts = iter((False, True))
        try:
            seq = await self._write(lambda db: end_run(db, ending, again=next(attempts)))
        except RunLost:
            self._runs.pop(ending.run.run_id, None)
            raise
        self._runs.pop(ending.run.run_id, None)
        return seq

    async def _read(self, readings: Sequence[queries.Reading]) -> Sequence[list[Event] | Exception]:
        return await self._pool.run(lambda db: queries.read_after(db, readings))

    # What has happened ------------------------------------------------------------------------------------------------

    def _committed(self, growth: list[Growth]) -> None:
        for session_id, epoch, event in growth:
            self.tail.add(session_id, epoch, event)
            self._keeper.grown(session_id, None if event is None else (epoch, event.seq))
        hints = hints_of(growth)
        self._watches.ring(hints)
        self.announce(hints)
        if Hint.ERASED in hints.values():
            self._keeper.look()

    def _grown(self, hints: Mapping[str, Hint]) -> None:
        """Others have written to these, or erased them."""
        for session_id in hints:
            self.tail.drop(session_id)
        self._watches.ring(hints)

    def _hinted(self, hints: Mapping[str, Hint]) -> None:
        self._grown(hints)
        # While a run is active only its owner writes to the session: from others it is a cancel, or worse.
        if any(session_id in hints for session_id, _ in self._runs.values()):
            self._keeper.look()

    def _alone(self, alone: bool) -> None:  # noqa: FBT001
        if self._hints is not None:
            self._hints.alone = alone

    def _lost(self, run_id: str) -> None:
        owner = self._owner()
        if owner is not None:
            owner.stop_run(run_id)

    async def _take(self, orphans: Sequence[Orphan]) -> None:
        ended = sum(await asyncio.gather(*(self._take_one(orphan) for orphan in orphans)))
        log.info(
            "database: of runs whose process is gone %d are taken over, %d have ended", len(orphans) - ended, ended
        )

    async def _take_one(self, orphan: Orphan) -> bool:
        """Adopt it, or end it (True)."""
        owner, handle = self._owner(), orphan.handle
        if owner is not None and orphan.fresh and not orphan.cancelled:
            self._runs[handle.run_id] = (handle.session_id, True)
            owner.adopt_run(Started(orphan.user_seq, handle.run_id, handle))
            return False
        finish = Finish.CANCELLED if orphan.cancelled else Finish.INTERRUPTED
        with contextlib.suppress(RunLost):
            await self._end(Ending(handle, finish, self._clock(), at=orphan.written))
        return True
