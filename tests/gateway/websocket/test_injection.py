"""Pings of the gateway's own on real sockets, and the Pongs that answer them."""

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.gateway.websocket.conftest import Start, ended, tunnel
from tests.support.faulty_upstream import STEP, Peer, Upstream
from tests.support.websocket_frames import PING, PONG, TEXT, close_frame, frame, parse

KEY = b"\x0a\x0b\x0c\x0d"
# Peers that answer do so within this, on a busy machine, too.
PATIENT = {"client_heartbeat": 0.05, "upstream_heartbeat": 0.05, "heartbeat_timeout": STEP}


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")


async def test_silent_sides_get_pings_and_their_pongs_are_not_passed_on(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port, **PATIENT)
    async with tunnel(gateway, upstream) as (client, backend):
        for _ in range(3):
            for peer, key in ((client, KEY), (backend, b"")):
                ping = await _ping(peer, masked=peer is backend)
                await peer.send_in_pieces(frame(PONG, ping, key=key))
        goodbye = close_frame(1000, key=KEY)
        await client.send(goodbye)
        # Perhaps behind another Ping, but neither behind nor before a Pong.
        assert {each.opcode for each in parse((await _until(backend, goodbye)).removesuffix(goodbye))} <= {PING}
        backend.close()
        client.close()
        line = await ended(gateway, caplog)
        assert "frames_from_client=1 frames_from_upstream=0 " in line
        assert f"from_client={len(goodbye)} from_upstream=0 " in line
        assert " client_rtt_ms=" in line
        assert " upstream_rtt_ms=" in line


async def _ping(peer: Peer, *, masked: bool) -> bytes:
    """The payload of the Ping that comes next."""
    (ping,) = parse(await peer.exactly(14 if masked else 10))
    assert (ping.opcode, ping.masked) == (PING, masked)
    return ping.payload


async def _until(peer: Peer, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        received += await peer.exactly(1)
    return received


async def test_a_ping_waits_for_the_end_of_the_frame_that_is_passing(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, **{**PATIENT, "upstream_heartbeat": None})
    async with tunnel(gateway, upstream) as (client, backend):
        whole = frame(TEXT, b"x" * 10)
        await backend.send(whole[:5])
        assert await client.exactly(5) == whole[:5]
        await asyncio.sleep(0.2)  # four Pings would have been due
        await backend.send(whole[5:])
        assert await client.exactly(7) == whole[5:]
        await _ping(client, masked=False)


async def test_another_library_is_not_disturbed_by_pings(start: Start) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serve(echo, "127.0.0.1", 0, ping_interval=None, max_size=None))
        port = next(iter(server.sockets)).getsockname()[1]
        gateway = await start(port, **{**PATIENT, "client_heartbeat": 0.01, "upstream_heartbeat": 0.01})
        address = gateway.url.replace("http", "ws") + "/ws/x"
        client = await stack.enter_async_context(connect(address, ping_interval=None, max_size=None, proxy=None))
        for size in (0, 10, 1000, 1 << 20, 5, 100_000):
            await asyncio.sleep(0.03)  # silence, so that there are Pings
            await client.send("x" * size)
            assert await client.recv() == "x" * size
            # The peers' own Pings pass from end to end.
            await (await client.ping(b"from end to end"))
