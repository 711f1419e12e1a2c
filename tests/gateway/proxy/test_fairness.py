"""One client that floods the gateway, and the others; the gateway in a process of its own."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.gateway.run.test_memory import flood, opened, program
from tests.support.faulty_upstream import Peer, Upstream, dial
from tests.support.process import started
from tests.support.websocket_frames import PING, TEXT, frame

KEY = b"\x01\x02\x03\x04"
HELLO = frame(TEXT, b"hello", key=KEY)
# The smallest frames cost the most for each byte.
TINY = {"text": frame(TEXT, b"", key=KEY) * 20_000, "pings": frame(PING, b"", key=KEY) * 20_000}
FLOODING = 3
ROUND_TRIPS = 15
# It takes half a second, and seventeen where each side is read from as long as there is something.
SECONDS = 5.0


async def take(backend: Peer) -> None:
    while True:
        await backend.exactly(1 << 20)


@pytest.mark.parametrize("tiny", TINY.values(), ids=TINY.keys())
async def test_clients_that_flood_the_gateway_with_small_frames_do_not_starve_the_others(
    tiny: bytes, tmp_path: Path
) -> None:
    clock = asyncio.get_running_loop().time
    async with (
        Upstream() as upstream,
        program(upstream, tmp_path) as (_, port),
        contextlib.AsyncExitStack() as tunnels,
        asyncio.TaskGroup() as floods,
    ):
        client, backend = await tunnels.enter_async_context(opened(port, upstream))
        tasks = []
        for _ in range(FLOODING):
            flooding, flooded = await tunnels.enter_async_context(opened(port, upstream))
            tasks += [floods.create_task(flood(flooding, tiny)), floods.create_task(take(flooded))]
        began = clock()
        for _ in range(ROUND_TRIPS):
            await client.send(HELLO)
            assert await backend.exactly(len(HELLO)) == HELLO
            await backend.send(HELLO)
            await client.exactly(len(HELLO))
        took = clock() - began
        for task in tasks:
            task.cancel()
    assert took < SECONDS


UPLOADING = 50
# Alone on a machine 10 ms, beside other tests 0.3 s, and a minute where each upload is parsed as it comes.
P99_SECONDS = 2.0
REQUESTS = 100
HEALTHY = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
# In a process of its own: the loop of the tests would be late itself. A body in chunks of one byte costs the most.
UPLOADS = """
import selectors, socket, sys
selector = selectors.DefaultSelector()
for _ in range(int(sys.argv[2])):
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    client.sendall(sys.argv[3].encode() + b"Host: localhost\\r\\nTransfer-Encoding: chunked\\r\\n"
                   b"Content-Type: application/json\\r\\n\\r\\n")
    client.setblocking(False)
    selector.register(client, selectors.EVENT_WRITE)
print("uploading", flush=True)
chunks, sent = b"1\\r\\nx\\r\\n" * 20_000, dict.fromkeys(selector.get_map(), 0)
while True:
    for key, _ in selector.select():
        try:
            taken = key.fileobj.send(memoryview(chunks)[sent[key.fd]:])
        except BlockingIOError:
            continue
        except ConnectionError:
            selector.unregister(key.fileobj)
            continue
        sent[key.fd] = (sent[key.fd] + taken) % len(chunks)
"""


@contextlib.asynccontextmanager
async def uploads(port: int, request: str) -> AsyncIterator[None]:
    """Clients that upload without end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UPLOADS, str(port), str(UPLOADING), f"{request} HTTP/1.1\r\n", stdout=PIPE
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


async def slowest(port: int) -> float:
    """How long another client waits for the slowest but one in a hundred of its responses."""
    clock, times = asyncio.get_running_loop().time, []
    async with dial(port) as client:
        for _ in range(REQUESTS):
            began = clock()
            await client.send(HEALTHY)
            await client.head()
            times.append(clock() - began)
    return sorted(times)[-2]


async def test_uploads_in_chunks_of_one_byte_do_not_hold_up_others_at_the_gateway(tmp_path: Path) -> None:
    async with Upstream() as upstream, program(upstream, tmp_path) as (_, port), uploads(port, "POST /api/x"):
        assert await slowest(port) < P99_SECONDS


async def test_uploads_in_chunks_of_one_byte_do_not_hold_up_others_at_the_backend(tmp_path: Path) -> None:
    options = ("--host=127.0.0.1", "--port=0", "--drain=100ms")
    async with started("moorline", "backend", *options, cwd=tmp_path) as running:
        port = int((await running.line("http://")).rpartition(":")[2])
        async with uploads(port, "POST /api/chat/s/messages"):
            assert await slowest(port) < P99_SECONDS
