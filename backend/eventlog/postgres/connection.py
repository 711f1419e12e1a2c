"""Connections to PostgreSQL: few and shared, each answer bounded in time, psycopg's errors turned into ours.

psycopg's own pool hides an outage: its callers wait for their timeout while it reconnects with growing pauses. Here who
finds no connection makes one, and so learns at once that there is no database, and at once when it is back.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.settings import shown_database
from moorline.gateway.common.errors import UsageError
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

__all__ = ["Connection", "Pool", "Timing", "bounded", "connect", "connect_first", "first_line", "translated"]

log = logging.getLogger("moorline.backend")

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

#: libpq takes nothing below 2 seconds for what it calls connect_timeout.
CONNECT_SECONDS = 3
#: Between two attempts to reach a database that is not there when the program starts.
RETRY_SECONDS = 0.5
# What a server says that will let us in a little later; everything else that it refuses stays refused.
_PASSING = ("starting up", "shutting down", "recovery", "too many clients", "connection slots")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. `lease` must be well above `poll`, at which it is renewed, and above `answer`."""

    #: An owner of runs that was not heard of for so long is taken for dead.
    lease: float = 15.0
    #: How late an event may be whose hint was lost, and a run whose owner let go of it.
    poll: float = 1.0
    #: A statement that takes longer has failed. An owner that stops in the middle of one holds its locks no longer.
    answer: float = 5.0
    #: How long `open` waits for a database that is only starting itself.
    start: float = 20.0


async def connect(url: str, timing: Timing) -> Connection:
    """A connection whose statements commit by themselves.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    connection: Connection = await psycopg.AsyncConnection.connect(
        url,
        autocommit=True,
        client_encoding="utf8",
        connect_timeout=CONNECT_SECONDS,
        application_name="moorline",
        # A peer that vanished without a word is found out even where nothing is sent.
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
    )
    try:
        async with bounded(connection, timing.answer):
            # The server gives up before we do, so that a slow statement costs no connection.
            below = int(timing.answer * 800)
            await connection.execute(
                f"SET search_path = moorline; SET lock_timeout = {below}; SET statement_timeout = {below};"
                f" SET idle_in_transaction_session_timeout = {below};"
                # `off` would let a crash take commits that were acknowledged.
                " SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
    except BaseException:
        await connection.close()
        raise
    return connection


async def connect_first(url: str, timing: Timing) -> Connection:
    """The first connection; a database that is only starting is waited for.

    Raises:
        UsageError: it cannot be used, or not within `timing.start`.
    """
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        # Not libpq's own words: they may quote the address, and with it the password.
        raise UsageError(
            f'database: "{shown_database(url)}" is not an address that PostgreSQL understands; '
            "write for example postgresql://user:password@host:5432/name"
        ) from None
    loop = asyncio.get_running_loop()
    deadline, told = loop.time() + timing.start, False
    while True:
        try:
            return await connect(url, timing)
        except psycopg.Error as error:
            line = first_line(error)
            final = "FATAL" in line and not any(word in line for word in _PASSING)
            if final or loop.time() >= deadline:
                raise UsageError(f'database: "{shown_database(url)}" cannot be used ({line})') from error
            if not told:
                log.warning("database: %s; waiting for it", line)
                told = True
            await asyncio.sleep(RETRY_SECONDS)


@contextlib.asynccontextmanager
async def bounded(connection: Connection, seconds: float) -> AsyncIterator[None]:
    """Cut `connection` off when what is done inside takes longer: psycopg then raises at once.

    Cancelling would first ask the server to stop, on a new connection; a server that does not answer would not do that.
    """
    alarm = asyncio.get_running_loop().call_later(seconds, _sever, connection)
    try:
        yield
    finally:
        alarm.cancel()


def _sever(connection: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """psycopg's errors as LogUnavailable; what no text of PostgreSQL's can hold stays a fault of the caller."""
    try:
        yield
    except psycopg.DataError:
        raise
    except psycopg.Error as error:
        raise LogUnavailable(first_line(error)) from error


def first_line(error: Exception) -> str:
    """What happened. The lines behind the first one may quote data: ids, texts."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Pool:
    """Up to `size` connections, made when they are needed."""

    def __init__(self, url: str, timing: Timing, *, size: int) -> None:
        self._url = url
        self._timing = timing
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Do `work` on a connection. Where it breaks `work` is done once more, on a new one: it must bear that.

        Raises:
            LogUnavailable: the database or a free connection was not to be had, or the work failed there.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timing.answer):
                await self._slots.acquire()
        except TimeoutError:
            raise LogUnavailable("all connections to the database are in use") from None
        try:
            with translated():
                if self._idle:
                    connection, began = self._idle.pop(), loop.time()
                    try:
                        return await self._attempt(connection, work)
                    except psycopg.OperationalError:
                        if not connection.closed or loop.time() - began >= self._timing.answer:
                            raise
                        # The database was restarted, and the others are as dead.
                        await self.close()
                return await self._attempt(await connect(self._url, self._timing), work)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Close what is idle; what is in use is closed by whoever uses it, or is the pool's again."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _attempt(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            async with bounded(connection, self._timing.answer):
                return await work(connection)
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                await connection.close()
