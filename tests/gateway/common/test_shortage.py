"""A gateway that runs out of file descriptors: it closes some connections, stays, and recovers."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.faulty_upstream import HANDSHAKE, STEP, SWITCH, Upstream
from tests.support.process import Program, started
from tests.support.raw import Connection, dial
from tests.support.websocket_frames import TEXT, frame

FILES = 64
FLOOD = 150
CLOSED = 0
HEALTHY = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
ASK = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
PAGE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextlib.asynccontextmanager
async def gateway(folder: Path, upstream: int = 1, *, loop: str = "uvloop") -> AsyncIterator[tuple[Program, int]]:
    """A gateway with few descriptors, and its port."""
    options = ("--host=127.0.0.1", "--port=0", "--drain=100ms", f"--upstream=http://127.0.0.1:{upstream}")
    command = ["moorline", "gateway"] if loop == "uvloop" else ["tests.support.plain_loop", "moorline", "gateway"]
    async with started(*command, *options, cwd=folder, files=FILES) as program:
        page = (await program.line("page", "http://")).split()[1]
        yield program, int(page.split(":")[2].split("/")[0])
        program.send(signal.SIGTERM)
        await program.ended()
    assert "Traceback" not in program.out + program.err
    assert len(program.err.splitlines()) < FLOOD


async def status(port: int, request: bytes) -> int:
    """The status of the answer; CLOSED where there is none."""
    try:
        async with asyncio.timeout(STEP), dial(port) as client:
            await client.send(request)
            return int((await client.head()).split()[1])
    except (ConnectionError, asyncio.IncompleteReadError):
        return CLOSED


def cpu_ticks(program: Program) -> int:
    fields = Path(f"/proc/{program.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def flood(port: int, request: bytes, clients: contextlib.AsyncExitStack) -> list[Connection]:
    """More clients than there are descriptors; each sends this."""
    flooding = [await clients.enter_async_context(dial(port)) for _ in range(FLOOD)]
    for client in flooding:
        with contextlib.suppress(ConnectionError):
            await client.send(request)
    return flooding


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_flood_of_idle_connections_makes_way_for_who_has_a_request(tmp_path: Path, loop: str) -> None:
    async with gateway(tmp_path, loop=loop) as (program, port), contextlib.AsyncExitStack() as clients:
        idle = await flood(port, b"", clients)
        assert await idle[0].ended(), "it waited for longest"
        for _ in range(3):
            assert await status(port, HEALTHY) == 200
        await program.line("file descriptors run short")


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_a_gateway_without_a_descriptor_left_does_not_spin(tmp_path: Path, loop: str) -> None:
    async with (
        Upstream() as upstream,
        gateway(tmp_path, upstream.port, loop=loop) as (program, port),
        contextlib.AsyncExitStack() as clients,
    ):
        await flood(port, ASK, clients)
        await program.line("file descriptors run short")
        before = cpu_ticks(program)
        await asyncio.sleep(0.5)  # the time over which it is measured: 50 ticks
        assert cpu_ticks(program) - before < 20


async def test_requests_beyond_the_descriptors_are_refused_and_later_ones_answered(tmp_path: Path) -> None:
    async with Upstream() as upstream, gateway(tmp_path, upstream.port) as (_, port):
        asking = [asyncio.create_task(status(port, ASK)) for _ in range(FLOOD)]
        refused = 0
        async with asyncio.timeout(STEP):
            for answered in asyncio.as_completed(asking):
                assert await answered in (503, CLOSED)
                refused += 1
                if refused == FLOOD - FILES:
                    break
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        async with asyncio.timeout(STEP):
            while await status(port, HEALTHY) != 200 or await status(port, PAGE) != 200:
                pass


async def test_sockets_leave_the_page_and_healthz_their_connections(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        gateway(tmp_path, upstream.port) as (program, port),
        contextlib.AsyncExitStack() as clients,
    ):
        await program.line("max_connections: 10000 is more than a limit of 64 open files carries; ")
        opened = 0
        for _ in range(FILES):
            client = await clients.enter_async_context(dial(port))
            await client.send(HANDSHAKE)
            backend = asyncio.ensure_future(upstream.accept())
            head = asyncio.ensure_future(client.head())
            await asyncio.wait([backend, head], return_when=asyncio.FIRST_COMPLETED)
            if not backend.done():
                backend.cancel()
                assert b" 503 " in await head
                break
            clients.callback((await backend).close)
            await (await backend).send(SWITCH)
            await head
            opened += 1
        assert 5 < opened < FILES / 2
        assert (await status(port, HEALTHY), await status(port, PAGE)) == (200, 200)


async def test_requests_leave_the_page_and_healthz_their_connections(tmp_path: Path) -> None:
    async with (
        Upstream() as upstream,
        gateway(tmp_path, upstream.port) as (_, port),
        contextlib.AsyncExitStack() as clients,
    ):
        refused, pending = None, []
        while refused is None:
            client = await clients.enter_async_context(dial(port))
            await client.send(ASK)
            backend, head = asyncio.ensure_future(upstream.accept()), asyncio.ensure_future(client.head())
            await asyncio.wait([backend, head], return_when=asyncio.FIRST_COMPLETED)
            if backend.done():
                clients.callback((await backend).close)
                pending.append(head)
            else:
                backend.cancel()
                refused = await head + await client.until(b"}")
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"cause": "GQ-request"' in refused
        assert b"\r\nRetry-After: 1\r\n" in refused
        assert (await status(port, HEALTHY), await status(port, PAGE)) == (200, 200)
        for head in pending:
            head.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def test_an_open_socket_lives_through_a_shortage(tmp_path: Path) -> None:
    hello = frame(TEXT, b"hello", key=b"\x01\x02\x03\x04")
    async with (
        Upstream() as upstream,
        gateway(tmp_path, upstream.port) as (program, port),
        dial(port) as client,
        contextlib.AsyncExitStack() as clients,
    ):
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(SWITCH)
        await client.head()
        await flood(port, ASK, clients)
        await program.line("file descriptors run short")
        await client.send(hello)
        assert await backend.exactly(len(hello)) == hello
