"""A side that stops reading costs the gateway one read and no more; measured on a process of its own."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, Upstream, dial
from tests.support.process import Program, started
from tests.support.websocket_frames import BINARY, frame

KEY = b"\x11\x22\x33\x44"
# Through one tunnel. FLOOD_MIB=1024 is the flood that the limit is stated for.
FLOOD = int(os.environ.get("FLOOD_MIB", "128")) << 20
MESSAGE = frame(BINARY, bytes(1 << 20))
# What one side that does not read may cost.
COST = 256 << 10
TUNNELS = 16
# For what the interpreter and its allocator do beside.
SLACK = 2 << 20

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def memory(program: Program, what: str) -> int:
    """VmRSS, or VmHWM for the most there ever was, in bytes."""
    lines = Path(f"/proc/{program.pid}/status").read_text(encoding="utf-8").splitlines()
    (kilobytes,) = [line.split()[1] for line in lines if line.startswith(f"{what}:")]
    return int(kilobytes) << 10


@contextlib.asynccontextmanager
async def program(upstream: Upstream, folder: Path, *options: str) -> AsyncIterator[tuple[Program, int]]:
    """A gateway in a process of its own, and its port."""
    address = f"http://127.0.0.1:{upstream.port}"
    given = ("--host=127.0.0.1", "--port=0", "--drain=100ms", "--close-timeout=100ms", f"--upstream={address}")
    async with started("moorline", "gateway", *given, *options, cwd=folder) as running:
        page = (await running.line("page", "http://")).split()[1]
        yield running, int(page.split(":")[2].split("/")[0])


@contextlib.asynccontextmanager
async def opened(port: int, upstream: Upstream) -> AsyncIterator[tuple[Peer, Peer]]:
    async with dial(port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(SWITCH)
        await client.head()
        yield client, backend


async def flood(peer: Peer, message: bytes) -> None:
    """Send until the connection ends."""
    with contextlib.suppress(ConnectionError):
        while True:
            await peer.send(message)


async def ended(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as listening:
        yield listening


@linux
async def test_clients_that_stop_reading_cost_one_read_each_and_end_by_send_timeout(
    upstream: Upstream, tmp_path: Path
) -> None:
    async with (
        program(upstream, tmp_path, "--send-timeout=1.5s", "--client-heartbeat=off") as (gateway, port),
        contextlib.AsyncExitStack() as stack,
    ):
        peers = [await stack.enter_async_context(opened(port, upstream)) for _ in range(TUNNELS)]
        before = memory(gateway, "VmRSS")
        flooding = [asyncio.ensure_future(flood(backend, MESSAGE)) for _, backend in peers]
        line = await gateway.line("WebSocket closed", "ended_by=gateway", "reason=send_timeout")
        assert memory(gateway, "VmHWM") - before <= TUNNELS * COST + SLACK
        assert "from_client=0" in line
        await ended(flooding)


@linux
async def test_backends_that_stop_reading_cost_one_read_each_and_end_by_proxy_send_timeout(
    upstream: Upstream, tmp_path: Path
) -> None:
    message = frame(BINARY, bytes(1 << 20), key=KEY)
    async with (
        program(upstream, tmp_path, "--proxy-send-timeout=1.5s", "--upstream-heartbeat=off") as (gateway, port),
        contextlib.AsyncExitStack() as stack,
    ):
        peers = [await stack.enter_async_context(opened(port, upstream)) for _ in range(TUNNELS)]
        before = memory(gateway, "VmRSS")
        flooding = [asyncio.ensure_future(flood(client, message)) for client, _ in peers]
        await gateway.line("WebSocket closed", "ended_by=gateway", "reason=proxy_send_timeout")
        assert memory(gateway, "VmHWM") - before <= TUNNELS * COST + SLACK
        await ended(flooding)


@linux
async def test_a_flood_that_is_read_in_fits_and_starts_never_piles_up(upstream: Upstream, tmp_path: Path) -> None:
    async with program(upstream, tmp_path) as (gateway, port), opened(port, upstream) as (client, backend):
        before = memory(gateway, "VmRSS")
        sending = asyncio.ensure_future(_send(backend, FLOOD // len(MESSAGE) + 1))
        for part in range(4):
            await asyncio.sleep(0.1)  # not reading
            assert len(await client.exactly(FLOOD // 4)) == FLOOD // 4, part
        assert memory(gateway, "VmHWM") - before <= COST + SLACK
        await ended([sending])


async def _send(peer: Peer, times: int) -> None:
    for _ in range(times):
        await peer.send(MESSAGE)
