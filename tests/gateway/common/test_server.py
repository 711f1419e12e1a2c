import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession, web

from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.loop import run
from moorline.gateway.common.web.connection import CONNECTION_TIMEOUTS, ConnectionTimeouts
from moorline.gateway.common.web.draining import DRAINING, Draining
from moorline.gateway.common.web.lingering import LingeringLimits
from moorline.gateway.common.web.listen import listen
from moorline.gateway.common.web.server import _REQUEST_CHECK_SECONDS, Running, _finish, running
from moorline.gateway.settings import Settings
from tests.support import needs
from tests.support.eventlogs import until
from tests.support.faulty_upstream import STEP

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answer(request: web.Request) -> web.Response:
    return web.Response(text=str(request.content_length))


@asynccontextmanager
async def served(
    handler: Handler = answer,
    *,
    host: str = "127.0.0.1",
    keepalive: float = 75.0,
    lingering: LingeringLimits | None = None,
    **options: float,
) -> AsyncIterator[Running]:
    app = web.Application()
    app.router.add_route("*", "/", handler)
    settings = Settings(**{"host": host, "port": 0, "drain": 5, "client_header_timeout": 30, **options})  # type: ignore[arg-type]
    app[CONNECTION_TIMEOUTS] = ConnectionTimeouts(
        client_header=settings.client_header_timeout,
        send=settings.send_timeout,
        keepalive=keepalive,
        lingering=lingering or LingeringLimits(),
    )
    async with running(app, settings) as server:
        yield server


@asynccontextmanager
async def raw(server: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        writer.close()


# Listening ------------------------------------------------------------------------------------------------------------


@needs.ipv6
async def test_localhost_is_both_loopback_addresses_on_one_free_port() -> None:
    async with served(host="localhost") as server, ClientSession() as client:
        assert server.addresses == (f"http://127.0.0.1:{server.port}", f"http://[::1]:{server.port}")
        for address in server.addresses:
            async with client.get(address) as response:
                assert response.status == 200


@pytest.mark.parametrize("taken", ["127.0.0.1", pytest.param("::1", marks=needs.ipv6)])
def test_a_taken_port_is_named_with_the_option_to_choose_another(taken: str) -> None:
    (holder,) = listen(taken, 0)
    with holder, pytest.raises(UsageError, match=r"^port: \d+ is in use on localhost; .* with --port$"):
        listen("localhost", holder.getsockname()[1])


def test_a_taken_port_is_spoken_of_under_the_name_of_its_option() -> None:
    (holder,) = listen("127.0.0.1", 0)
    with holder, pytest.raises(UsageError, match=r"^backend_port: .* --backend-port$"):
        listen("127.0.0.1", holder.getsockname()[1], option="backend_port")


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r'^host: "192\.0\.2\.1" cannot be listened on'):
        listen("192.0.2.1", 0)


@needs.ipv6
def test_no_socket_is_left_when_the_second_address_is_taken() -> None:
    (holder,) = listen("::1", 0)
    port = holder.getsockname()[1]
    with holder, pytest.raises(UsageError):
        listen("localhost", port)
    with socket.create_server(("127.0.0.1", port)):
        pass


# Request heads --------------------------------------------------------------------------------------------------------


async def test_a_connection_that_sends_nothing_ends_after_client_header_timeout() -> None:
    async with served(client_header_timeout=0.1) as server, raw(server) as (reader, _):
        assert await reader.read() == b""


async def test_headers_that_come_byte_by_byte_end_at_the_timeout_without_a_byte() -> None:
    async with served(client_header_timeout=0.2) as server, raw(server) as (reader, writer):
        ended = asyncio.ensure_future(reader.read())
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: " + b"x" * 1000:
            writer.write(bytes([byte]))
            done, _ = await asyncio.wait([ended], timeout=0.01)
            if done:
                break
        assert ended.done()
        # A byte that crossed the end has it answered with a reset.
        with contextlib.suppress(ConnectionResetError):
            assert ended.result() == b""


async def test_an_idle_connection_ends_when_its_keepalive_time_is_over_behind_its_last_response() -> None:
    loop = asyncio.get_running_loop()
    finished = 0.0

    async def slow(request: web.Request) -> web.Response:
        nonlocal finished
        await asyncio.sleep(float(request.query["seconds"]))
        finished = loop.time()
        return web.Response(text="a")

    async with served(slow, keepalive=0.6) as server, raw(server) as (reader, writer):
        for seconds in ("0", "0.8"):
            writer.write(f"GET /?seconds={seconds} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\na")
        assert await reader.read() == b""
        assert loop.time() - finished >= 0.59


async def test_later_headers_get_the_same_time() -> None:
    async with served(client_header_timeout=0.5) as server, raw(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(4)
        writer.write(b"GET / HT")
        assert await reader.read() == b""


async def test_the_headers_timeout_does_not_bound_a_body() -> None:
    async def read(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async with served(read, client_header_timeout=0.5) as server, raw(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n")
        for _ in range(30):
            writer.write(b"x")
            await asyncio.sleep(0.03)  # the pace of the client, almost twice the timeout in all
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize(
    "headers", [b"X-Big: %s\r\n" % (b"x" * 9000), b"".join(b"X-%d: %s\r\n" % (n, b"x" * 7000) for n in range(5))]
)
async def test_headers_over_8_kb_a_line_or_32_kb_in_all_are_refused(headers: bytes) -> None:
    async with served() as server, raw(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n")
        assert (await reader.readline()).split()[1] in (b"400", b"431")


async def test_headers_that_never_end_are_refused_at_32_kb() -> None:
    async with served() as server, raw(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
        answered = asyncio.ensure_future(reader.readline())
        for number in range(40):
            writer.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))
            done, _ = await asyncio.wait([answered], timeout=0.01)
            if done:
                break
        assert (await answered).split()[1] == b"431"


@pytest.mark.parametrize("size", [500, 6000, 60_000], ids=["small", "medium", "all at once"])
async def test_headers_over_32_kb_are_refused_that_came_while_another_request_was_handled(size: int) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 1000) for number in range(40))
    headers = b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"

    async def receive(request: web.Request) -> web.Response:
        for place in range(0, len(headers), size):
            request.protocol.data_received(headers[place : place + size])
        return web.Response()

    async with served(receive) as server, raw(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        await reader.readuntil(b"\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"431"


async def test_a_compressed_body_reaches_the_handler_as_it_was_sent() -> None:
    async def size(request: web.Request) -> web.Response:
        return web.Response(text=(await request.read()).decode())

    async with (
        served(size) as server,
        ClientSession(server.addresses[0]) as client,
        client.post("/", data=b"not gzip", headers={"Content-Encoding": "gzip"}) as response,
    ):
        assert await response.text() == "not gzip"


# The end --------------------------------------------------------------------------------------------------------------


async def test_a_drain_ends_as_soon_as_nothing_is_in_flight() -> None:
    async with asyncio.timeout(STEP):
        async with served(drain=60) as server, raw(server):
            pass


async def test_a_request_in_flight_is_answered_and_new_ones_too_while_it_drains() -> None:
    began, late_answer = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.Response:
        if request.query_string == "slow":
            began.set()
            await request.app[DRAINING].wait()
            await late_answer.wait()
        return web.Response()

    async with ClientSession() as client:
        async with served(handle) as server:
            slow = asyncio.ensure_future(client.get(server.addresses[0] + "/?slow"))
            await began.wait()

            async def meanwhile() -> int:
                await server.draining.wait()
                async with client.get(server.addresses[0]) as response:
                    late_answer.set()
                    return response.status

            late = asyncio.ensure_future(meanwhile())
        assert await late == 200
        assert (await slow).status == 200


async def test_what_was_accepted_is_heard_before_a_drain_and_what_comes_later_is_not_accepted() -> None:
    async with served() as server, raw(server) as (reader, writer):
        await until(lambda: server._idle_connections.silent == 1)
        finishing = asyncio.create_task(server.finish_accepted())
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        assert not finishing.done()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        await finishing


async def test_a_kept_connection_ends_when_no_more_are_accepted_behind_a_request_that_has_begun() -> None:
    async with served() as server, raw(server) as idle, raw(server) as begun:
        for reader, writer in (idle, begun):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await reader.readuntil(b"\r\n\r\nNone")
        reader, writer = begun
        writer.write(b"GET / HTTP/1.1\r\n")
        await until(lambda: len(server._idle_connections._idle) == 2)
        server.stop_accepting()
        assert await idle[0].read() == b""
        writer.write(b"Host: a\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert (head.split()[1], b"\r\nConnection: close" in head, body) == (b"200", True, b"None")


async def test_a_request_that_has_begun_on_a_kept_connection_is_awaited() -> None:
    async with served() as server, raw(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nNone")
        writer.write(b"GET / HTTP/1.1\r\n")
        await until(lambda: server._idle_connections.begun == 1)
        finishing = asyncio.create_task(server.finish_requests())
        # It looks twice.
        await asyncio.sleep(3 * _REQUEST_CHECK_SECONDS)
        assert not finishing.done()
        writer.write(b"Host: a\r\n\r\n")
        assert (await reader.read()).endswith(b"None")
        await finishing


async def test_a_connection_whose_body_ends_behind_its_response_and_the_last_accept_is_not_kept() -> None:
    async with served() as server, raw(server) as (reader, writer), asyncio.timeout(STEP):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345")
        await reader.readuntil(b"\r\n\r\n10")
        server.stop_accepting()
        writer.write(b"67890")
        assert await reader.read() == b""


async def test_the_time_for_requests_is_taken_off_the_drain() -> None:
    handler = Endless()
    async with served(handler.handle, drain=3.0) as server, raw(server) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await handler.began.wait()
        # The request takes a second of it, and the last steps another.
        await server.finish_and_drain()
        assert server.draining.remaining() <= 1.0


async def test_a_drain_that_begins_meanwhile_ends_the_wait_for_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorline.gateway.common.web.server._REQUEST_SECONDS", 2 * STEP)
    handler = Endless()
    async with served(handler.handle) as server, raw(server) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await handler.began.wait()
        finishing = asyncio.create_task(server.finish_requests())
        await asyncio.sleep(0)
        server.drain(0)
        async with asyncio.timeout(STEP):
            await finishing


async def test_what_comes_while_requests_end_before_a_drain_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorline.gateway.common.web.server._REQUEST_SECONDS", STEP)
    both = asyncio.Barrier(2)

    async def slow(request: web.Request) -> web.Response:
        await both.wait()
        return web.Response(text=str(request.app[DRAINING].is_set()))

    async def asked(server: Running) -> bytes:
        async with raw(server) as (reader, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            return await reader.read()

    async with served(slow, drain=2 * STEP) as server:
        early = asyncio.create_task(asked(server))
        await until(lambda: both.n_waiting == 1)
        server.give_way()
        late = asyncio.create_task(asked(server))
    for answered in (await early, await late):
        assert answered.endswith(b"\r\n\r\nFalse")


@pytest.mark.parametrize("prepare", [Running.give_way, Running.stop_accepting])
async def test_a_drain_is_shorter_by_what_was_waited_for_requests_before(prepare: Callable[[Running], None]) -> None:
    asked = asyncio.Event()

    async def held(request: web.Request) -> web.Response:
        asked.set()
        await request.app[DRAINING].wait()
        return web.Response(text=f"{request.app[DRAINING].remaining()}")

    async with contextlib.AsyncExitStack() as clients:
        async with served(held, drain=5) as server:
            reader, writer = await clients.enter_async_context(raw(server))
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await asked.wait()
            prepare(server)
        # Of five seconds, one for requests and one for what follows the drain.
        assert float((await reader.read()).rpartition(b"\r\n")[2]) < 3.1


async def test_a_connection_that_stays_silent_does_not_hold_up_an_end() -> None:
    async with served() as server, raw(server), asyncio.timeout(STEP):
        await until(lambda: server._idle_connections.silent == 1)
        await server.finish_accepted()
        assert server._idle_connections.silent == 1


class Endless:
    """A handler that does not end, and what became of it."""

    def __init__(self) -> None:
        self.began, self.cancelled = asyncio.Event(), asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        return web.Response()


@pytest.mark.parametrize(("stuck", "most", "are_awaited"), [(0, 5.0, True), (1, 5.0, True), (0, 0.0, False)])
async def test_requests_that_were_on_their_way_get_time_while_they_end_one_after_the_other(
    stuck: int, most: float, *, are_awaited: bool
) -> None:
    left = 12

    def end_one() -> None:
        nonlocal left
        left -= 1
        if left > stuck:
            asyncio.get_running_loop().call_later(0.1, end_one)

    end_one()
    more = await _finish(Draining(), lambda: left, most, 0.8) - 0.8
    assert (left == stuck) is are_awaited
    assert more > 0.1 or not are_awaited


async def test_a_handler_that_does_not_end_is_cancelled_at_the_deadline() -> None:
    handler = Endless()
    async with served(handler.handle, drain=0.1) as server, raw(server) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await handler.began.wait()
    async with asyncio.timeout(STEP):
        await handler.cancelled.wait()


async def test_a_client_that_leaves_cancels_its_handler() -> None:
    handler = Endless()
    async with served(handler.handle) as server:
        async with raw(server) as (_, writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await handler.began.wait()
        async with asyncio.timeout(STEP):
            await handler.cancelled.wait()


def test_programs_run_on_uvloop() -> None:
    async def name() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(name()).startswith("uvloop")
