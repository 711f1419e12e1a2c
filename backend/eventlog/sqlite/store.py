"""The log's store in one SQLite file, for one process."""

import asyncio
import functools
import logging
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar

from moorline.backend.eventlog.base import LogUnavailable, Piece, StoreOwner
from moorline.backend.eventlog.sqlite import read, revocations, tickets, write
from moorline.backend.eventlog.sqlite.committer import Committer, Transaction
from moorline.backend.eventlog.sqlite.connection import connect
from moorline.backend.eventlog.sqlite.control import ControlSocket
from moorline.backend.eventlog.sqlite.copies import copy, remove_leftovers
from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog
from moorline.backend.eventlog.sqlite.journal import Journal
from moorline.backend.eventlog.sqlite.texts import add_texts
from moorline.gateway.common.errors import UsageError

__all__ = ["SQLiteStore"]

log = logging.getLogger("moorline.backend")

P = ParamSpec("P")
T = TypeVar("T")


def _command(
    function: Callable[Concatenate[Transaction, P], T],
) -> "Callable[Concatenate[SQLiteStore, P], Coroutine[Any, Any, T]]":
    """The method that runs `function` in a transaction, in the thread that owns the file."""

    async def method(store: "SQLiteStore", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await store.committer.submit(lambda tx: function(tx, *args, **kwargs))

    return method


class SQLiteStore:
    """A `Store` in the file at `path`, which is locked from `open` to `close`."""

    exclusive = True

    def __init__(self, path: str) -> None:
        self._path = path
        self._owner: StoreOwner
        self._erasures = ErasureLog(path)
        self._control: ControlSocket | None = None
        self.committer: Committer
        self.identity: str

    async def open(self, owner: StoreOwner) -> None:
        """Lock the file, and end the runs that an earlier process has left. None is taken over."""
        self._owner = owner
        connected = functools.partial(connect, self._path, self._erasures)
        self.committer = Committer(connected, owner.committed, Journal(self._path))
        await self.committer.start()
        remove_leftovers(self._path)
        now = time.time()
        try:
            ended = await self.committer.submit(lambda tx: write.end_orphans(tx, now))
        except LogUnavailable as error:
            raise UsageError(f'database: "{self._path}" cannot be used ({error}); is its disk full?') from error
        self.identity = await self.committer.submit(read.identity)
        if ended:
            log.info("recovered orphaned runs: 0 resumed, %d interrupted", ended)
        owner.revoked(await self.committer.submit(revocations.revocations))
        self._control = ControlSocket(self._path, self.copy, self.revoke)
        self._control.open()

    async def close(self) -> None:
        """Commit what is queued and close the file."""
        if self._control is not None:
            await self._control.close()
        await self.committer.stop()

    async def copy(self) -> BinaryIO:
        """A copy of the database as it is when the copy is complete; see `copies.py`."""
        started = time.monotonic()
        file = await self.committer.submit_steps(lambda db, between: copy(db, self._path, between))
        size = os.fstat(file.fileno()).st_size
        log.info("database: copied %d bytes for a backup in %.1f s", size, time.monotonic() - started)
        return file

    async def revoke(self, principal: str) -> float:
        """See Store.revoke."""
        at = await self.committer.submit(lambda tx: revocations.revoke(tx, principal))
        self._owner.revoked({principal: at})
        return at

    def add_texts(self, pieces: Sequence[Piece]) -> "asyncio.Future[Sequence[int | Exception]]":
        """See Store.add_texts."""
        return self.committer.submit(lambda tx: add_texts(tx, pieces))

    async def prune(self, revoked_within: float) -> None:
        """See Store.prune."""

        def command(tx: Transaction) -> None:
            tickets.prune(tx)
            revocations.prune(tx, revoked_within)

        await self.committer.submit(command)

    async def now(self) -> float:
        """See Store.now: there is no other process."""
        return time.time()

    async def delete_session(self, session_id: str, epoch: str | None) -> bool | None:
        """See Store.delete_session."""
        return await self.committer.submit(lambda tx: write.delete_session(tx, session_id, epoch, self._erasures))

    async def expire(self, before: float, limit: int) -> Sequence[str]:
        """See Store.expire."""
        return await self.committer.submit(lambda tx: write.expire(tx, before, limit, self._erasures))

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Stop the run, if it is active. It is of this process, so nothing is stored."""
        session = await self.find_session(session_id)
        if session is not None and session.active_run_id == run_id:
            self._owner.stop_run(run_id)

    check = _command(read.check)
    check_write = _command(write.check_write)
    find_session = _command(read.find_session)
    sessions = _command(read.sessions)
    add_ticket = _command(tickets.add_ticket)
    find_ticket = _command(tickets.find_ticket)
    take_ticket = _command(tickets.take_ticket)
    session_for = _command(read.session_for)
    read_after = _command(read.read_after)
    snapshot = _command(read.snapshot)
    rows = _command(read.rows)
    run_facts = _command(read.run_facts)
    long_sessions = _command(write.long_sessions)
    thin_out = _command(write.thin_out)
    start_run = _command(write.start_run)
    end_run = _command(write.end_run)
