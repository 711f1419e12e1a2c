"""Clients that are still sending when the connection ends: their response must not be lost to a reset."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from moorline.gateway.common.web.lingering import LingeringLimits
from moorline.gateway.common.web.server import Running
from tests.gateway.common.test_server import served
from tests.support.faulty_upstream import STEP, Peer, dial, handshake

# More than the buffers of both ends hold where they are of the usual size.
SIZE = 8 << 20
PART = b"y" * (1 << 16)
CLOSES = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE
STAYS = CLOSES.replace(b"Connection: close\r\n", b"")
LARGE = b"".join(b"X-%d: %b\r\n" % (n, b"x" * 7000) for n in range(5))
UNREADABLE = b"nonsense\r\n\r\n"


async def refuse(request: web.Request) -> web.StreamResponse:
    raise web.HTTPUnauthorized(text="no")


async def refuse_and_close(request: web.Request) -> web.StreamResponse:
    response = web.Response(status=401, text="no")
    response.force_close()
    return response


async def send(client: Peer, first: bytes, part: bytes = PART, size: int = SIZE) -> None:
    """Send so much without a look at the response, as browsers do."""
    await client.send(first)
    for _ in range(0, size, len(part)):
        await client.send(part)


@pytest.mark.parametrize(
    ("first", "part", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-A: " + b"x" * 500 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ", PART, 431),
        (STAYS.replace(b"Host", LARGE + b"Host"), PART, 431),
        (STAYS.replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"), PART, 400),
        (STAYS.replace(b"Host", b"Host : a\r\nHost"), PART, 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", PART, 400),
        (CLOSES, PART, 401),
        (CLOSES.replace(b"1.1", b"1.0"), PART, 401),
        (handshake("/"), b"\x82\xfe\xff\x00mask" + b"y" * 0xFF00, 401),
    ],
    ids=["endless", "long line", "431", "smuggling", "space", "chunk", "body", "1.0", "upgrade"],
)
async def test_a_client_that_sends_on_gets_the_response_and_the_end(first: bytes, part: bytes, status: int) -> None:
    async with served(refuse) as server, dial(server.port) as client:
        await send(client, first, part)
        data, end = await client.end()
    assert (int(data.split()[1]), end) == (status, "FIN")


async def test_requests_behind_the_last_one_do_not_cost_its_response() -> None:
    async with served(refuse_and_close) as server, dial(server.port) as client:
        await send(client, b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        data, end = await client.end()
    assert (data.count(b"HTTP/1.1 401"), end) == (1, "FIN")


async def test_a_connection_that_goes_on_drops_the_rest_of_a_body() -> None:
    async with served(refuse) as server, dial(server.port) as client:
        for _ in range(2):
            await send(client, STAYS)
            assert b" 401 " in await client.head()
            assert await client.exactly(2) == b"no"


async def test_a_connection_with_nothing_unread_is_closed_at_once() -> None:
    async with served(refuse_and_close) as server, dial(server.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.end()
        # Nothing is held.
        async with asyncio.timeout(STEP):
            await server.draining.released()


# Bounds -----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def lingering(limits: LingeringLimits, first: bytes = UNREADABLE) -> AsyncIterator[tuple[Running, Peer]]:
    """A client that has the whole response, and has not ended the connection."""
    async with served(refuse, lingering=limits) as server, dial(server.port) as client:
        await client.send(first)
        assert b"HTTP/1." in await client.rest()
        yield server, client


async def is_cut(client: Peer) -> bool:
    """Send until the server takes no more."""
    with contextlib.suppress(ConnectionError):
        while True:
            await client.send(b"x")
            await asyncio.sleep(0.01)  # the pace of a client that goes on
    return True


async def test_silence_ends_it() -> None:
    async with asyncio.timeout(STEP), lingering(LingeringLimits(timeout=0.1)) as (server, _):
        await server.draining.released()


async def test_a_client_that_goes_on_has_lingering_time_in_all() -> None:
    async with asyncio.timeout(STEP), lingering(LingeringLimits(timeout=0.1, time=0.3)) as (_, client):
        began = asyncio.get_running_loop().time()
        assert await is_cut(client)
        assert asyncio.get_running_loop().time() - began > 0.25


async def test_a_client_that_sends_too_much_is_cut() -> None:
    async with asyncio.timeout(STEP), lingering(LingeringLimits(size=3)) as (_, client):
        assert await is_cut(client)


@pytest.mark.parametrize("limits", [LingeringLimits(timeout=0.1), LingeringLimits(time=0.1), LingeringLimits(size=3)])
async def test_the_rest_of_a_body_has_the_same_bounds(limits: LingeringLimits) -> None:
    async with asyncio.timeout(STEP), served(refuse, lingering=limits) as server, dial(server.port) as client:
        await client.send(STAYS)
        assert b" 401 " in await client.head()
        await client.send(b"y" * 5)
        await client.end()


async def test_the_drain_waits_for_it_and_the_client_s_end_ends_it() -> None:
    async with asyncio.timeout(STEP), lingering(LingeringLimits()) as (server, client):
        released = asyncio.ensure_future(server.draining.released())
        await client.send(b"x")
        assert not released.done()
        client.close()
        await released


async def test_a_reset_ends_it() -> None:
    async with asyncio.timeout(STEP), lingering(LingeringLimits()) as (server, client):
        client.reset()
        await server.draining.released()
