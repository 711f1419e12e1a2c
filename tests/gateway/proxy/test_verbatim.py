"""Heads of requests and answers, through the gateway and compared as bytes."""

import asyncio

import pytest

from moorline.gateway.app import create_app
from moorline.gateway.common.web.connection import Connection as ServerConnection
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from tests.gateway.conftest import StartGateway
from tests.support.raw import Connection, answering, dial, listening

# Latin-1, UTF-8 cut off, and UTF-8 that is whole.
ODD = b"caf\xe9 \xc3 \xe2\x82\xac"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


@pytest.mark.parametrize("body", [b"", b"Content-Length: 2\r\nContent-Type: application/json\r\n\r\n{}"])
async def test_bytes_that_are_no_utf8_reach_the_backend(start_gateway: StartGateway, body: bytes) -> None:
    heads: list[bytes] = []
    async with listening(answering(b"HTTP/1.1 204 No Content\r\n\r\n", heads)) as backend:
        gateway = await start_gateway(backend)
        async with dial(gateway.server.port or 0) as client:
            method = b"POST" if body else b"GET"
            await client.send(b"%b /api/x?a HTTP/1.1\r\nHost: localhost\r\nX-Odd: %b\r\n" % (method, ODD))
            await client.send(body or b"\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    assert heads[0].startswith(method + b" /api/x?a HTTP/1.1\r\nHost: localhost\r\n")
    assert b"\r\nX-Odd: " + ODD + b"\r\n" in heads[0]


@pytest.mark.parametrize("path", [b"/api/x", b"/ws/x"])
@pytest.mark.parametrize(
    "framing", [b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"]
)
async def test_bytes_that_are_no_utf8_reach_the_client(
    start_gateway: StartGateway, path: bytes, framing: bytes
) -> None:
    answer = b"HTTP/1.1 403 Verbot\xe9n\r\nX-Odd: %b\r\n%b" % (ODD, framing)
    async with listening(answering(answer, [])) as backend:
        gateway = await start_gateway(backend)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path, UPGRADE * (path == b"/ws/x")))
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 403 Verbot\xe9n\r\n")
            assert b"\r\nX-Odd: " + ODD + b"\r\n" in head
            assert b"content-type" not in head.lower()
            assert await client.exactly(2 if b"Length" in framing else 12) in framing


async def test_each_request_of_a_connection_has_its_own_headers_whether_or_not_they_are_those_of_the_last_one() -> None:
    heads: list[bytes] = []
    given = [b"Cookie: a=1\r\n", b"Cookie: a=1\r\n", b"Cookie: a=2\r\n", b"", b"X-Forwarded-For: 192.0.2.1\r\n", b""]
    async with listening(answering(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", heads)) as backend:
        settings = Settings(port=0, upstream=(f"http://127.0.0.1:{backend}",), trusted_proxies=("127.0.0.0/8", "::1"))
        async with running(create_app(settings), settings) as server, dial(server.port) as client:
            for number, lines in enumerate(given):
                await client.send(b"GET /api/%d HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (number, lines))
                assert (await client.head()).startswith(b"HTTP/1.1 204 ")
    for number, (lines, head) in enumerate(zip(given, heads, strict=True)):
        cookie = lines if lines.startswith(b"Cookie") else b""
        assert head.startswith(b"GET /api/%d HTTP/1.1\r\nHost: localhost\r\n%bX-Forwarded-For: " % (number, cookie))
        assert (b"192.0.2.1" in head) == (b"192.0.2.1" in lines)
    assert len({head.partition(b"X-Request-ID: ")[2] for head in heads}) == len(given)


async def test_a_connection_keeps_small_headers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ServerConnection] = []
    connection_made = ServerConnection.connection_made

    def noted(connection: ServerConnection, transport: asyncio.BaseTransport) -> None:
        made.append(connection)
        connection_made(connection, transport)

    monkeypatch.setattr(ServerConnection, "connection_made", noted)
    async with listening(answering(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n", [])) as backend:
        settings = Settings(port=0, upstream=(f"http://127.0.0.1:{backend}",))
        async with running(create_app(settings), settings) as server, dial(server.port) as client:
            for lines, is_kept in ((b"", True), (b"X_Dropped: %b\r\n" % (b"x" * 2100), False)):
                await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % lines)
                assert (await client.head()).startswith(b"HTTP/1.1 204 ")
                assert (made[0].kept is not None) == is_kept


async def test_headers_that_no_hop_changes_pass_byte_for_byte(start_gateway: StartGateway) -> None:
    lines = b"x-lower:1\r\nX-Odd: \t2 \r\nX-Odd:3\r\ncontent-length: 0\r\n"
    async with listening(answering(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n", [])) as backend:
        gateway = await start_gateway(backend)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n" + lines)


async def test_a_length_of_no_content_ends_here(start_gateway: StartGateway) -> None:
    answer = b"HTTP/1.1 204 No Content\r\nX-A: 1\r\nContent-length: 0\r\nX-B: 2\r\n\r\n"
    async with listening(answering(answer, [])) as backend:
        gateway = await start_gateway(backend)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 204 No Content\r\nX-A: 1\r\nX-B: 2\r\n")


@pytest.mark.parametrize("framed", [b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"\r\nok"])
async def test_a_response_behind_which_its_connection_ends_has_one_end(
    start_gateway: StartGateway, framed: bytes
) -> None:
    async with listening(answering(b"HTTP/1.1 200 OK\r\n" + framed, [])) as backend:
        gateway = await start_gateway(backend)
        async with dial(gateway.server.port or 0) as client:
            for _ in range(2):
                await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
                body = b""
                while not body.endswith(b"0\r\n\r\n"):
                    body += await client.until(b"\r\n")
                assert body == b"2\r\nok\r\n0\r\n\r\n"


async def test_a_client_that_reads_late_gets_all_of_it_and_leaves_the_connection_to_the_next_request(
    start_gateway: StartGateway,
) -> None:
    connections, size = 0, 8 << 20

    async def serve(connection: Connection) -> None:
        nonlocal connections
        connections += 1
        for letter in (b"a", b"b"):
            await connection.head()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + letter * size)
        await connection.ended()

    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with dial(gateway.server.port or 0) as client:
            for letter in (b"a", b"b"):
                await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
                # The reader of `client` stops at 128 KiB until more is asked for.
                await client.head()
                assert await client.exactly(size) == letter * size
    assert connections == 1


async def test_an_answer_without_a_type_gets_none(start_gateway: StartGateway) -> None:
    async with listening(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", [])) as backend:
        gateway = await start_gateway(backend)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"content-type" not in (await client.head()).lower()


@pytest.mark.parametrize("path", [b"/api/x", b"/ws/x"])
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 No\r\nContent-Length : 2\r\n\r\nok",
        b"HTTP/1.1 403 No\r\nX-Odd: a\x01b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 403 N\x01o\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 403 No\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
    ids=["blank before a colon", "control in a field", "control in the reason", "coded body"],
)
async def test_response_headers_that_cannot_be_passed_on_are_a_502(
    start_gateway: StartGateway, path: bytes, answer: bytes
) -> None:
    async with listening(answering(answer, [])) as backend:
        gateway = await start_gateway(backend, connect_retry=None)
        async with dial(gateway.server.port or 0) as client:
            await client.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path, UPGRADE * (path == b"/ws/x")))
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
