"""A gateway as programs start it, on both event loops, before upstreams that a test plays by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from moorline.gateway.app import create_app
from moorline.gateway.common.access.authorize import Authorize
from moorline.gateway.common.web import server
from moorline.gateway.proxy.retry_queue import RETRY_QUEUES
from moorline.gateway.proxy.tunnels import TUNNELS, Tunnels
from moorline.gateway.settings import Settings
from tests.support.faulty_upstream import STEP, SWITCH, Peer, Upstream, dial, handshake
from tests.support.namespace import permitted

# Some sandboxes forbid namespaces to root, too. test_vanished.py has the same with stopped processes, for everywhere.
collect_ignore = [] if permitted() else ["test_lost_network.py"]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The two loops differ in what a transport may be asked for once it is closed, and in when a write leaves."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


class Gateway:
    """A gateway that listens."""

    def __init__(self, app: web.Application, started: server.Running) -> None:
        self.app = app
        self._started = started
        self.port = started.port
        self.url = started.addresses[0]

    @property
    def tunnels(self) -> Tunnels:
        return self.app[TUNNELS]

    async def has(self, count: int) -> None:
        """Wait until so many tunnels are open."""
        async with asyncio.timeout(STEP):
            while len(self.tunnels) != count:  # noqa: ASYNC110 - the product needs no event for a test's sake
                await asyncio.sleep(0)

    async def holds(self, count: int) -> None:
        """Wait until so many handshakes wait for their backend."""
        async with asyncio.timeout(STEP):
            while sum(map(len, self.app[RETRY_QUEUES].values())) != count:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)

    def drain(self) -> None:
        self._started.drain()


Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start(page: str) -> AsyncIterator[Start]:
    """`await start(port_of_the_backend, option=value, …)`"""
    async with contextlib.AsyncExitStack() as running:

        async def start_one(backend: int, authorize: Authorize | None = None, **options: Any) -> Gateway:
            if "proxy_read_timeout" in options:
                # They have to be below it.
                options = {"client_heartbeat": None, "upstream_heartbeat": None, **options}
            settings = Settings(
                **{
                    "host": "127.0.0.1",
                    "port": 0,
                    "upstream": (f"http://127.0.0.1:{backend}",),
                    "frontend": page,
                    "drain": 1.0,
                    **options,
                }
            )
            app = create_app(settings, authorize=authorize)
            return Gateway(app, await running.enter_async_context(server.running(app, settings)))

        yield start_one


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as listening:
        yield listening


async def ended(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> str:
    """What is said in the log of the only tunnel, at level info."""
    await gateway.has(0)
    (line,) = [message for message in caplog.messages if message.startswith("WebSocket closed: ")]
    return line.removeprefix("WebSocket closed: ")


@contextlib.asynccontextmanager
async def tunnel(
    gateway: Gateway, upstream: Upstream, *lines: str, receive_buffer: int | None = None
) -> AsyncIterator[tuple[Peer, Peer]]:
    """Client and backend at the two ends of an open tunnel, with more header lines if wanted."""
    async with dial(gateway.port, receive_buffer=receive_buffer) as client:
        await client.send(handshake("/ws/chat/p/s", *lines))
        backend = await upstream.accept()
        await backend.send(SWITCH)
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        yield client, backend


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of an upstream that sends messages back."""

    async def send_back(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                await connection.send(message)

    async with serve(send_back, "127.0.0.1", 0, max_size=None) as server:
        yield next(iter(server.sockets)).getsockname()[1]
