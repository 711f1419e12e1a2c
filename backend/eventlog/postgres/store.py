"""The log's store in PostgreSQL, for one of the processes that share the database."""

import asyncio
import contextlib
import functools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import psycopg

from moorline.backend.eventlog.base import End, Hint, Piece, RunLost, Start, Started, StoreOwner
from moorline.backend.eventlog.postgres import read, revocations, tickets, write
from moorline.backend.eventlog.postgres.connection import (
    Connection,
    Pool,
    Timing,
    connect,
    connect_first,
    first_line,
    translated,
)
from moorline.backend.eventlog.postgres.lease import LeaseTask, Orphan
from moorline.backend.eventlog.postgres.notify import Notifier
from moorline.backend.eventlog.postgres.schema import migrate
from moorline.backend.eventlog.watches import hints_of
from moorline.backend.events import Finish
from moorline.backend.settings import shown_database
from moorline.gateway.common.errors import UsageError

__all__ = ["PostgresStore"]

log = logging.getLogger("moorline.backend")

P = ParamSpec("P")
T = TypeVar("T")


def _read(
    function: Callable[Concatenate[Connection, P], Awaitable[T]],
) -> "Callable[Concatenate[PostgresStore, P], Coroutine[Any, Any, T]]":
    """The method that runs `function` on a connection of the pool."""

    async def method(store: "PostgresStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store.pool.run(lambda db, attempt: function(db, *args, **kwargs))

    return method


def _write(
    function: Callable[Concatenate[Connection, P], Awaitable[write.Written[T]]],
) -> "Callable[Concatenate[PostgresStore, P], Coroutine[Any, Any, T]]":
    """As `_read`, and reports what was committed."""

    async def method(store: "PostgresStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store.write(lambda db, attempt: function(db, *args, **kwargs))

    return method


class PostgresStore:
    """A `Store` in the database at `url`, which other processes use at the same time.

    With `notifications=False` changes of other processes are noticed by polling alone.
    """

    exclusive = False

    def __init__(
        self, url: str, *, pool_size: int = 10, timing: Timing | None = None, notifications: bool = True
    ) -> None:
        self._url = url
        self._timing = timing = timing or Timing()
        self._notifications = notifications
        self._owner: StoreOwner
        self._name = secrets.token_hex(16)
        #: The own runs: the session of each, and whether the database has confirmed its begin.
        self._runs: dict[str, tuple[str, bool]] = {}
        self._connect = functools.partial(connect, url, timing)
        self.pool = Pool(url, timing, size=pool_size)
        self.notifier = Notifier(
            self._connect, self._name, timing, on_notification=self._notified, on_gap=lambda: self.lease.poll()
        )
        self.lease: LeaseTask
        self.identity: str

    async def open(self, owner: StoreOwner) -> None:
        """Connect, migrate, take the lease, and take over or end the runs whose owner is gone."""
        self._owner = owner
        self.lease = LeaseTask(self._connect, self._name, self._timing, runs=self, owner=owner, notifier=self.notifier)
        name = shown_database(self._url)
        connection = await connect_first(self._url, self._timing)
        try:
            self.identity = await migrate(connection, name)
        except psycopg.Error as error:
            raise UsageError(f'database: "{name}" cannot be used ({first_line(error)})') from error
        finally:
            await connection.close()
        with translated():
            await self.lease.start()
        if self._notifications:
            self.notifier.start()

    async def close(self) -> None:
        """Release the lease and close all connections."""
        await self.lease.stop()
        await self.notifier.stop()
        await self.pool.close()

    # Reads and writes -------------------------------------------------------------------------------------------------

    check = _read(read.check)
    check_write = _read(write.check_write)
    now = _read(read.now)
    find_session = _read(read.find_session)
    sessions = _read(read.sessions)
    # No reader of the log waits for them.
    add_ticket = _read(tickets.add_ticket)
    find_ticket = _read(tickets.find_ticket)
    take_ticket = _read(tickets.take_ticket)
    session_for = _read(read.session_for)
    read_after = _read(read.read_after)
    snapshot = _read(read.snapshot)
    rows = _read(read.rows)
    run_facts = _read(read.run_facts)
    long_sessions = _read(write.long_sessions)
    # Readers are told when the session is erased.
    thin_out = _read(write.thin_out)
    delete_session = _write(write.delete_session)
    expire = _write(write.expire)

    async def revoke(self, principal: str) -> float:
        """See Store.revoke. The other processes find it at their next poll."""
        at = await self.pool.run(lambda db, attempt: revocations.revoke(db, principal))
        self._owner.revoked({principal: at})
        return at

    async def prune(self, revoked_within: float) -> None:
        """See Store.prune."""

        async def work(db: Connection, _: int) -> None:
            await tickets.prune(db)
            await revocations.prune(db, revoked_within)

        await self.pool.run(work)

    async def write(self, work: Callable[[Connection, int], Awaitable[write.Written[T]]]) -> T:
        """Run `work`, and tell the log, the lease task and the other processes what it has committed."""
        value, commits = await self.pool.run(work)
        for session_id, epoch, event in commits:
            self.lease.committed(session_id, None if event is None else (epoch, event.seq))
        self._owner.committed(commits)
        self.notifier.notify(hints_of(commits))
        if any(commit.event is None for commit in commits):
            self.lease.check_own()
        return value

    # Runs -------------------------------------------------------------------------------------------------------------

    async def start_run(self, start: Start) -> Started:
        """See Store.start_run."""
        self._runs[start.run_id] = (start.session_id, False)
        started = None
        try:
            started = await self.write(lambda db, attempt: write.start_run(db, start, self._name))
        finally:
            if started is None or started.handle is None:
                # If the result was lost the run may have begun nevertheless: the lease task finds and recovers it.
                del self._runs[start.run_id]
            else:
                self._runs[start.run_id] = (start.session_id, True)
        return started

    def add_texts(self, pieces: Sequence[Piece]) -> "asyncio.Future[Sequence[int | Exception]]":
        """See Store.add_texts."""
        return asyncio.ensure_future(self._add_texts(pieces))

    async def _add_texts(self, pieces: Sequence[Piece]) -> Sequence[int | Exception]:
        outcomes = await self.write(lambda db, attempt: write.add_texts(db, pieces, attempt))
        for piece, outcome in zip(pieces, outcomes, strict=True):
            if isinstance(outcome, RunLost):
                self._runs.pop(piece.run.run_id, None)
        return outcomes

    async def end_run(self, end: End) -> int:
        """See Store.end_run."""
        try:
            seq = await self.write(lambda db, attempt: write.end_run(db, end, attempt))
        except RunLost:
            self._runs.pop(end.run.run_id, None)
            raise
        self._runs.pop(end.run.run_id, None)
        return seq

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Store the request. The owner, this process or another one, finds it."""
        if await self.write(lambda db, attempt: write.request_cancel(db, session_id, run_id)):
            self.lease.check_own()
            self.notifier.notify({session_id: Hint.GROWN})

    # Recovery ---------------------------------------------------------------------------------------------------------

    def own_runs(self) -> Mapping[str, bool]:
        """See lease.RunOwner."""
        return {run_id: confirmed for run_id, (_, confirmed) in self._runs.items()}

    async def recover(self, orphans: Sequence[Orphan]) -> None:
        """See lease.RunOwner."""
        resumed = sum(await asyncio.gather(*(self._recover(orphan) for orphan in orphans)))
        log.info("recovered orphaned runs: %d resumed, %d interrupted", resumed, len(orphans) - resumed)

    async def _recover(self, orphan: Orphan) -> bool:
        """Resume it (True), or end it."""
        handle = orphan.handle
        if orphan.fresh and not orphan.cancelled:
            self._runs[handle.run_id] = (handle.session_id, True)
            if self._owner.adopt_run(Started(orphan.user_seq, handle.run_id, handle)):
                return True
        finish = Finish.CANCELLED if orphan.cancelled else Finish.INTERRUPTED
        with contextlib.suppress(RunLost):
            await self.end_run(End(handle, finish, time.time()))
        return False

    def _notified(self, hints: Mapping[str, Hint]) -> None:
        self.lease.notified(hints)
        self._owner.changed_elsewhere(hints)
        # During a run only its owner writes to the session: another process has cancelled it, or has taken it over.
        if any(session_id in hints for session_id, _ in self._runs.values()):
            self.lease.check_own()
