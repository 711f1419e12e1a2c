"""A network between a browser and a server: it passes what it is given until a test breaks it.

async with network(gateway.url) as between:
    await page.goto(between.url)
    between.silence()
    between.heal()
"""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

__all__ = ["Network", "network"]


class _Link:
    """One connection through the network, and which of its directions still work."""

    def __init__(self, client: StreamWriter, server: StreamWriter) -> None:
        self.up = self.down = True
        self._client = client
        self._server = server

    def reset(self) -> None:
        self._client.transport.abort()
        self._server.transport.abort()


class Network:
    """Connections of before a fault stay as it has left them; `heal` is for new ones."""

    def __init__(self, server: str) -> None:
        self._server = urlsplit(server)
        self.url = ""
        self.blocks_sockets = False
        """Whether WebSockets are refused, as some companies' proxies do."""
        self.server_left = asyncio.Event()
        """The server has ended a connection."""
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut = False
        self._passing = asyncio.Event()
        self._passing.set()

    def cut(self) -> None:
        """All connections end with RST, and new ones are refused."""
        self._cut = True
        for link in self._links:
            link.reset()

    def silence(self) -> None:
        """Nothing passes any more and neither end is told, as when the network behind an access point is gone."""
        self._passing.clear()
        for link in self._links:
            link.up = link.down = False

    def mute(self) -> None:
        """What clients say still arrives; what the server says does not."""
        for link in self._links:
            link.down = False

    def heal(self) -> None:
        """New connections pass."""
        self._cut = False
        self._passing.set()

    async def carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._carry(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            # A client must never see the difference between these two, and no other process is told.
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        await self._passing.wait()
        head = await reader.read(1 << 16)
        if self._cut or (self.blocks_sockets and head.startswith(b"GET /ws/")):
            return
        from_server, to_server = await asyncio.open_connection(self._server.hostname, self._server.port)
        link = _Link(writer, to_server)
        self._links.add(link)
        try:
            to_server.write(head)
            await asyncio.gather(self._up(reader, to_server, link), self._down(from_server, writer, link))
        finally:
            self._links.discard(link)
            to_server.transport.abort()

    async def _up(self, reader: StreamReader, writer: StreamWriter, link: _Link) -> None:
        while data := await reader.read(1 << 16):
            if link.up:
                writer.write(data)
                await writer.drain()
        if link.up:
            writer.close()

    async def _down(self, reader: StreamReader, writer: StreamWriter, link: _Link) -> None:
        while data := await reader.read(1 << 16):
            if link.down:
                writer.write(data)
                await writer.drain()
        self.server_left.set()
        if link.down:
            writer.close()

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def network(server: str) -> AsyncIterator[Network]:
    """A network on a port of its own, before the server at this URL."""
    between = Network(server)
    listening = await asyncio.start_server(between.carry, "127.0.0.1", 0)
    between.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield between
    finally:
        listening.close()
        await between.end()
        await listening.wait_closed()
