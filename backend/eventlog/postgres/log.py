"""The event log in PostgreSQL, for many processes: the contract of `base.py` over `postgres_process.py`.

What is written is in `postgres_starts.py`, `postgres_appends.py`, `postgres_endings.py` and `postgres_commands.py`;
what is read in `postgres_queries.py`. `postgres_keeper.py` and `postgres_hints.py` are how processes know each other.
"""

import functools
import time
from collections.abc import Callable, Sequence

from moorline.backend.errors import Refusal
from moorline.backend.eventlog.base import Hint, RunHandle, RunOwner, SessionInfo, Started, Watch
from moorline.backend.eventlog.postgres import read as queries
from moorline.backend.eventlog.postgres import write as commands
from moorline.backend.eventlog.postgres.appends import Append
from moorline.backend.eventlog.postgres.connection import Connection, Timing
from moorline.backend.eventlog.postgres.endings import Ending
from moorline.backend.eventlog.postgres.process import Process
from moorline.backend.eventlog.postgres.starts import Start
from moorline.backend.eventlog.watches import Watches
from moorline.backend.events import Event, Finish, Row, RunError, Snapshot, Usage

__all__ = ["PostgresLog"]


class PostgresLog:
    """An `EventLog` in the database at `url`, which other processes use at the same time.

    `hints=False` neither gives nor takes any: then everything arrives within a poll.
    """

    def __init__(self, url: str, *, pool_size: int = 10, timing: Timing | None = None, hints: bool = True) -> None:
        self._watches = Watches()
        self._owner: RunOwner | None = None
        self._process: Process | None = None
        self._new: Callable[[], Process] = lambda: Process(
            url,
            pool_size=pool_size,
            timing=timing or Timing(),
            hints=hints,
            watches=self._watches,
            owner=lambda: self._owner,
            clock=time.time,
        )

    # Opening and closing ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """See EventLog.open."""
        # Before its start: a run that it takes over then is read and written at once.
        process = self._process = self._new()
        try:
            await process.start()
        except BaseException:
            self._process = None
            await process.stop()
            raise

    async def close(self) -> None:
        """See EventLog.close."""
        if self._process is not None:
            await self._process.stop()
        self._watches.ring_all()

    async def check(self) -> None:
        """See EventLog.check."""
        await self._here.read(_check)

    def attach(self, owner: RunOwner) -> None:
        """See EventLog.attach."""
        self._owner = owner

    # Sessions ---------------------------------------------------------------------------------------------------------

    async def find_session(self, session_id: str) -> SessionInfo | None:
        """See EventLog.find_session."""
        return await self._here.read(functools.partial(queries.find_session, session_id=session_id))

    async def open_session(self, session_id: str, patient_id: str, *, now: float) -> SessionInfo:
        """See EventLog.open_session."""
        return await self._here.read(lambda db: commands.open_session(db, session_id, patient_id, now))

    async def delete_session(self, session_id: str) -> bool:
        """See EventLog.delete_session."""
        return await self._here.write(lambda db: commands.delete_session(db, session_id))

    async def expire(self, before: float, *, limit: int = 100) -> Sequence[str]:
        """See EventLog.expire."""
        return await self._here.write(lambda db: commands.expire(db, before, limit))

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
        return await self._here.begin_run(
            Start(session_id, client_msg_id, now, refusal, patient_id=patient_id, content=content)
        )

    async def retry_run(
        self, session_id: str, *, run_id: str, client_msg_id: str, now: float, refusal: Refusal | None = None
    ) -> Started:
        """See EventLog.retry_run."""
        return await self._here.begin_run(Start(session_id, client_msg_id, now, refusal, retry_of=run_id))

    async def add_text(self, run: RunHandle, text: str, *, at: int | None = None) -> int:
        """See EventLog.add_text."""
        return await self._here.add_text(Append(run, text, at))

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
        return await self._here.end_run(Ending(run, finish, now, text, at, error, usage))

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """See EventLog.cancel_run."""
        process = self._here
        if await process.read(lambda db: commands.cancel_run(db, session_id, run_id)):
            # The owner is this process or another.
            process.look()
            process.announce({session_id: Hint.GROWN})

    # Reading ----------------------------------------------------------------------------------------------------------

    async def read_after(self, session_id: str, seq: int, *, limit: int, epoch: str | None = None) -> Sequence[Event]:
        """See EventLog.read_after."""
        return await self._here.read_after(queries.Reading(session_id, seq, limit, epoch))

    async def snapshot(self, session_id: str) -> Snapshot | None:
        """See EventLog.snapshot."""
        return await self._here.read(functools.partial(queries.snapshot, session_id=session_id))

    async def rows(self, session_id: str, *, before: int | None, limit: int) -> Sequence[Row]:
        """See EventLog.rows."""
        return await self._here.read(lambda db: queries.rows(db, session_id, before, limit))

    def watch(self, session_id: str) -> Watch:
        """See EventLog.watch."""
        return self._watches.watch(session_id)

    # Inside -----------------------------------------------------------------------------------------------------------

    @property
    def _here(self) -> Process:
        if self._process is None:
            raise RuntimeError("open() comes first")
        return self._process


async def _check(db: Connection) -> None:
    await db.execute("SELECT 1")
