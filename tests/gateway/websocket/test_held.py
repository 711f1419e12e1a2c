"""Handshakes that wait for a backend that does not accept connections."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator

import pytest

from moorline.gateway.keys import UPSTREAMS
from tests.gateway.websocket.conftest import Start
from tests.support.faulty_upstream import HANDSHAKE, REFUSAL, SWITCH, Fault, Upstream, dial, faulty_upstream, handshake

POST = b"POST" + handshake("/ws/x", "Content-Type: application/json", "Content-Length: 2")[3:]


@pytest.fixture
def away() -> Iterator[Upstream]:
    """Its port is taken, and refuses; it listens once it is entered."""
    upstream = Upstream()
    with contextlib.closing(upstream._listener):
        yield upstream


async def test_a_client_waits_until_the_backend_is_back(start: Start, away: Upstream) -> None:
    gateway = await start(away.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        await gateway.holds(1)
        async with away:
            backend = await away.accept()
            await backend.send(SWITCH + b"hello")
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            assert await client.exactly(5) == b"hello"


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_backend_that_ends_before_its_answer_is_asked_once_more(
    start: Start, upstream: Upstream, way: str
) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        first = await upstream.accept()
        getattr(first, way)()
        second = await upstream.accept()
        assert second.request == first.request
        await second.send(SWITCH)
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        with pytest.raises(BlockingIOError):
            upstream._listener.accept()


async def test_it_is_tried_every_250_ms_each_time_with_one_request(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, connect_retry=0.8)
    async with dial(gateway.port) as client:
        clock = asyncio.get_running_loop().time
        times = [clock()]
        await client.send(HANDSHAKE)
        answered = asyncio.ensure_future(client.head())
        # Four times, and fewer on a busy machine.
        while not answered.done():
            accepting = asyncio.ensure_future(upstream.accept())
            await asyncio.wait([answered, accepting], return_when=asyncio.FIRST_COMPLETED)
            if accepting.done():
                times.append(clock())
                accepting.result().reset()
            accepting.cancel()
        assert answered.result().startswith(b"HTTP/1.1 502 ")
        assert b"\r\nRetry-After: 1\r\n" in answered.result()
        # The last try is at the end of the time.
        assert all(later - earlier > 0.24 for earlier, later in itertools.pairwise(times[1:-1]))
        assert times[-1] - times[0] > 0.75


async def test_without_connect_retry_it_is_tried_once(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, connect_retry=None)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        (await upstream.accept()).reset()
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"\r\nRetry-After: 1\r\n" in head
        with pytest.raises(BlockingIOError):
            upstream._listener.accept()


async def test_handshake_timeout_ends_the_wait_with_a_504(start: Start) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start(port, handshake_timeout=0.3)
        async with dial(gateway.port) as client:
            await client.send(HANDSHAKE)
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 504 ")
            assert b"\r\nRetry-After: 1\r\n" in head


@pytest.mark.parametrize("way", ["fin", "close", "reset"])
async def test_a_client_that_leaves_is_waited_for_no_longer(start: Start, away: Upstream, way: str) -> None:
    gateway = await start(away.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        await gateway.holds(1)
        getattr(client, way)()
        await gateway.holds(0)


@pytest.mark.parametrize("answer", [REFUSAL, b"nonsense\r\n\r\n"])
async def test_an_answer_is_an_answer(start: Start, upstream: Upstream, answer: bytes) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        await (await upstream.accept()).send(answer)
        assert (await client.head()).split()[1] in (b"403", b"502")
        with pytest.raises(BlockingIOError):
            upstream._listener.accept()


async def test_what_may_have_been_done_is_not_done_again(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(POST + b"{}")
        (await upstream.accept()).reset()
        assert (await client.head()).startswith(b"HTTP/1.1 502 ")
        with pytest.raises(BlockingIOError):
            upstream._listener.accept()


async def test_what_was_never_sent_waits_with_its_body(start: Start, away: Upstream) -> None:
    gateway = await start(away.port)
    async with dial(gateway.port) as client:
        await client.send(POST + b"{}")
        await gateway.holds(1)
        async with away:
            assert await (await away.accept()).exactly(2) == b"{}"


async def test_a_gateway_that_ends_holds_no_client(start: Start, away: Upstream) -> None:
    gateway = await start(away.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        await gateway.holds(1)
        gateway.drain()
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")


async def test_of_many_one_retries_and_all_are_connected(start: Start, away: Upstream) -> None:
    gateway = await start(away.port, connect_retry=30.0)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(dial(gateway.port)) for _ in range(100)]
        for client in clients:
            await client.send(HANDSHAKE)
        await gateway.holds(len(clients))
        await stack.enter_async_context(away)
        began = time.monotonic()
        for _ in clients:
            await (await away.accept()).send(SWITCH)
        for client in clients:
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        # One every 250 ms would be 25 s.
        assert time.monotonic() - began < 20


# More than one --------------------------------------------------------------------------------------------------------


async def test_another_upstream_is_tried_before_the_client_gets_an_error(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with faulty_upstream(Fault.RESET) as broken:
        down, up = (f"http://127.0.0.1:{port}" for port in (broken, upstream.port))
        gateway = await start(0, upstream=(down, up), connect_retry=None)
        for _ in range(3):
            async with dial(gateway.port) as client:
                await client.send(HANDSHAKE)
                await (await upstream.accept()).send(SWITCH)
                assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    # It is marked down after its first failure, and was not tried again.
    assert caplog.messages.count(f"upstream {down} marked down for 10s") == 1
    assert sum(f"WebSocket opened: upstream={up} " in message for message in caplog.messages) == 3


async def test_sockets_go_to_the_upstream_with_fewer_of_them(start: Start, upstream: Upstream) -> None:
    async with Upstream() as other, contextlib.AsyncExitStack() as stack:
        gateway = await start(
            0, upstream=tuple(f"http://127.0.0.1:{each.port}" for each in (upstream, other)), close_frames=False
        )

        async def opened(backend: Upstream) -> contextlib.AsyncExitStack:
            own = await stack.enter_async_context(contextlib.AsyncExitStack())
            client = await own.enter_async_context(dial(gateway.port))
            await client.send(HANDSHAKE)
            await (await backend.accept()).send(SWITCH)
            await client.head()
            return own

        at_other = [await opened(each) for each in (upstream, other, upstream, other)][1::2]
        for socket_ in at_other:
            await socket_.aclose()
        await gateway.has(2)
        for _ in range(2):
            await opened(other)


async def test_an_upstream_is_released_however_its_handshake_ends(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, close_frames=False)
    (one,) = gateway.app[UPSTREAMS]._all
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        assert one.connections == 1
        await backend.send(REFUSAL)
        await client.head()
        await client.exactly(5)
        await client.send(HANDSHAKE)
        (await upstream.accept()).reset()
        await (await upstream.accept()).send(SWITCH)
        await client.head()
        assert one.connections == 1
        client.reset()
        await gateway.has(0)
        assert one.connections == 0
