"""Group commit: one thread owns the connection, takes the commands that wait, and commits them together.

A commit costs a flush to disk, a command microseconds. So while one batch is being flushed the next gathers, and the
number of flushes does not grow with the number of writers. Each command has its savepoint: one that fails undoes no
other. A command once queued is run, whether or not its caller still waits.
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from moorline.backend.eventlog.base import Commit, DatabaseState, LogUnavailable
from moorline.backend.eventlog.sqlite.journal import Journal
from moorline.backend.eventlog.sqlite.recent import Recent

__all__ = ["Committer", "Stepwise", "Transaction", "run_batch"]

#: Commands in one transaction; bounds how long the first of them waits for the last.
MAX_BATCH = 1000
#: Commands that wait, above which the log is unavailable. Runs await each append, so each has one here.
MAX_QUEUED = 20_000

log = logging.getLogger("moorline.backend")

T = TypeVar("T")


@dataclass(slots=True)
class Transaction:
    """What a command works on: the connection, and the list of what readers see after the commit."""

    _db: sqlite3.Connection
    _recent: Recent = field(default_factory=Recent)
    begun: bool = True
    commits: list[Commit] = field(default_factory=list)

    @property
    def db(self) -> sqlite3.Connection:
        """For statements, which begin the transaction."""
        if not self.begun:
            # Not IMMEDIATE: no other process has the file, and what only reads must not fail on a read-only disk.
            self._db.execute("BEGIN")
            self.begun = True
        return self._db

    def execute_alone(self, statement: str, *arguments: object) -> None:
        """Execute a statement that is the whole transaction where none has begun: SQLite then commits it by itself.

        For each call of sqlite3 the thread gives up the interpreter's lock, and waits for it afterwards.
        """
        self._db.execute(statement, arguments)

    @property
    def recent(self) -> Recent:
        """The text that is not in `events` yet."""
        if not self._recent.is_read:
            self._recent.read(self.db)
        return self._recent

    def state(self) -> tuple[int, int]:
        """For `rolled_back`."""
        return self._recent.changes, len(self.commits)

    def rolled_back(self, state: tuple[int, int]) -> None:
        """Undo in memory what came since `state`."""
        changes, commits = state
        self._recent.rolled_back(changes)
        del self.commits[commits:]


Command = Callable[[Transaction], Any]
Outcome = tuple[Any, Exception | None]
_Queued = tuple[Command, "asyncio.Future[Any]"]
#: Work in steps, outside of any transaction; it calls what it is given between two of them.
Stepwise = Callable[[sqlite3.Connection, Callable[[], None]], T]


class _Steps(NamedTuple):
    work: Stepwise[Any]
    future: "asyncio.Future[Any]"


class Committer:
    """Runs commands from one event loop on one connection.

    `on_commit` is called in the loop after each commit, before any caller wakes.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        on_commit: Callable[[list[Commit]], None],
        journal: Journal,
    ) -> None:
        self._connect = connect
        self._journal = journal
        self._on_commit = on_commit
        self._queue: queue.SimpleQueue[_Queued | _Steps | None] = queue.SimpleQueue()
        self._queued = 0
        # Of the connection, so that all transactions share it.
        self._recent = Recent()
        self._open = False
        self._stopping = False
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
            # Shielded: a caller that is cancelled must not cancel the future for the others that wait.
            await asyncio.shield(self._ended)

    def submit(self, command: Callable[[Transaction], T]) -> "asyncio.Future[T]":
        """Queue a command; the future is answered after its commit. LogUnavailable where the log is closed or too many
        commands wait.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if not self._open:
            future.set_exception(LogUnavailable("the log is closed"))
        elif self._queued >= MAX_QUEUED:
            future.set_exception(LogUnavailable("too many commands wait for the disk"))
        else:
            self._queued += 1
            self._queue.put((command, future))
        return future

    def submit_steps(self, work: Stepwise[T]) -> "asyncio.Future[T]":
        """Queue work that takes long, one at a time: between its steps it has the commands committed that wait.

        Raises:
            LogUnavailable: closed.
        """
        if not self._open or self._loop is None:
            raise LogUnavailable("the log is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Steps(work, future))
        return future

    # In the loop ------------------------------------------------------------------------------------------------------

    def _deliver(self, batch: list[_Queued], outcomes: Sequence[Outcome], commits: list[Commit]) -> None:
        self._queued -= len(batch)
        self._on_commit(commits)
        for (_, future), (value, error) in zip(batch, outcomes, strict=True):
            if future.done():  # its caller was cancelled
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
        while not self._stopping:
            self._take(db, self._queue.get())

    def _take(self, db: sqlite3.Connection, item: _Queued | _Steps | None) -> None:
        """Commit `item`, and what waits behind it and fits into the same transaction."""
        batch: list[_Queued] = []
        while item is not None and not isinstance(item, _Steps):
            batch.append(item)
            # No other thread takes from it.
            if len(batch) == MAX_BATCH or self._queue.empty():
                break
            item = self._queue.get_nowait()
        if batch:
            outcomes, commits = run_batch(db, [command for command, _ in batch], self._recent)
            if [commit for commit in commits if commit.event is None]:
                self._journal.truncate(db)
            self._call(self._deliver, batch, outcomes, commits)
            if commits and item is not None and self._queue.empty():
                self._journal.lengthen()
        if item is None:
            self._stopping = True
        elif isinstance(item, _Steps):
            self._take_steps(db, item)

    def _take_steps(self, db: sqlite3.Connection, steps: _Steps) -> None:
        try:
            value = steps.work(db, lambda: self._between(db))
        except Exception as error:
            self._call(_fail, steps.future, _translated(error))
        else:
            self._call(_answer, steps.future, value)

    def _between(self, db: sqlite3.Connection) -> None:
        with contextlib.suppress(queue.Empty):
            self._take(db, self._queue.get_nowait())
        if self._stopping:
            raise LogUnavailable("the log is closed")

    def _call(self, function: Callable[..., object], *args: object) -> None:
        if self._loop is not None:
            try:  # noqa: SIM105 - `suppress` is three calls, for which each commit waits
                self._loop.call_soon_threadsafe(function, *args)
            except RuntimeError:  # the loop is closed, and no caller waits
                pass


def run_batch(
    db: sqlite3.Connection, commands: Sequence[Command], recent: Recent
) -> tuple[list[Outcome], list[Commit]]:
    """Run `commands` in one transaction; where that fails as a whole, each in one of its own."""
    tx = Transaction(db, recent, begun=False)
    before = tx.state()
    try:
        # One that is alone needs no savepoint: what it undoes is the transaction.
        outcomes: list[Outcome]
        outcomes = [(commands[0](tx), None)] if len(commands) == 1 else [_run_one(tx, command) for command in commands]
        if tx.begun:
            db.execute("COMMIT")
    except Exception as error:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        tx.rolled_back(before)
        if len(commands) == 1:
            return [(None, _translated(error))], []
        # A full disk undoes the whole transaction. Reads, and writes that still fit, must not fail with the others.
        parts = [run_batch(db, [command], recent) for command in commands]
        return [part for outcomes, _ in parts for part in outcomes], [part for _, commits in parts for part in commits]
    return outcomes, tx.commits


def _run_one(tx: Transaction, command: Command) -> Outcome:
    before = tx.state()
    tx.db.execute("SAVEPOINT command")
    try:
        value = command(tx)
    except Exception as error:
        if not tx.db.in_transaction:  # SQLite rolled back the whole transaction
            raise
        tx.db.execute("ROLLBACK TO command")
        tx.db.execute("RELEASE command")
        tx.rolled_back(before)
        return None, _translated(error)
    tx.db.execute("RELEASE command")
    return value, None


_STATES = {
    sqlite3.SQLITE_FULL: DatabaseState.FULL,
    sqlite3.SQLITE_READONLY: DatabaseState.READ_ONLY,
    sqlite3.SQLITE_BUSY: DatabaseState.LOCKED,
    sqlite3.SQLITE_LOCKED: DatabaseState.LOCKED,
    sqlite3.SQLITE_CANTOPEN: DatabaseState.DOWN,
}


def _state(error: sqlite3.Error) -> DatabaseState:
    # The low byte is the primary code.
    return _STATES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, DatabaseState.FAILED)


def _translated(error: Exception) -> Exception:
    if not isinstance(error, sqlite3.Error):
        return error
    log.debug("database: %s", error)
    # On a disk that is almost full some pieces of text may fit where all of them do not.
    unavailable = LogUnavailable(str(error), separable=True, state=_state(error))
    unavailable.__cause__ = error
    return unavailable


def _answer(future: "asyncio.Future[Any]", value: object = None) -> None:
    if not future.done():
        future.set_result(value)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
