"""Peers behind a network that loses every packet: nothing is closed, reset or acknowledged any more."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from tests.gateway.websocket.conftest import Start, ended
from tests.gateway.websocket.test_vanished import IMPATIENT as QUICK
from tests.gateway.websocket.test_vanished import PEER, switch
from tests.support import needs
from tests.support.faulty_upstream import STEP, Upstream
from tests.support.namespace import Machine, machine
from tests.support.process import started
from tests.support.websocket_frames import parse

pytestmark = needs.namespaces

# No Close frame is answered. The kernel repeats a Ping within 3 s, also where the first packets found no neighbour yet.
IMPATIENT = {**QUICK, "heartbeat_timeout": 4.0, "close_timeout": 0.5}


@pytest.fixture
def far() -> Iterator[Machine]:
    with machine() as there:
        yield there


async def test_a_client_whose_packets_are_lost_is_dead_and_the_upstream_gets_1011(
    start: Start, upstream: Upstream, far: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")
    gateway = await start(upstream.port, host=far.ours, **{**IMPATIENT, "upstream_heartbeat": None})
    address = f"ws://{far.ours}:{gateway.port}/ws/x"
    async with started(PEER, "client", address, cwd=tmp_path, under=far.run) as client:
        backend = await upstream.accept()
        await backend.send(switch(backend.request))
        await client.line("open")
        far.vanish()
        assert parse(await backend.rest())[0].close == (1011, "heartbeat timeout")
        backend.close()
        line = await ended(gateway, caplog)
        assert "ended_by=client reason=heartbeat_timeout close_code=1011 " in line
        assert " cause=NH-idle " in line
        # The kernel's view of both hops at the end: the Ping and its repetitions are not acknowledged.
        assert int(told(line, "client_unacked")) >= 1
        assert int(told(line, "client_retransmits")) >= 1
        assert float(told(line, "client_since_ack_ms")) >= 1200
        assert (told(line, "upstream_unacked"), told(line, "upstream_retransmits")) == ("0", "0")


async def test_an_upstream_whose_packets_are_lost_is_dead_and_the_client_gets_1011(
    start: Start, far: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")
    async with started(PEER, "serve", far.its, cwd=tmp_path, under=far.run) as backend:
        port = int((await backend.line("serving")).split()[1])
        upstream = (f"http://{far.its}:{port}",)
        gateway = await start(port, upstream=upstream, **{**IMPATIENT, "client_heartbeat": None})
        address = gateway.url.replace("http", "ws") + "/ws/x"
        async with connect(address, proxy=None, ping_interval=None) as client:
            far.vanish()
            async with asyncio.timeout(STEP):
                await client.wait_closed()
            assert (client.close_code, client.close_reason) == (1011, "heartbeat timeout")
        line = await ended(gateway, caplog)
        assert "ended_by=upstream reason=heartbeat_timeout close_code=1011 " in line
        assert " cause=NH-idle " in line
        assert int(told(line, "upstream_unacked")) >= 1


def told(line: str, name: str) -> str:
    """The value of this field."""
    return dict(part.split("=", 1) for part in line.split())[name]
