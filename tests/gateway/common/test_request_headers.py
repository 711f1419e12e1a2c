"""Headers that never become a request: how they are answered, and how long they may take."""

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import Running, running
from moorline.gateway.settings import Settings
from tests.gateway.common.test_server import raw, served
from tests.support.backends import Script, backend
from tests.support.raw import Connection, dial

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LONG_LINE = b"GET / HTTP/1.1\r\nHost: a\r\nX-Big: %b\r\n\r\n" % (b"x" * 9000)
MANY_LINES = b"GET / HTTP/1.1\r\nHost: a\r\n%b\r\n" % b"".join(b"X-%d: %b\r\n" % (n, b"x" * 7000) for n in range(5))
ENDLESS = b"GET / HTTP/1.1\r\nHost: a\r\n%b" % b"".join(b"X-%d: %b\r\n" % (n, b"x" * 500) for n in range(70))


@pytest.fixture
async def gateway() -> AsyncIterator[Running]:
    settings = Settings(host="127.0.0.1", port=0, drain=1.0)
    async with running(create_app(settings), settings) as started:
        yield started


async def answer(client: Connection) -> tuple[int, dict[str, str], bytes]:
    """Status, fields and body of an answer with which the connection ends."""
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ") for line in lines), body


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (LONG_LINE, 431),
        (MANY_LINES, 431),
        (ENDLESS, 431),
    ],
    ids=[
        "nonsense",
        "TLS",
        "HTTP2",
        "space",
        "smuggling",
        "chunks in 1.0",
        "coded",
        "2.0",
        "long line",
        "many lines",
        "endless",
    ],
)
async def test_unreadable_headers_get_an_error_with_an_id_that_is_in_the_log(
    gateway: Running, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
) -> None:
    caplog.set_level(logging.INFO)
    async with dial(gateway.port) as client:
        await client.send(sent)
        answered, fields, body = await answer(client)
    problem = json.loads(body)
    assert (answered, problem["status"], fields["Cache-Control"]) == (status, status, "no-store")
    assert problem["request_id"] == fields["X-Request-ID"]
    assert [record.getMessage() for record in caplog.records] == [
        f'- (unreadable) {status} client=127.0.0.1 request_id={problem["request_id"]} refused="{problem["detail"]}"'
    ]


async def test_the_backend_says_so_in_its_own_words(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, dial(server.port) as client:
        await client.send(b"nonsense\r\n\r\n")
        status, _, body = await answer(client)
    assert (status, json.loads(body)["code"]) == (400, "bad_request")


@pytest.mark.parametrize("more", [b"", b"x"], ids=["silent", "dribbling"])
async def test_headers_that_begin_behind_a_request_have_their_time_too(more: bytes) -> None:
    async with served(client_header_timeout=0.5) as server, raw(server) as (reader, writer):
        writer.write(REQUEST + b"GET /")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(4)
        writer.write(more)
        assert await reader.read() == b""


async def test_headers_in_two_segments_are_one_request_and_the_connection_stays() -> None:
    async with served() as server, raw(server) as (reader, writer):
        for _ in range(3):
            writer.write(REQUEST[:-1])
            await writer.drain()
            writer.write(REQUEST[-1:])
            assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(4)
