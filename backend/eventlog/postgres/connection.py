"""Connections to PostgreSQL: few and shared, each answer bounded in time, psycopg's errors as LogUnavailable.

psycopg's own pool hides an outage: its callers wait for their timeout while it reconnects with growing pauses. Here a
caller that finds no idle connection opens one, and so learns at once that the database is unavailable, or restored.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from moorline.backend.eventlog.base import DatabaseState, LogUnavailable
from moorline.backend.settings import shown_database
from moorline.gateway.common.errors import UsageError

__all__ = [
    "NOW",
    "Connection",
    "Pool",
    "Timing",
    "bounded",
    "connect",
    "connect_first",
    "first_line",
    "translated",
    "unencrypted_hosts",
]

log = logging.getLogger("moorline.backend")

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]

#: The database's clock in SQL, as `time.time()` counts: the one clock that all backends have.
NOW = "extract(epoch FROM clock_timestamp())::double precision"
#: libpq takes nothing below 2 seconds for what it calls connect_timeout.
CONNECT_SECONDS = 3
#: Between two attempts to reach a database that is not there when the program starts.
RETRY_SECONDS = 0.5
# Errors of a statement that one of its rows alone may have caused: lock_timeout, statement_timeout, deadlock.
_SEPARABLE = ("55P03", "57014", "40P01")
# Refusals (FATAL) of a server that accepts connections a little later; any other refusal is final.
_TRANSIENT = ("starting up", "shutting down", "recovery", "too many clients", "connection slots")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. `lease` must be well above `poll`, at which it is renewed, and above `answer`."""

    #: After so long without a renewal an owner of runs is considered dead.
    lease: float = 15.0
    #: Between two polls: how late an event may be whose notification was lost, and a run whose owner has released it.
    poll: float = 1.0
    #: A statement that takes longer has failed. A process that is stopped during one holds its locks no longer.
    answer: float = 5.0
    #: How long `open` waits for a database that is starting itself.
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
        # Detects a peer that has vanished, also while nothing is sent.
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
    )
    try:
        async with bounded(connection, timing.answer):
            # The server's timeouts expire before ours, so that a slow statement costs no connection.
            below = int(timing.answer * 800)
            await connection.execute(
                f"SET search_path = moorline; SET lock_timeout = {below}; SET statement_timeout = {below};"
                f" SET idle_in_transaction_session_timeout = {below};"
                # With `off` a crash could lose commits that were acknowledged.
                " SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
    except BaseException:
        await connection.close()
        raise
    return connection


def unencrypted_hosts(url: str, environ: Mapping[str, str]) -> list[str]:
    """The remote hosts in the address to which libpq may connect without TLS. Raises psycopg.ProgrammingError."""
    given = conninfo_to_dict(url)
    if str(given.get("sslmode") or environ.get("PGSSLMODE") or "prefer") not in ("disable", "allow", "prefer"):
        return []
    hosts = str(given.get("host") or given.get("hostaddr") or environ.get("PGHOST") or environ.get("PGHOSTADDR") or "")
    return [host for host in hosts.split(",") if host and not _is_local(host)]


def _is_local(host: str) -> bool:
    if host.startswith(("/", "@")):  # a Unix socket
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def connect_first(url: str, timing: Timing) -> Connection:
    """The first connection; waits for a database that is starting.

    Raises:
        UsageError: it cannot be used, or not within `timing.start`.
    """
    try:
        unencrypted = unencrypted_hosts(url, os.environ)
    except psycopg.ProgrammingError:
        # Not libpq's own message: it may quote the address, and with it the password.
        raise UsageError(
            f'database: "{shown_database(url)}" is not an address that PostgreSQL understands; '
            "write for example postgresql://user@host:5432/name"
        ) from None
    for host in unencrypted:
        log.warning(
            "database: the connection to %s may be unencrypted; add sslmode=verify-full (or require) to the address",
            host,
        )
    loop = asyncio.get_running_loop()
    deadline, logged = loop.time() + timing.start, False
    while True:
        try:
            return await connect(url, timing)
        except psycopg.Error as error:
            line = first_line(error)
            final = "FATAL" in line and not any(word in line for word in _TRANSIENT)
            if final or loop.time() >= deadline:
                raise UsageError(f'database: "{shown_database(url)}" cannot be used ({line})') from error
            if not logged:
                log.warning("database: %s; waiting for it", line)
                logged = True
            await asyncio.sleep(RETRY_SECONDS)


@contextlib.asynccontextmanager
async def bounded(connection: Connection, seconds: float) -> AsyncIterator[None]:
    """Shut `connection` down when the block takes longer: psycopg then raises at once.

    Cancelling the task would make psycopg ask the server to stop, on a new connection, which a stalled server ignores.
    """
    alarm = asyncio.get_running_loop().call_later(seconds, _shut_down, connection)
    try:
        yield
    finally:
        alarm.cancel()


def _shut_down(connection: Connection) -> None:
    with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as handle:
        handle.shutdown(socket.SHUT_RDWR)


# disk_full; read_only_sql_transaction; lock_not_available, deadlock_detected, query_canceled by a time limit.
_STATES = {
    "53100": DatabaseState.FULL,
    "25006": DatabaseState.READ_ONLY,
    "55P03": DatabaseState.LOCKED,
    "40P01": DatabaseState.LOCKED,
    "57014": DatabaseState.LOCKED,
}


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """psycopg's errors as LogUnavailable, except that a value which PostgreSQL cannot store is the caller's error."""
    try:
        yield
    except psycopg.DataError:
        raise
    except psycopg.Error as error:
        state = _state(error)
        raise LogUnavailable(first_line(error), separable=error.sqlstate in _SEPARABLE, state=state) from error


def _state(error: psycopg.Error) -> DatabaseState:
    if error.sqlstate is None or error.sqlstate.startswith(("08", "57P")):
        # No answer, or one that ended the connection.
        return DatabaseState.DOWN
    return _STATES.get(error.sqlstate, DatabaseState.FAILED)


def first_line(error: Exception) -> str:
    """The first line of the message. The lines after it may quote data: ids, texts."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Pool:
    """Up to `size` connections, opened when they are needed."""

    def __init__(self, url: str, timing: Timing, *, size: int) -> None:
        self._url = url
        self._timing = timing
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Connection] = []

    async def run(self, work: Callable[[Connection, int], Awaitable[T]]) -> T:
        """Do `work` on a connection. If an idle connection breaks, `work` is done once more on a new one.

        `work` gets the number of the attempt, 0 or 1: a first one whose connection broke may have been committed.

        Raises:
            LogUnavailable: the database or a free connection could not be had in time, or `work` failed.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timing.answer):
                await self._slots.acquire()
        except TimeoutError:
            raise LogUnavailable("all connections to the database are in use") from None
        try:
            with translated():
                attempt = 0
                if self._idle:
                    connection, began = self._idle.pop(), loop.time()
                    try:
                        return await self._attempt(connection, work, attempt)
                    except psycopg.OperationalError:
                        if not connection.closed or loop.time() - began >= self._timing.answer:
                            raise
                        # The database was restarted, so the other idle connections are broken too.
                        await self.close()
                        attempt = 1
                return await self._attempt(await connect(self._url, self._timing), work, attempt)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Close the idle connections. One in use is closed, or made idle, by its user."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def _attempt(
        self, connection: Connection, work: Callable[[Connection, int], Awaitable[T]], attempt: int
    ) -> T:
        try:
            async with bounded(connection, self._timing.answer):
                return await work(connection, attempt)
        finally:
            if connection.info.transaction_status is TransactionStatus.IDLE:
                self._idle.append(connection)
            else:
                await connection.close()
