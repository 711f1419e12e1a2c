"""One exchange: which failures are whose, and how long the way to an upstream that is down may take."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator

import pytest

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import Running, running
from moorline.gateway.common.web.time_limit import TimeLimits
from moorline.gateway.errors import ConnectTimeout, UpstreamUnreachable
from moorline.gateway.keys import UPSTREAMS
from moorline.gateway.proxy.connection import UpstreamConnection
from moorline.gateway.proxy.upstreams import State
from moorline.gateway.settings import Settings
from tests.gateway.conftest import StartGateway
from tests.support.eventlogs import until
from tests.support.faulty_upstream import Fault, Upstream, dial, faulty_upstream, handshake
from tests.support.raw import answering, dropping, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def unreachable() -> Iterator[int]:
    with dropping() as port:
        yield port


async def test_connecting_to_an_upstream_that_is_down_takes_a_second_at_most(
    start_gateway: StartGateway, unreachable: int
) -> None:
    async with faulty_upstream(Fault.REFUSE) as refusing:
        urls = tuple(f"http://127.0.0.1:{port}" for port in (unreachable, refusing))
        gateway = await start_gateway(0, upstream=urls, proxy_connect_timeout=30.0)
        clock = asyncio.get_running_loop().time
        for upstream in gateway.app[UPSTREAMS]:
            gateway.app[UPSTREAMS].failed(upstream, clock())
        began = clock()
        async with gateway.get("/api/x") as response:
            assert response.status in (502, 504)
        assert 0.9 < clock() - began < 10


async def test_an_upstream_that_sends_no_http_is_marked_down_and_its_response_is_not_asked_for_again(
    start_gateway: StartGateway,
) -> None:
    heads: list[bytes] = []
    async with faulty_upstream(Fault.NOT_HTTP) as broken, listening(answering(OK, heads)) as well:
        gateway = await start_gateway(0, upstream=tuple(f"http://127.0.0.1:{port}" for port in (broken, well)))
        assert (await gateway.get("/api/x")).status == 502
        assert heads == []
        assert [upstream.state for upstream in gateway.app[UPSTREAMS]] == [State.DOWN, State.UP]
        assert (await gateway.get("/api/x")).status == 200


async def test_a_return_is_logged_once_whichever_traffic_sees_it(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    async with listening(answering(OK, [])) as one, faulty_upstream(Fault.REFUSE) as other:
        urls = tuple(f"http://127.0.0.1:{port}" for port in (one, other))
        gateway = await start_gateway(0, upstream=urls)
        for upstream in gateway.app[UPSTREAMS]:
            gateway.app[UPSTREAMS].failed(upstream, asyncio.get_running_loop().time())
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        for _ in range(2):
            assert (await gateway.get("/ws/x", headers=upgrade)).status == 200
            assert (await gateway.get("/api/x")).status == 200
    assert caplog.messages.count(f"upstream {urls[0]} is up again") == 1


@pytest.mark.parametrize("end", [Running.leave, Running.stop_accepting])
async def test_a_connection_ends_behind_its_response_where_the_next_one_is_for_another_process(
    end: Callable[[Running], None],
) -> None:
    async with listening(answering(OK, [])) as port:
        settings = Settings(port=0, upstream=(f"http://127.0.0.1:{port}",))
        app = create_app(settings)
        async with running(app, settings) as gateway, dial(gateway.port) as client:
            await until(lambda: gateway._idle_connections.silent == 1)
            end(gateway)
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await client.rest()
        assert answer.endswith(b"\r\nConnection: close\r\n\r\nok")


async def test_a_body_that_there_is_no_room_for_is_a_503_and_no_failure_of_the_upstream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moorline.gateway.common.web.turns._ITERATION_SECONDS", -1.0)
    monkeypatch.setattr("moorline.gateway.common.web.server._MOST_WAITING", 0)
    # Reads are small where socket buffers are.
    monkeypatch.setattr("moorline.gateway.common.web.messages._FREE", 0)
    head = b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    async with Upstream() as upstream:
        settings = Settings(port=0, upstream=(f"http://127.0.0.1:{upstream.port}",))
        app = create_app(settings)
        async with running(app, settings) as gateway, dial(gateway.port) as client:
            await client.send(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000)
            assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
            assert [each.state for each in app[UPSTREAMS]] == [State.UP]


async def test_a_shortage_here_is_a_503_and_no_failure_of_the_upstream(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def exhausted(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async with listening(answering(OK, [])) as one, listening(answering(OK, [])) as other:
        gateway = await start_gateway(0, upstream=tuple(f"http://127.0.0.1:{port}" for port in (one, other)))
        async with dial(gateway.server.port or 0) as client:
            monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", exhausted)
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 503 ")
        assert {upstream.state for upstream in gateway.app[UPSTREAMS]} == {State.UP}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), ConnectTimeout),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), UpstreamUnreachable),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), UpstreamUnreachable),
    ],
    ids=["timeout of the system", "refused", "no such name"],
)
async def test_each_failure_to_connect_has_its_error(
    monkeypatch: pytest.MonkeyPatch, raised: OSError, expected: type[Exception]
) -> None:
    async def failing(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", failing)
    with pytest.raises(expected):
        await UpstreamConnection(asyncio.get_running_loop()).connect("upstream.example", 80, 1.0, limits=TimeLimits())


async def test_a_handshake_with_a_body_that_was_sent_is_not_sent_again(start_gateway: StartGateway) -> None:
    async with Upstream() as upstream:
        gateway = await start_gateway(upstream.port)
        async with dial(gateway.server.port or 0) as client:
            await client.send(handshake("/ws/x", "Content-Length: 4") + b"body")
            peer = await upstream.accept()
            assert await peer.exactly(4) == b"body"
            peer.reset()
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
        with pytest.raises(BlockingIOError):
            upstream._listener.accept()


@pytest.mark.parametrize("status", [b"600", b"999"])
async def test_a_status_that_is_none_is_a_502(start_gateway: StartGateway, status: bytes) -> None:
    async with listening(answering(OK.replace(b"200", status), [])) as upstream:
        gateway = await start_gateway(upstream)
        assert (await gateway.get("/api/x")).status == 502


@pytest.mark.parametrize("hosts", [b"Host: a\r\nHost: a\r\n", b"Host: localhost\r\nHost: evil.example\r\n", b""])
async def test_a_request_for_two_hosts_or_none_reaches_no_upstream(start_gateway: StartGateway, hosts: bytes) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as upstream:
        gateway = await start_gateway(upstream)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\n" + hosts + b"\r\n")
            assert (await client.head()).split()[1] == b"400"
    assert heads == []


async def test_a_client_of_http_1_0_needs_no_host_and_the_upstream_gets_its_own(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as upstream:
        gateway = await start_gateway(upstream)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET /api/x HTTP/1.0\r\n\r\n")
            assert (await client.rest()).endswith(b"\r\n\r\nok")
    assert b"\r\nHost: 127.0.0.1:%d\r\n" % upstream in heads[0]


@pytest.mark.parametrize("control", [b"\0", b"\x01", b"\x7f", b"\r"])
async def test_a_control_character_in_a_request_reaches_no_upstream(
    start_gateway: StartGateway, control: bytes
) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as upstream:
        gateway = await start_gateway(upstream)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nX-Odd: a" + control + b"b\r\n\r\n")
            assert (await client.head()).split()[1] == b"400"
    assert heads == []


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 6000\r\n\r\n" + bytes(6000),
        b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + bytes(2000) + b"\r\n0\r\n\r\n",
    ],
    ids=["sized", "chunked"],
)
async def test_a_small_body_leaves_with_its_headers_in_one_write(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    written: list[bytes] = []
    write = UpstreamConnection.write

    def noted(connection: UpstreamConnection, data: bytes) -> None:
        written.append(data)
        write(connection, data)

    monkeypatch.setattr(UpstreamConnection, "write", noted)
    async with listening(answering(OK, [])) as backend:
        settings = Settings(host="127.0.0.1", port=0, upstream=(f"http://127.0.0.1:{backend}",))
        async with running(create_app(settings), settings) as server, dial(server.port) as client:
            await client.send(b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + body)
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
    (sent,) = written
    assert sent.endswith(body.partition(b"\r\n\r\n")[2])
