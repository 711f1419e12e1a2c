"""A fault proxy on both event loops, between a client and a server that a test plays by hand."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest
import uvloop

from moorline.gateway.faults.control import Faults
from moorline.gateway.faults.proxy import FaultProxy
from moorline.gateway.tunnel.endings import Side
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, Upstream, dial


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Transports of the two loops differ in how they close, and in when a write leaves."""
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


class Between:
    """A proxy, its faults, and the server that it passes everything on to."""

    def __init__(self, proxy: FaultProxy, upstream: Upstream) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self.faults = Faults(dict.fromkeys(Side, proxy), asyncio.get_running_loop(), provider=False)

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[Peer]:
        """One that has sent its handshake."""
        async with dial(self.proxy.listening_port) as client:
            await client.send(HANDSHAKE)
            yield client

    @contextlib.asynccontextmanager
    async def socket(self) -> AsyncIterator[tuple[Peer, Peer]]:
        """Client and server of an open WebSocket."""
        async with self.client() as client:
            server = await self.upstream.accept()
            await server.send(SWITCH)
            assert await client.head() == SWITCH
            yield client, server


@pytest.fixture
async def between() -> AsyncIterator[Between]:
    async with Upstream() as upstream, FaultProxy("127.0.0.1", upstream.port) as proxy:
        yield Between(proxy, upstream)
