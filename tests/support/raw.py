"""Peers that speak in bytes, where the bytes themselves are what a test is about."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

__all__ = ["Connection", "answering", "dial", "dropping", "listening"]


class Connection:
    """One end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def head(self) -> bytes:
        """Up to and with the empty line."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def exactly(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def until(self, end: bytes) -> bytes:
        return await self._reader.readuntil(end)

    async def rest(self) -> bytes:
        """Everything up to the peer's FIN; ConnectionResetError where it resets."""
        return await self._reader.read()

    async def ended(self) -> bool:
        """Wait for the peer's end, in whatever way it comes."""
        with contextlib.suppress(ConnectionError):
            await self._reader.read()
        return True

    def reset(self) -> None:
        """End with RST instead of FIN."""
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[Connection], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    """A server that hands each connection to `serve`; yields its port."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(Connection(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(accepted, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def dial(port: int) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def answering(answer: bytes, heads: list[bytes]) -> Callable[[Connection], Awaitable[None]]:
    """A backend that notes each request's head and gives always the same bytes."""

    async def serve(connection: Connection) -> None:
        heads.append(await connection.head())
        await connection.send(answer)

    return serve


@contextlib.contextmanager
def dropping() -> Iterator[int]:
    """A port whose kernel drops every SYN, as a host that is down does."""
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        # One or two wait to be accepted, beyond the backlog of none. Whatever comes after them is dropped.
        for _ in range(4):
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        yield full.getsockname()[1]
