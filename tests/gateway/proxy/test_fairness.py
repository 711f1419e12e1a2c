"""One client that floods the gateway, and the others; the gateway in a process of its own."""

import asyncio
import contextlib
from pathlib import Path

from tests.gateway.run.test_memory import flood, opened, program
from tests.support.faulty_upstream import Peer, Upstream
from tests.support.websocket_frames import TEXT, frame

KEY = b"\x01\x02\x03\x04"
HELLO = frame(TEXT, b"hello", key=KEY)
# The smallest frames cost the most for each byte.
TINY = frame(TEXT, b"", key=KEY) * 20_000
FLOODING = 3
ROUND_TRIPS = 15
# It takes half a second, and seventeen where each side is read on as long as there is something.
SECONDS = 5.0


async def take(backend: Peer) -> None:
    while True:
        await backend.exactly(1 << 20)


async def test_clients_that_flood_the_gateway_with_small_frames_do_not_starve_the_others(tmp_path: Path) -> None:
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
            tasks += [floods.create_task(flood(flooding, TINY)), floods.create_task(take(flooded))]
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
