"""The log's store in one SQLite file, for one process."""

import functools
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

from moorline.backend.eventlog.base import LogUnavailable, StoreOwner
from moorline.backend.eventlog.sqlite import read, write
from moorline.backend.eventlog.sqlite.committer import Committer, Transaction
from moorline.backend.eventlog.sqlite.connection import connect
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
        self.committer: Committer

    async def open(self, owner: StoreOwner) -> None:
        """Lock the file, and end the runs that an earlier process has left. None is taken over."""
        self._owner = owner
        self.committer = Committer(functools.partial(connect, self._path), owner.committed)
        await self.committer.start()
        now = time.time()
        try:
            ended = await self.committer.submit(lambda tx: write.end_orphans(tx, now))
        except LogUnavailable as error:
            raise UsageError(f'database: "{self._path}" cannot be used ({error}); is its disk full?') from error
        if ended:
            log.info("recovered orphaned runs: 0 resumed, %d interrupted", ended)

    async def close(self) -> None:
        """Commit what is queued and close the file."""
        await self.committer.stop()

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Stop the run, if it is active. It is of this process, so nothing is stored."""
        session = await self.find_session(session_id)
        if session is not None and session.active_run_id == run_id:
            self._owner.stop_run(run_id)

    check = _command(read.check)
    find_session = _command(read.find_session)
    sessions = _command(read.sessions)
    session_for = _command(read.session_for)
    read_after = _command(read.read_after)
    snapshot = _command(read.snapshot)
    rows = _command(read.rows)
    run_facts = _command(read.run_facts)
    delete_session = _command(write.delete_session)
    expire = _command(write.expire)
    start_run = _command(write.start_run)
    add_texts = _command(add_texts)
    end_run = _command(write.end_run)
