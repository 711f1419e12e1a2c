"""Peers that stop without closing their connection, found by heartbeats; and peers that are only busy."""

import asyncio
import logging
import signal
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.utils import accept_key

from tests.gateway.websocket.conftest import Start, ended, tunnel
from tests.support.faulty_upstream import STEP, Upstream
from tests.support.process import started
from tests.support.websocket_frames import BINARY, TEXT, frame, parse

KEY = b"\x0a\x0b\x0c\x0d"
HELLO = frame(TEXT, b"hello", key=KEY)
PEER = "tests.support.websocket_peer"
IMPATIENT = {"client_heartbeat": 0.4, "upstream_heartbeat": 0.4, "heartbeat_timeout": 1.2}


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")


async def test_a_client_that_is_stopped_is_dead_and_the_upstream_gets_1011(
    start: Start, upstream: Upstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port, **{**IMPATIENT, "upstream_heartbeat": None})
    address = gateway.url.replace("http", "ws") + "/ws/x"
    async with started(PEER, "client", address, cwd=tmp_path) as client:
        backend = await upstream.accept()
        await backend.send(switch(backend.request))
        await client.line("open")
        client.send(signal.SIGSTOP)
        assert parse(await backend.rest())[0].close == (1011, "heartbeat timeout")
        backend.close()
        client.send(signal.SIGCONT)
        assert await client.line("closed") == "closed 1011 heartbeat timeout"
        line = await ended(gateway, caplog)
        assert "ended_by=client reason=heartbeat_timeout close_code=1011 " in line
        assert " cause=CH-idle " in line


async def test_an_upstream_that_is_stopped_is_dead_and_the_client_gets_1011(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(PEER, "serve", "127.0.0.1", cwd=tmp_path) as backend:
        port = int((await backend.line("serving")).split()[1])
        gateway = await start(port, **{**IMPATIENT, "client_heartbeat": None})
        address = gateway.url.replace("http", "ws") + "/ws/x"
        async with connect(address, proxy=None, ping_interval=None) as client:
            backend.send(signal.SIGSTOP)
            async with asyncio.timeout(STEP):
                await client.wait_closed()
            assert (client.close_code, client.close_reason) == (1011, "heartbeat timeout")
            backend.send(signal.SIGCONT)
            assert await backend.line("closed") == "closed 1011 heartbeat timeout"
        line = await ended(gateway, caplog)
        assert "ended_by=upstream reason=heartbeat_timeout close_code=1011 " in line
        assert " cause=UH-idle " in line


async def test_a_side_that_sends_and_answers_no_ping_is_alive(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, client_heartbeat=0.1, upstream_heartbeat=None, heartbeat_timeout=1.0)
    async with tunnel(gateway, upstream) as (client, backend):
        for _ in range(8):
            await asyncio.sleep(0.2)  # longer than one heartbeat; once and a half its timeout in all
            await client.send(HELLO)
            assert await backend.exactly(len(HELLO)) == HELLO


async def test_a_side_that_the_gateway_does_not_read_is_never_dead(start: Start) -> None:
    async with Upstream(receive_buffer=4096) as upstream:
        gateway = await start(upstream.port, client_heartbeat=0.05, upstream_heartbeat=None, heartbeat_timeout=0.05)
        async with tunnel(gateway, upstream) as (client, backend):
            sent, _ = await client.send_until_stalled(frame(BINARY, bytes(1 << 20), key=KEY))
            await asyncio.sleep(0.6)  # six times as long as it would take
            assert len(gateway.tunnels) == 1
            assert len(await backend.exactly(sent)) == sent


def switch(request: bytes) -> bytes:
    """A 101 with the right Sec-WebSocket-Accept."""
    key = request.lower().split(b"sec-websocket-key:")[1].split(b"\r\n")[0].strip()
    original = request[request.lower().index(key) :][: len(key)]
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(original.decode()).encode() + b"\r\n\r\n"
    )
