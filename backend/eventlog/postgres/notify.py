"""LISTEN and NOTIFY tell the other processes which sessions have changed. A lost notification costs a poll, no more.

A NOTIFY is a statement of its own after the commit it tells of: as a part of it, it would serialise all commits of the
database. While one is under way the next gathers; it needs no durability, so it waits for no flush.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

import psycopg

from moorline.backend.eventlog.base import Hint
from moorline.backend.eventlog.postgres.connection import Connection, Timing, bounded, first_line
from moorline.backend.eventlog.watches import add_hint

__all__ = ["Notifier"]

log = logging.getLogger("moorline.backend")

CHANNEL = "moorline"
#: PostgreSQL takes less than 8000 bytes.
PAYLOAD_BYTES = 7900
#: Sessions that wait to be told of, while there is no connection for it; the polls find the others.
MAX_PENDING = 10_000
#: A connection that has received nothing for so long is tested.
SILENCE_SECONDS = 10.0
#: Precedes the id of a session that was erased; no id contains it.
ERASED = "!"


class Notifier:
    """Two connections of its own, to listen and to notify, so that neither waits for the other or for a pool."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        name: str,
        timing: Timing,
        *,
        on_notification: Callable[[Mapping[str, Hint]], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._name = name
        self._timing = timing
        self._on_notification = on_notification
        self._on_gap = on_gap
        self._pending: dict[str, Hint] = {}
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        #: No other process has a lease, as far as is known: then nothing is sent.
        self.sole_process = False

    def start(self) -> None:
        """Listen and notify from now on. Until then nothing is sent or received."""
        self._tasks = [asyncio.create_task(self._kept(self._listen)), asyncio.create_task(self._kept(self._send))]

    async def stop(self) -> None:
        """Close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def notify(self, hints: Mapping[str, Hint]) -> None:
        """Tell the other processes that these sessions have changed."""
        if self._tasks and not self.sole_process:
            for session_id, hint in hints.items():
                if len(self._pending) < MAX_PENDING:
                    add_hint(self._pending, session_id, hint)
            self._wanted.set()

    # The tasks --------------------------------------------------------------------------------------------------------

    async def _kept(self, use: Callable[[Connection], Awaitable[None]]) -> None:
        """Run `use` on a connection, and on a new one when that breaks, until cancelled."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError):
                connection = await self._connect()
                try:
                    await use(connection)
                except psycopg.Error as error:
                    log.debug("database: notifications: %s", first_line(error))
                finally:
                    await connection.close()
            await asyncio.sleep(self._timing.poll)

    async def _listen(self, connection: Connection) -> None:
        await connection.execute(f"LISTEN {CHANNEL}")
        # A process that considers itself the only one learns that another listens; what it wrote before, a poll finds.
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._name))
        self._on_gap()
        while True:
            async for notice in connection.notifies(timeout=SILENCE_SECONDS):
                name, *marked = notice.payload.split("\n")
                if name != self._name:
                    self.sole_process = False
                    self._on_notification(dict(map(_parse, marked)))
            async with bounded(connection, self._timing.answer):
                await connection.execute("SELECT 1")

    async def _send(self, connection: Connection) -> None:
        await connection.execute("SET synchronous_commit = off")
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            payloads, self._pending = list(self._payloads()), {}
            if payloads:
                async with bounded(connection, self._timing.answer):
                    await connection.execute(
                        "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) payload", (CHANNEL, payloads)
                    )

    def _payloads(self) -> Iterable[str]:
        payload = self._name
        for session_id, hint in self._pending.items():
            marked = ERASED + session_id if hint is Hint.ERASED else session_id
            if len(payload) + 1 + len(marked) > PAYLOAD_BYTES:
                yield payload
                payload = self._name
            payload += "\n" + marked
        if payload != self._name:
            yield payload


def _parse(marked: str) -> tuple[str, Hint]:
    session_id = marked.removeprefix(ERASED)
    return session_id, Hint.GROWN if session_id == marked else Hint.ERASED
