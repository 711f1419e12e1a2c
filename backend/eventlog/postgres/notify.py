"""LISTEN and NOTIFY: which sessions have grown, told to the other processes. A hint that is lost costs a poll, no more.

A NOTIFY is a statement of its own behind the commit it tells of: inside, it would serialise all commits of the
database. While one is under way the next gathers; and as a hint needs no durability, it waits for no flush.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping

import psycopg
from moorline.backend.eventlog.base import Hint
from moorline.backend.eventlog.postgres.connection import Connection, Timing, bounded
from moorline.backend.eventlog.watches import add_hint

__all__ = ["Hints"]

log = logging.getLogger("moorline.backend")

CHANNEL = "moorline"
#: PostgreSQL takes less than 8000 bytes.
PAYLOAD_BYTES = 7900
#: A connection on which nothing was heard for so long is tried.
SILENCE_SECONDS = 10.0
#: Before the id of a session that was erased; no id holds it.
ERASED = "!"


class Hints:
    """Two connections of its own, one to listen and one to speak, so that neither waits for the other or for a pool."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        name: str,
        timing: Timing,
        *,
        on_hint: Callable[[dict[str, Hint]], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._name = name
        self._timing = timing
        self._on_hint = on_hint
        self._on_gap = on_gap
        self._pending: dict[str, Hint] = {}
        self._spoken_to = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        #: Nobody else listens, as far as is known: then nothing is said.
        self.alone = False

    def start(self) -> None:
        """Listen and speak from now on."""
        self._tasks = [asyncio.create_task(self._kept(self._listen)), asyncio.create_task(self._kept(self._speak))]

    async def stop(self) -> None:
        """Let go of the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def announce(self, hints: Mapping[str, Hint]) -> None:
        """Tell the other processes what became of these sessions."""
        if not self.alone:
            for session_id, hint in hints.items():
                add_hint(self._pending, session_id, hint)
            self._spoken_to.set()

    # The tasks --------------------------------------------------------------------------------------------------------

    async def _kept(self, use: Callable[[Connection], Awaitable[None]]) -> None:
        """Do `use` on a connection, for ever, and on a new one when that breaks."""
        while True:
            with contextlib.suppress(psycopg.Error, OSError):
                connection = await self._connect()
                try:
                    await use(connection)
                except psycopg.Error as error:
                    log.debug("database: hints: %s", error)
                finally:
                    await connection.close()
            await asyncio.sleep(self._timing.poll)

    async def _listen(self, connection: Connection) -> None:
        await connection.execute(f"LISTEN {CHANNEL}")
        # Whoever thought to be alone learns that somebody listens now; what was said before, a poll finds.
        await connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, self._name))
        self._on_gap()
        while True:
            async for notice in connection.notifies(timeout=SILENCE_SECONDS):
                name, *marked = notice.payload.split("\n")
                if name != self._name:
                    self.alone = False
                    self._on_hint(dict(map(_parse, marked)))
            async with bounded(connection, self._timing.answer):
                await connection.execute("SELECT 1")

    async def _speak(self, connection: Connection) -> None:
        await connection.execute("SET synchronous_commit = off")
        while True:
            await self._spoken_to.wait()
            self._spoken_to.clear()
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
