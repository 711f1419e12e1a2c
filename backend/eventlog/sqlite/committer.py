"""Group commit: one thread owns the connection, takes the commands that wait, and commits them together.

A commit costs a flush to disk, a command microseconds. So while one batch is being flushed the next gathers, and the
number of flushes does not grow with the number of writers. Each command has its savepoint: one that fails takes nobody
with it. A command once queued is run, whether or not its caller still waits.
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.events import Event

__all__ = ["Committer", "Growth", "Transaction"]

#: Commands in one transaction; bounds how long the first of them waits for the last.
MAX_BATCH = 1000
#: Commands that wait, beyond which the log says that it is unavailable. Runs await each append, so each waits once.
MAX_QUEUED = 20_000

log = logging.getLogger("moorline.backend")

T = TypeVar("T")

#: A session, its epoch and a committed event of it, or None: the session was erased.
Growth = tuple[str, str, Event | None]


@dataclass(slots=True)
class Transaction:
    """What a command works on: the connection, and the list of what readers shall see after the commit."""

    db: sqlite3.Connection
    growth: list[Growth] = field(default_factory=list)


Command = Callable[[Transaction], Any]
Outcome = tuple[Any, Exception | None]
_Queued = tuple[Command, "asyncio.Future[Any]"]


class Committer:
    """Runs commands from one event loop on one connection.

    `on_commit` is called in the loop after each commit, before any caller wakes.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], on_commit: Callable[[list[Growth]], None]) -> None:
        self._connect = connect
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()
        self._queued = 0
        self._open = False
        self._ended: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Start the thread and open the connection; raises what `connect` raises."""
        self._loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = self._loop.create_future()
        self._ended = self._loop.create_future()
        # A daemon: a flush that hangs in the kernel must not keep the process from ending.
        threading.Thread(target=self._work, args=(started,), name="moorline-log", daemon=True).start()
        self._open = True
        try:
            await asyncio.shield(started)
        except Exception:
            self._open = False
            raise

    async def stop(self) -> None:
        """Commit what is queued and close the connection. Idempotent."""
        if self._open:
            self._open = False
            self._queue.put(None)
        if self._ended is not None:
            # The shield: whoever gives up waiting must not take the end from the others who wait.
            await asyncio.shield(self._ended)

    def submit(self, command: Callable[[Transaction], T]) -> "asyncio.Future[T]":
        """Queue a command; the future is answered after its commit.

        Raises:
            LogUnavailable: closed, or too many commands wait.
        """
        if not self._open or self._loop is None:
            raise LogUnavailable("the log is closed")
        if self._queued >= MAX_QUEUED:
            raise LogUnavailable("too many commands wait for the disk")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queued += 1
        self._queue.put((command, future))
        return future

    # In the loop ------------------------------------------------------------------------------------------------------

    def _deliver(self, batch: list[_Queued], outcomes: Sequence[Outcome], growth: list[Growth]) -> None:
        self._queued -= len(batch)
        self._on_commit(growth)
        for (_, future), (value, error) in zip(batch, outcomes, strict=True):
            if future.done():  # cancelled: the caller went away, the command did not
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    # In the thread ----------------------------------------------------------------------------------------------------

    def _work(self, started: "asyncio.Future[None]") -> None:
        try:
            db = self._connect()
        except Exception as error:
            self._call(_fail, started, error)
        else:
            self._call(_answer, started)
            self._serve(db)
            with contextlib.suppress(sqlite3.Error):
                db.close()
        if self._ended is not None:
            self._call(_answer, self._ended)

    def _serve(self, db: sqlite3.Connection) -> None:
        stopping = False
        while not stopping:
            batch: list[_Queued] = []
            item = self._queue.get()
            while True:
                if item is None:
                    stopping = True
                    break
                batch.append(item)
                if len(batch) == MAX_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            outcomes, growth = run_batch(db, [command for command, _ in batch])
            if any(event is None for _, _, event in growth):
                _empty_journal(db)
            self._call(self._deliver, batch, outcomes, growth)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                self._loop.call_soon_threadsafe(function, *args)


def run_batch(db: sqlite3.Connection, commands: Sequence[Command]) -> tuple[list[Outcome], list[Growth]]:
    """Run `commands` in one transaction; where that fails as a whole, each in one of its own."""
    tx = Transaction(db)
    try:
        # Not IMMEDIATE: nobody else has the file, and what only reads need not fail where nothing can be written.
        db.execute("BEGIN")
        outcomes = [_run_one(tx, command) for command in commands]
        db.execute("COMMIT")
    except Exception as error:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        if len(commands) == 1:
            return [(None, _translated(error))], []
        # A full disk undoes the whole transaction. Reads, and writes that still fit, must not fail with the others.
        parts = [run_batch(db, [command]) for command in commands]
        return [outcome for outcomes, _ in parts for outcome in outcomes], [g for _, growth in parts for g in growth]
    return outcomes, tx.growth


def _empty_journal(db: sqlite3.Connection) -> None:
    """Erased text stands in the write-ahead file until that is written anew, which may take weeks."""
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        log.warning("database: what was erased stays in the journal for now: %s", error)


def _run_one(tx: Transaction, command: Command) -> Outcome:
    mark = len(tx.growth)
    tx.db.execute("SAVEPOINT command")
    try:
        value = command(tx)
    except Exception as error:
        if not tx.db.in_transaction:  # SQLite undid everything
            raise
        tx.db.execute("ROLLBACK TO command")
        tx.db.execute("RELEASE command")
        del tx.growth[mark:]
        return None, _translated(error)
    tx.db.execute("RELEASE command")
    return value, None


def _translated(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    log.warning("database: %s", error)
    unavailable = LogUnavailable(str(error))
    unavailable.__cause__ = error
    return unavailable


def _answer(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: "asyncio.Future[None]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
