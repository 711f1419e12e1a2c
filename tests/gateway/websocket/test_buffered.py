"""What all tunnels hold together is bounded by `max_buffered`, on real sockets that do not read."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from tests.gateway.websocket.conftest import Start, tunnel
from tests.support.faulty_upstream import STEP, Peer, Upstream
from tests.support.websocket_frames import BINARY, TEXT, frame, parse

KEY = b"\x0a\x0b\x0c\x0d"


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")


@contextlib.asynccontextmanager
async def flooding(sender: Peer, key: bytes = b"") -> AsyncIterator[None]:
    """`sender` sends as much as is taken, until the block ends."""

    async def flood() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await sender.send(frame(BINARY, bytes(1 << 20), key=key))

    task = asyncio.ensure_future(flood())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_client_that_does_not_read_ends_and_the_upstream_gets_the_reason(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start(upstream.port, max_buffered=1 << 6)
    async with tunnel(gateway, upstream, receive_buffer=4096) as (_, backend), flooding(backend):
        (told,) = parse(await backend.rest())
        assert told.close == (1001, "max_buffered")
    backend.close()
    await gateway.has(0)
    assert "ended_by=gateway reason=limit close_code=1001 " in caplog.text
    assert "cause=GQ-stalled " in caplog.text


async def test_an_upstream_that_does_not_read_ends_and_the_client_may_come_back_later(start: Start) -> None:
    async with Upstream(receive_buffer=4096) as upstream:
        gateway = await start(upstream.port, max_buffered=1 << 10)
        async with tunnel(gateway, upstream) as (client, _), flooding(client, KEY):
            (told,) = parse(await client.rest())
            assert told.close == (1013, "max_buffered")


async def held_for_one(start: Start, upstream: Upstream) -> int:
    """So many bytes are held of a tunnel whose client does not read, with the socket buffers of this machine."""
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream, receive_buffer=4096) as (_, backend):
        await backend.send_until_stalled(frame(BINARY, bytes(1 << 20)))
        return gateway.tunnels.buffered


async def test_the_tunnel_that_has_held_bytes_for_longest_ends_and_the_others_go_on(
    start: Start, upstream: Upstream
) -> None:
    gateway = await start(upstream.port, max_buffered=await held_for_one(start, upstream) * 5 // 2)
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(STEP):
        reader, talker = await stack.enter_async_context(tunnel(gateway, upstream))
        told: list[asyncio.Task[bytes]] = []
        while not (told and told[0].done()):
            before = gateway.tunnels.buffered
            _, backend = await stack.enter_async_context(tunnel(gateway, upstream, receive_buffer=4096))
            await stack.enter_async_context(flooding(backend))
            told.append(asyncio.create_task(backend.rest()))
            # Where it takes the place of the first one, the sum may be the same.
            while gateway.tunnels.buffered == before and not told[0].done():  # noqa: ASYNC110 - as below
                await asyncio.sleep(0)
        assert parse(told[0].result())[0].close == (1001, "max_buffered")
        await talker.send(frame(TEXT, b"hi"))
        assert await reader.exactly(4) == frame(TEXT, b"hi")
        for each in told:
            each.cancel()


@pytest.mark.usefixtures("small_send_buffers")
async def test_what_was_held_is_not_counted_when_it_was_taken(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream, receive_buffer=4096) as (client, backend):
        sending = asyncio.ensure_future(backend.send(data := frame(BINARY, bytes(8 << 20))))
        while not gateway.tunnels.buffered:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        assert await client.exactly(len(data)) == data
        await sending
        assert gateway.tunnels.buffered == 0


async def test_what_was_held_is_not_counted_when_its_tunnel_is_gone(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with tunnel(gateway, upstream, receive_buffer=4096) as (client, backend), flooding(backend):
        while not gateway.tunnels.buffered:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        client.reset()
        await backend.ended()
    backend.close()
    await gateway.has(0)
    assert gateway.tunnels.buffered == 0
