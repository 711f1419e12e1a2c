"""Upstream connections that are kept: what is served again, and that nothing of one user reaches another."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from moorline.gateway.common.web.time_limit import TimeLimits
from moorline.gateway.keys import UPSTREAMS
from moorline.gateway.proxy.connection import UpstreamConnection
from moorline.gateway.proxy.pool import POOLS, Pool
from tests.gateway.conftest import Client, StartGateway
from tests.support.faulty_upstream import STEP, Fault, Peer, Upstream, dial, faulty_upstream

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SECRET = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret"
TRAILERS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
POST = b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as listening:
        yield listening


def asking(gateway: Client, method: str = "GET", **options: Any) -> "asyncio.Task[tuple[int, str]]":
    """A request under way; its status and body."""

    async def ask() -> tuple[int, str]:
        async with gateway.request(method, "/api/x", **options) as response:
            return response.status, await response.text()

    return asyncio.create_task(ask())


async def kept(gateway: Client, upstream: Upstream) -> Peer:
    """The upstream's end of a connection that has served one request."""
    request = asking(gateway)
    peer = await upstream.accept()
    await peer.send(OK)
    assert await request == (200, "ok")
    return peer


async def served_anew(gateway: Client, upstream: Upstream) -> None:
    """The next request comes on a new connection, and has its own response."""
    request = asking(gateway)
    await (await upstream.accept()).send(OK)
    assert await request == (200, "ok")


def idle(gateway: Client) -> int:
    return sum(pool.idle for pool in gateway.app[POOLS].values())


async def until_idle(gateway: Client, count: int) -> None:
    async with asyncio.timeout(STEP):
        while idle(gateway) != count:  # noqa: ASYNC110 - the product needs no event for a test's sake
            await asyncio.sleep(0)


# What is served again -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "response",
    [OK, TRAILERS, b"HTTP/1.1 100 Continue\r\n\r\n" + OK, EARLY_HINTS * 50 + OK, OK.replace(b"200 OK", b"404 No")],
    ids=["length", "chunked with trailers", "100", "103, many", "404"],
)
async def test_a_connection_serves_one_request_after_another(
    start_gateway: StartGateway, upstream: Upstream, response: bytes
) -> None:
    gateway = await start_gateway(upstream.port)
    request = asking(gateway)
    peer = await upstream.accept()
    for _ in range(3):
        await peer.send(response)
        assert (await request)[1] == "ok"
        request = asking(gateway)
        await peer.head()
    await peer.send(OK)
    assert await request == (200, "ok")


@pytest.mark.parametrize(("method", "status"), [("HEAD", b"200 OK"), ("GET", b"204 No Content"), ("GET", b"304 Same")])
async def test_a_response_without_body_leaves_the_connection_to_the_next_request(
    start_gateway: StartGateway, upstream: Upstream, method: str, status: bytes
) -> None:
    gateway = await start_gateway(upstream.port)
    request = asking(gateway, method)
    peer = await upstream.accept()
    await peer.send(b"HTTP/1.1 " + status + b"\r\nContent-Length: 6\r\n\r\n")
    assert (await request)[1] == ""
    request = asking(gateway)
    await peer.head()
    await peer.send(OK)
    assert await request == (200, "ok")


async def test_without_upstream_keepalive_each_request_has_a_connection_of_its_own(
    start_gateway: StartGateway, upstream: Upstream
) -> None:
    gateway = await start_gateway(upstream.port, upstream_keepalive=None)
    peer = await kept(gateway, upstream)
    assert b"\r\nConnection: close\r\n" in peer.request
    assert await peer.ended()
    await served_anew(gateway, upstream)


async def test_a_kept_connection_asks_for_no_end(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port)
    assert b"\r\nconnection:" not in (await kept(gateway, upstream)).request.lower()


# What is not ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "response"),
    [
        ("GET", OK.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive, Close\r\n\r\n")),
        ("GET", OK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")),
        ("GET", OK + b"\r\n"),
        ("GET", OK + SECRET),
        ("GET", TRAILERS + SECRET),
        ("HEAD", SECRET),
        ("GET", SECRET.replace(b"200 OK", b"204 No Content")),
        ("GET", SECRET.replace(b"200 OK", b"304 Not Modified")),
        ("GET", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + EARLY_HINTS),
    ],
    ids=["close", "1.0", "too much", "twice", "chunked, twice", "HEAD with body", "204 with", "304 with", "late 103"],
)
async def test_a_connection_whose_response_is_not_the_end_serves_nothing_else(
    start_gateway: StartGateway, upstream: Upstream, method: str, response: bytes
) -> None:
    gateway = await start_gateway(upstream.port)
    request = asking(gateway, method)
    peer = await upstream.accept()
    await peer.send(response)
    assert (await request)[1] in ("ok", "")
    assert await peer.ended()
    await served_anew(gateway, upstream)


async def test_a_response_that_ends_with_its_connection_is_complete(
    start_gateway: StartGateway, upstream: Upstream
) -> None:
    gateway = await start_gateway(upstream.port)
    request = asking(gateway)
    peer = await upstream.accept()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\nok")
    peer.fin()
    assert await request == (200, "ok")
    assert await peer.ended()
    await served_anew(gateway, upstream)


@pytest.mark.parametrize("way", ["close", "fin", "reset", "send"])
async def test_a_connection_that_ends_or_sends_while_it_is_idle_serves_nothing_else(
    start_gateway: StartGateway, upstream: Upstream, way: str
) -> None:
    gateway = await start_gateway(upstream.port)
    peer = await kept(gateway, upstream)
    if way == "send":
        await peer.send(SECRET)
    else:
        getattr(peer, way)()
    await until_idle(gateway, 0)
    await served_anew(gateway, upstream)


async def test_bytes_that_no_loop_has_read_yet_are_seen_before_a_connection_is_used(upstream: Upstream) -> None:
    connection = UpstreamConnection(asyncio.get_running_loop())
    await connection.connect("127.0.0.1", upstream.port, STEP, limits=TimeLimits())
    peer = await upstream.accept_silently()
    connection.begin_idle(STEP, lambda _: None)
    # Without a turn of the loop between this and the next line.
    peer._sock.send(SECRET)
    assert not connection.end_idle()
    assert await peer.ended()


async def test_an_idle_connection_is_closed_after_upstream_keepalive(
    start_gateway: StartGateway, upstream: Upstream
) -> None:
    gateway = await start_gateway(upstream.port, upstream_keepalive=0.1)
    assert await (await kept(gateway, upstream)).ended()
    assert idle(gateway) == 0


async def test_a_gateway_that_ends_closes_the_connections_it_kept(
    start_gateway: StartGateway, upstream: Upstream
) -> None:
    gateway = await start_gateway(upstream.port)
    peer = await kept(gateway, upstream)
    await gateway.close()
    assert await peer.ended()


async def test_a_response_before_the_end_of_the_body_ends_the_connection(
    start_gateway: StartGateway, upstream: Upstream
) -> None:
    gateway = await start_gateway(upstream.port)
    async with dial(gateway.server.port or 0) as client:
        await client.send(POST + b"Content-Length: 100\r\n\r\n{")
        peer = await upstream.accept()
        await peer.send(OK.replace(b"200 OK", b"413 Too Large"))
        assert (await client.head()).startswith(b"HTTP/1.1 413 ")
        assert await client.exactly(2) == b"ok"
        assert await peer.ended()
    assert idle(gateway) == 0


async def test_a_body_that_is_cut_ends_both_connections(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port)
    async with dial(gateway.server.port or 0) as client:
        await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        peer = await upstream.accept()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await client.head()
        peer.close()
        assert (await client.end())[0] == b"half"
    assert idle(gateway) == 0


# An idle connection that the upstream closes just then ----------------------------------------------------------------


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_stale_connection_is_replaced_by_a_new_one(
    start_gateway: StartGateway, upstream: Upstream, way: str
) -> None:
    gateway = await start_gateway(upstream.port)
    peer = await kept(gateway, upstream)
    request = asking(gateway)
    await peer.head()
    getattr(peer, way)()
    await (await upstream.accept()).send(OK)
    assert await request == (200, "ok")


async def test_it_is_replaced_once(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port)
    peer = await kept(gateway, upstream)
    request = asking(gateway)
    await peer.head()
    peer.close()
    (await upstream.accept()).close()
    assert (await request)[0] == 502
    with pytest.raises(BlockingIOError):
        upstream._listener.accept()


async def test_one_that_has_begun_its_response_is_not_replaced(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port)
    peer = await kept(gateway, upstream)
    request = asking(gateway)
    await peer.head()
    await peer.send(b"H")
    peer.close()
    assert (await request)[0] == 502
    with pytest.raises(BlockingIOError):
        upstream._listener.accept()


@pytest.mark.parametrize(("method", "body"), [("POST", {}), ("POST", None), ("PATCH", {}), ("PUT", {})])
async def test_what_cannot_be_sent_again_gets_a_new_connection(
    start_gateway: StartGateway, upstream: Upstream, method: str, body: dict[str, Any] | None
) -> None:
    gateway = await start_gateway(upstream.port)
    await kept(gateway, upstream)
    request = asking(gateway, method, json=body)
    peer = await upstream.accept()
    await peer.send(OK)
    assert await request == (200, "ok")
    # Both are kept now, and the one that was used last is used first.
    request = asking(gateway)
    assert b"GET /api/x HTTP/1.1\r\n" in await peer.head()
    await peer.send(OK)
    assert await request == (200, "ok")


# How many at once -----------------------------------------------------------------------------------------------------


async def waits(gateway: Client, count: int) -> None:
    """Wait until so many requests wait for a place."""
    async with asyncio.timeout(STEP):
        while sum(len(pool._waiting) for pool in gateway.app[POOLS].values()) != count:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)


async def test_a_client_with_many_requests_keeps_another_one_waiting_for_one_of_them(
    start_gateway: StartGateway, upstream: Upstream
) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=1)
    first = asking(gateway)
    peer = await upstream.accept()
    many = [asking(gateway) for _ in range(10)]
    await waits(gateway, 10)
    other = asking(gateway, headers={"X-Forwarded-For": "192.0.2.9"})
    await waits(gateway, 11)
    heads = []
    for _ in range(2):
        await peer.send(OK)
        heads.append(await peer.head())
    assert any(b"192.0.2.9" in head for head in heads)
    for request in (first, *many, other):
        request.cancel()
    await asyncio.gather(first, *many, other, return_exceptions=True)


async def test_more_than_upstream_connections_wait_in_order(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=1)
    served: list[int] = []
    tasks: list[asyncio.Task[None]] = []

    async def one(number: int, request: Coroutine[Any, Any, Any]) -> None:
        await request
        served.append(number)

    for number in range(4):
        tasks.append(asyncio.create_task(one(number, gateway.get("/api/x"))))
        await asyncio.sleep(0)
        if number:
            await waits(gateway, number)
        else:
            peer = await upstream.accept()
    await peer.send(OK)
    for _ in range(3):
        await peer.head()
        await peer.send(OK)
    await asyncio.gather(*tasks)
    assert served == [0, 1, 2, 3]


async def test_a_client_that_leaves_the_queue_takes_no_place(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=1)
    first = asking(gateway)
    peer = await upstream.accept()
    async with dial(gateway.server.port or 0) as client:
        await client.send(b"GET /api/left HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await waits(gateway, 1)
    await waits(gateway, 0)
    last = asking(gateway)
    await waits(gateway, 1)
    await peer.send(OK)
    assert (await peer.head()).startswith(b"GET /api/x ")
    await peer.send(OK)
    assert await first == await last == (200, "ok")


async def taken(pool: Pool) -> UpstreamConnection:
    if pool.is_full():
        await pool.wait(STEP, "")
    return pool.take(asyncio.get_running_loop().time(), reuse=False)


async def test_a_client_that_leaves_when_its_turn_comes_passes_it_on(
    start_gateway: StartGateway, upstream: Upstream
) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=1)
    (pool,) = gateway.app[POOLS].values()
    connection = await taken(pool)
    leaves, stays = (asyncio.create_task(taken(pool)) for _ in range(2))
    await waits(gateway, 2)
    pool.give_back(connection, keep=False)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    async with asyncio.timeout(STEP):
        pool.give_back(await stays, keep=False)
    assert not (await taken(pool)).established


async def test_a_wait_of_proxy_connect_timeout_is_a_503(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=1, proxy_connect_timeout=0.1)
    first = asking(gateway)
    peer = await upstream.accept()
    status, body = await asking(gateway)
    assert status == 503
    assert "upstream_connections" in body
    await peer.send(OK)
    assert await first == (200, "ok")


async def test_a_held_poll_keeps_no_other_request_waiting(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=1)
    poll = asking(gateway)
    held = await upstream.accept()
    async with asyncio.timeout(STEP):
        await served_anew(gateway, upstream)
    await held.send(OK)
    assert await poll == (200, "ok")


async def test_idle_connections_make_place_for_new_ones(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=1)
    peer = await kept(gateway, upstream)
    request = asking(gateway, "POST", json={})
    await (await upstream.accept()).send(OK)
    assert await request == (200, "ok")
    assert await peer.ended()
    assert idle(gateway) == 1


# Up and down ----------------------------------------------------------------------------------------------------------


async def test_an_upstream_that_is_marked_down_and_up_again_has_one_line_for_each(
    start_gateway: StartGateway, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    async with faulty_upstream(Fault.RESET) as broken:
        down, up = (f"http://127.0.0.1:{port}" for port in (broken, upstream.port))
        gateway = await start_gateway(0, upstream=(down, up), fail_timeout=0.1)
        await kept(gateway, upstream)
    ours = [record.getMessage() for record in caplog.records if record.name == "moorline.gateway.upstream"]
    assert ours == [f"upstream {down} marked down for 0.1s"]
    first, _ = gateway.app[UPSTREAMS]
    assert gateway.app[UPSTREAMS].responded(first)


async def test_an_only_upstream_that_fails_is_not_said_to_be_marked_down(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with faulty_upstream(Fault.RESET) as broken:
        gateway = await start_gateway(broken, fail_timeout=0.1)
        assert [(await asking(gateway))[0] for _ in range(2)] == [502, 502]
    assert "marked down" not in caplog.text


# Hostile responses ----------------------------------------------------------------------------------------------------


async def test_interim_responses_without_end_are_a_502(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port)
    request = asking(gateway)
    peer = await upstream.accept()
    # The gateway may end it before all was taken.
    with contextlib.suppress(ConnectionError):
        await peer.send(EARLY_HINTS * 1000)
    assert (await request)[0] == 502
    assert await peer.ended()


async def test_no_user_gets_what_was_sent_for_another(start_gateway: StartGateway, upstream: Upstream) -> None:
    gateway = await start_gateway(upstream.port, upstream_connections=4)

    async def serve(peer: Peer, number: int) -> None:
        """Every third response has the whole of another one behind it."""
        head = peer.request
        while True:
            user = head.split(b"?", 1)[1].split(b" ", 1)[0]
            response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(user), user)
            await peer.send(response + (SECRET if number % 3 == 0 else b""))
            number += 1
            head = await peer.head()

    async def accept(tasks: asyncio.TaskGroup) -> None:
        number = 0
        while True:
            tasks.create_task(quietly(serve(await upstream.accept(), number)))
            number += 1

    async def quietly(serving: Coroutine[Any, Any, None]) -> None:
        try:
            await serving
        except (ConnectionError, EOFError):
            return

    async def user(number: int) -> None:
        for request in range(10):
            async with gateway.get(f"/api/x?{number}-{request}") as response:
                assert await response.text() == f"{number}-{request}"

    async with asyncio.TaskGroup() as tasks:
        accepting = tasks.create_task(accept(tasks))
        await asyncio.gather(*(user(number) for number in range(20)))
        accepting.cancel()
        await gateway.close()
