"""What sockets cost the database while nothing is written."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection

from tests.support.backends import STEP, Script, backend, hello, receive_until, say

# A Pong is due within half of it, on two busy cores.
HEARTBEAT = 0.8
# More than two polls of PostgreSQL.
PINGS = 3


class Statements:
    """All that this process has executed, and on which connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._seen: list[tuple[int, str]] = []
        connect, execute = sqlite3.connect, psycopg.AsyncCursor.execute

        def traced(*args: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **options)
            connection.set_trace_callback(lambda text: self._seen.append((id(connection), text)))
            return connection

        async def noted(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
            self._seen.append((id(cursor.connection), str(query)))
            return await execute(cursor, query, *args, **options)

        monkeypatch.setattr(sqlite3, "connect", traced)
        monkeypatch.setattr(psycopg.AsyncCursor, "execute", noted)

    def of_chats(self) -> list[str]:
        """Those for sessions; a process on PostgreSQL has connections of its own for its lease and its hints."""
        own = {on for on, text in self._seen if any(word in text for word in ("INTO owners", "LISTEN", "pg_notify"))}
        return [text for on, text in self._seen if on not in own]


async def pings(socket: ClientConnection) -> None:
    for _ in range(PINGS):
        await receive_until(socket, "ping")


async def test_idle_sockets_cost_no_statement(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = Statements(monkeypatch)
    async with (
        backend(tmp_path, Script("Good ", None), database=database, heartbeat=HEARTBEAT, v1_ping=HEARTBEAT) as server,
        server.socket() as writer,
        server.socket() as reader,
        server.socket("s2") as empty,
        server.socket("s3") as listening,
    ):
        for socket in (writer, reader, empty):
            await hello(socket)
        await say(writer, type="send", message="Hi", client_msg_id="c1")
        await receive_until(reader, "message")
        async with asyncio.timeout(2 * STEP):
            while True:
                before = len(statements.of_chats())
                await asyncio.gather(*map(pings, (writer, reader, empty, listening)))
                if len(statements.of_chats()) == before:
                    break
        assert before > 0
