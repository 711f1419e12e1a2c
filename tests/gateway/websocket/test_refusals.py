"""What the client is told when no tunnel opens."""

import asyncio
import contextlib
import json
from typing import Any

import pytest

from tests.gateway.websocket.conftest import Gateway, Start, tunnel
from tests.support.faulty_upstream import (
    HANDSHAKE,
    REFUSAL,
    SWITCH,
    Fault,
    Peer,
    Upstream,
    dial,
    faulty_upstream,
    handshake,
)
from tests.support.raw import dropping


async def told(client: Peer) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields in lower case, and body."""
    lines = (await client.head()).decode().split("\r\n")[:-2]
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return int(lines[0].split()[1]), fields, await client.exactly(int(fields.get("content-length", 0)))


async def status_of(gateway: Gateway, request: bytes = HANDSHAKE) -> tuple[int, dict[str, Any]]:
    async with dial(gateway.port) as client:
        await client.send(request)
        status, fields, body = await told(client)
        assert fields["content-type"] == "application/problem+json"
        problem = json.loads(body)
        assert problem["request_id"] == fields["x-request-id"]
        return status, problem


# The backend's faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.CLOSE, Fault.RESET, Fault.NOT_HTTP, Fault.HALF_HEADERS])
async def test_a_backend_that_cannot_answer_is_a_502_at_once(start: Start, fault: Fault) -> None:
    async with faulty_upstream(fault) as port, asyncio.timeout(5):
        status, _ = await status_of(await start(port, connect_retry=None))
        assert status == 502


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.SLOW_HEADERS])
@pytest.mark.parametrize("setting", ["handshake_timeout", "proxy_read_timeout"])
async def test_a_backend_without_an_answer_is_a_504_that_names_the_setting(
    start: Start, fault: Fault, setting: str
) -> None:
    async with faulty_upstream(fault) as port, asyncio.timeout(5):
        status, problem = await status_of(await start(port, **{setting: 0.2}))
        assert status == 504
        assert f"({setting})" in problem["detail"]


async def test_a_backend_that_does_not_take_the_connection_is_a_504(start: Start) -> None:
    with dropping() as port:
        status, problem = await status_of(await start(port, proxy_connect_timeout=0.3, connect_retry=None))
    assert status == 504
    assert "(proxy_connect_timeout)" in problem["detail"]


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH.replace(b"websocket", b"foo/1"),
        SWITCH.replace(b"Upgrade: websocket\r\n", b""),
        SWITCH.replace(b"Connection: Upgrade\r\n", b""),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * (40 << 10) + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X-Field: %s\r\n" % (b"x" * 1000) * 50 + b"Content-Length: 0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["other protocol", "no protocol", "no connection", "bare", "long line", "long head", "TLS"],
)
async def test_an_answer_that_is_none_is_a_502(start: Start, upstream: Upstream, answer: bytes) -> None:
    gateway = await start(upstream.port)
    asking = asyncio.ensure_future(status_of(gateway))
    backend = await upstream.accept()
    with contextlib.suppress(ConnectionError):
        await backend.send(answer)
    assert (await asking)[0] == 502
    assert await backend.ended()


# The backend's own no -------------------------------------------------------------------------------------------------


async def test_a_refusal_passes_and_the_connection_can_be_used_again(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        for _ in range(2):
            await client.send(HANDSHAKE)
            backend = await upstream.accept()
            await backend.send(REFUSAL.replace(b"Forbidden", b"Not You").replace(b"\r\n\r\n", b"\r\nX-Why: a\r\n\r\n"))
            status, fields, body = await told(client)
            assert (status, fields["x-why"], body) == (403, "a", b"never")
            assert await backend.ended()


async def test_what_follows_a_refused_handshake_is_the_next_request(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE + HANDSHAKE)
        for _ in range(2):
            await (await upstream.accept()).send(REFUSAL)
            assert (await told(client))[0] == 403


async def test_a_redirect_to_the_backends_own_origin_leads_to_ours(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        location = b"Location: http://127.0.0.1:%d/elsewhere\r\nContent-Length: 0\r\n\r\n" % upstream.port
        await (await upstream.accept()).send(b"HTTP/1.1 302 Found\r\n" + location)
        assert (await told(client))[1]["location"] == "http://localhost/elsewhere"


async def test_a_refusal_comes_as_it_is_written(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(b"HTTP/1.1 500 Oops\r\n\r\nfirst")
        assert (await client.head()).startswith(b"HTTP/1.1 500 Oops\r\n")
        assert await client.exactly(10) == b"5\r\nfirst\r\n"
        await backend.send(b"second")
        assert await client.exactly(11) == b"6\r\nsecond\r\n"
        backend.close()
        assert await client.exactly(5) == b"0\r\n\r\n"


@pytest.mark.parametrize("ending", ["stall", "close"])
async def test_a_refusal_that_breaks_off_does_not_look_complete(start: Start, upstream: Upstream, ending: str) -> None:
    gateway = await start(upstream.port, proxy_read_timeout=0.6)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\nhalf")
        if ending == "close":
            backend.close()
        await client.head()
        assert await client.rest() == b"half"


async def test_a_large_refusal_waits_for_a_slow_client(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port)
    body = bytes(range(256)) * (8 << 12)
    async with dial(gateway.port, receive_buffer=4096) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        sending = asyncio.ensure_future(
            backend.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        )
        await client.head()
        assert await client.exactly(len(body)) == body
        await sending


# The gateway's own no -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_", [HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"), HANDSHAKE.replace(b"websocket", b"foo/1")]
)
async def test_what_is_no_websocket_handshake_is_a_400(start: Start, upstream: Upstream, request_: bytes) -> None:
    status, problem = await status_of(await start(upstream.port), request_)
    assert (status, problem["code"]) == (400, "bad_request")


async def test_a_person_gets_a_page(start: Start) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start(port, connect_retry=None)
        async with dial(gateway.port) as client:
            await client.send(handshake("/ws/x", "Accept: text/html,*/*"))
            status, fields, body = await told(client)
    assert (status, fields["content-type"]) == (502, "text/html; charset=utf-8")
    assert fields["x-request-id"].encode() in body


async def test_one_more_than_max_connections_is_a_503_until_one_ends(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, max_connections=2)
    async with tunnel(gateway, upstream) as (client, backend), tunnel(gateway, upstream), dial(gateway.port) as third:
        await third.send(HANDSHAKE)
        status, fields, body = await told(third)
        assert (status, fields["retry-after"]) == (503, "1")
        assert b"(max_connections)" in body
        client.fin()
        await client.ended()
        backend.close()
        await gateway.has(1)
        async with tunnel(gateway, upstream):
            assert len(gateway.tunnels) == 2


async def test_handshakes_under_way_count(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, max_connections=1)
    async with dial(gateway.port) as first, dial(gateway.port) as second:
        await first.send(HANDSHAKE)
        backend = await upstream.accept()
        await second.send(HANDSHAKE)
        assert (await told(second))[0] == 503
        await backend.send(REFUSAL)
        assert (await told(first))[0] == 403
        await second.send(HANDSHAKE)
        await (await upstream.accept()).send(SWITCH)
        assert (await told(second))[0] == 101


async def test_a_client_that_a_proxy_names_has_its_share_of_the_sockets(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, max_connections_per_address=1)
    named = handshake("/ws/x", "X-Forwarded-For: 9.9.9.9")
    async with dial(gateway.port) as first, dial(gateway.port) as second, tunnel(gateway, upstream):
        await first.send(named)
        await (await upstream.accept()).send(SWITCH)
        assert (await told(first))[0] == 101
        await second.send(named)
        status, _, body = await told(second)
        assert status == 503
        assert b"(max_connections_per_address)" in body


async def test_a_client_that_opens_too_many_sockets_is_told_when_to_come_back(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, handshakes_per_address=1)
    named = handshake("/ws/x", "X-Forwarded-For: 9.9.9.9")
    async with dial(gateway.port) as first, dial(gateway.port) as second:
        await first.send(named)
        await (await upstream.accept()).send(SWITCH)
        assert (await told(first))[0] == 101
        await second.send(named)
        status, headers, body = await told(second)
        assert (status, 50 < int(headers["retry-after"]) <= 60) == (429, True)
        assert b"(handshakes_per_address)" in body


# The client goes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["fin", "close", "reset"])
async def test_a_client_that_is_gone_before_the_101_takes_the_dial_with_it(
    start: Start, upstream: Upstream, way: str
) -> None:
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client, asyncio.timeout(5):
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        getattr(client, way)()
        assert await backend.ended()
