"""`moorline gateway` as a real process, before a backend of another make that sends back what it gets."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.support.process import Program, started

__all__ = ["echo_server", "echoing"]


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[str]:
    """The address of a server of another make."""

    async def echo(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextlib.asynccontextmanager
async def echoing(folder: Path, *options: str, under: Sequence[str] = ()) -> AsyncIterator[tuple[Program, str]]:
    """A gateway process before a server of another make, and the socket's address."""
    async with echo_server() as upstream:
        arguments = ("--host", "127.0.0.1", "--port", "0", "--upstream", upstream, *options)
        async with started("moorline", "gateway", *arguments, cwd=folder, under=under) as program:
            yield program, (await program.page()).replace("http", "ws") + "/ws/x"
