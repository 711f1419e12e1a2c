"""Each way in which a tunnel ends as it does in nginx, on real sockets: what arrives at the other end, what is left.

The Close frames of the default settings are in test_closing.py."""

import asyncio
import contextlib
import logging
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.gateway.websocket.conftest import Gateway, Start, ended, tunnel
from tests.support.faulty_upstream import HANDSHAKE, STEP, SWITCH, Peer, Upstream, dial
from tests.support.serving import serving

# nginx's own behaviour: no Close frames and no Pings.
NGINX: dict[str, Any] = {"close_frames": False, "client_heartbeat": None, "upstream_heartbeat": None}
LAST = b"\x88\x02\x03\xe8" + b"the last words"
BURST = bytes(range(256)) * 4096


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")


async def outcome(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> str:
    """`ended_by=… reason=…` of the only tunnel."""
    return (await ended(gateway, caplog)).partition(" close_code=")[0]


# By a peer ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fin", "close"])
async def test_the_clients_end_reaches_the_backend_behind_its_last_bytes(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend):
        await client.send(LAST)
        getattr(client, way)()
        assert await backend.rest() == LAST
        assert await outcome(gateway, caplog) == "ended_by=client reason=closed"


@pytest.mark.parametrize("way", ["fin", "close"])
async def test_the_backends_end_reaches_the_client_behind_its_last_bytes(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend):
        await backend.send(LAST)
        getattr(backend, way)()
        assert await client.rest() == LAST
        client.close()
        assert await outcome(gateway, caplog) == "ended_by=upstream reason=closed"


async def test_a_half_closed_client_gets_its_fin_at_once(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend), asyncio.timeout(2):
        client.fin()
        assert await client.rest() == b""
        assert await backend.rest() == b""


async def test_a_burst_before_the_clients_fin_arrives_whole(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend):
        reading = asyncio.ensure_future(backend.rest())
        await client.send(BURST)
        client.close()
        assert await reading == BURST


async def test_a_burst_before_the_backends_fin_arrives_whole_at_a_slow_client(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream, receive_buffer=4096) as (client, backend):
        sending = asyncio.ensure_future(backend.send(BURST * 8))
        received = await client.exactly(1)
        await asyncio.sleep(0)
        received += await client.exactly(len(BURST) * 8 - 1)
        await sending
        backend.close()
        assert await client.rest() == b""
    assert received == BURST * 8


async def test_the_clients_reset_is_a_fin_to_the_backend_behind_its_last_bytes(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend):
        assert await client.send_to(backend, BURST) == BURST
        client.reset()
        assert await backend.rest() == b""
        assert await outcome(gateway, caplog) == "ended_by=client reason=reset"


async def test_the_backends_reset_is_a_fin_to_the_client_behind_half_a_frame(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend):
        await backend.send(LAST[:3])
        assert await client.exactly(3) == LAST[:3]
        backend.reset()
        assert await client.rest() == b""
        client.close()
        assert await outcome(gateway, caplog) == "ended_by=upstream reason=reset"


async def test_a_client_that_resets_while_the_backend_sends_ends_the_backend(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend), asyncio.timeout(STEP):
        flooding = asyncio.ensure_future(_flood(backend))
        await client.exactly(len(BURST))
        client.reset()
        await flooding
        assert await backend.ended()


async def test_the_last_bytes_of_an_upstream_that_resets_while_it_is_sent_to_arrive(
    start: Start, upstream: Upstream
) -> None:
    gateway = await start(upstream.port, **NGINX)
    for _ in range(20):
        async with tunnel(gateway, upstream) as (client, backend):
            flooding = asyncio.ensure_future(_flood(client))
            await backend.exactly(1000)
            await backend.send(LAST)
            # With input unread this is a reset, and it meets the gateway in the middle of a write.
            backend.close()
            assert await client.exactly(len(LAST)) == LAST
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)


async def test_a_client_that_goes_on_sending_still_gets_the_fin_and_no_reset(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, **NGINX)
    async with tunnel(gateway, upstream) as (client, backend):
        await client.send(b"x" * 1000)
        await backend.exactly(1000)
        await backend.send(LAST)
        backend.close()
        client.send_now(b"x" * 100_000)
        assert await client.rest() == LAST
        await client.send(b"x" * 1000)


@pytest.mark.parametrize("code", [1000, 1001, 1012, 4001])
async def test_close_codes_pass_both_ways_between_other_libraries(start: Start, code: int) -> None:
    closed = asyncio.get_running_loop().create_future()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("chat",))
        await socket.prepare(request)
        if request.query_string == "server":
            await socket.close(code=code, message="würde".encode())
        else:
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            closed.set_result(socket.close_code)
        return socket

    app = web.Application()
    app.router.add_get("/ws/x", handle)
    async with serving(app) as backend:
        gateway = await start(0, upstream=(backend,))
        address = gateway.url.replace("http", "ws") + "/ws/x"
        async with connect(f"{address}?server", proxy=None) as client, asyncio.timeout(STEP):
            await client.wait_closed()
            assert (client.close_code, client.close_reason) == (code, "würde")
        async with connect(address, proxy=None) as client, asyncio.timeout(STEP):
            await client.close(code, "würde")
            assert await closed == code


# By a timer -----------------------------------------------------------------------------------------------------------


async def test_silence_ends_both_with_a_fin_after_proxy_read_timeout(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port, **NGINX, proxy_read_timeout=0.6)
    clock = asyncio.get_running_loop().time
    began = clock()
    async with tunnel(gateway, upstream) as (client, backend):
        assert await client.rest() == b""
        assert clock() - began >= 0.59
        assert await backend.rest() == b""
        client.close()
        assert await outcome(gateway, caplog) == "ended_by=gateway reason=proxy_read_timeout"


@pytest.mark.parametrize("active", ["client", "backend"])
async def test_either_side_keeps_it_alive(start: Start, upstream: Upstream, active: str) -> None:
    gateway = await start(upstream.port, **NGINX, proxy_read_timeout=1.0)
    async with tunnel(gateway, upstream) as (client, backend):
        sender, receiver = (client, backend) if active == "client" else (backend, client)
        for _ in range(8):
            await asyncio.sleep(0.2)  # the sender's pace; once and a half the timeout in all
            await sender.send(b".")
            assert await receiver.exactly(1) == b"."


async def test_a_client_that_does_not_read_ends_by_send_timeout(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port, **NGINX, send_timeout=0.8, proxy_read_timeout=0.6)
    async with tunnel(gateway, upstream, receive_buffer=4096) as (_, backend):
        await _flood(backend)
        assert await outcome(gateway, caplog) == "ended_by=gateway reason=send_timeout"


async def test_a_backend_that_does_not_read_ends_by_proxy_send_timeout(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    async with Upstream(receive_buffer=4096) as upstream:
        gateway = await start(upstream.port, **NGINX, proxy_send_timeout=0.4)
        async with tunnel(gateway, upstream) as (client, _):
            flooding = asyncio.ensure_future(_flood(client))
            # A FIN and no reset, although much of what it sends was never read.
            assert await client.rest() == b""
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
            client.close()
            assert await outcome(gateway, caplog) == "ended_by=gateway reason=proxy_send_timeout"


# By the gateway -------------------------------------------------------------------------------------------------------


async def test_what_is_left_at_the_end_of_the_drain_gets_a_fin(
    page: str, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"http://127.0.0.1:{upstream.port}"
    settings = Settings(host="127.0.0.1", port=0, upstream=(address,), frontend=page, drain=1.1, **NGINX)
    async with contextlib.AsyncExitStack() as peers:
        async with server.running(settings) as gateway:
            client = await peers.enter_async_context(dial(gateway.port))
            await client.send(HANDSHAKE)
            backend = await upstream.accept()
            await backend.send(SWITCH)
            await client.head()
        assert await client.rest() == b""
        assert await backend.rest() == b""
    assert "ended_by=gateway reason=shutdown" in caplog.text


# ----------------------------------------------------------------------------------------------------------------------


async def _flood(peer: Peer) -> None:
    """Send until the connection ends."""
    with contextlib.suppress(ConnectionError):
        while True:
            await peer.send(BURST)
