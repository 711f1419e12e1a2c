"""The reverse proxy, against backends that speak in bytes."""

import asyncio
import contextlib
import gzip
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.gateway.conftest import StartGateway
from tests.support.faulty_upstream import Fault, faulty_upstream
from tests.support.raw import Connection, answering, dial, dropping, listening

Client = TestClient[web.Request, web.Application]
StartServer = Callable[..., Awaitable[TestServer]]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"


def port_of(client: Client) -> int:
    return client.server.port or 0


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def fields(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode().split("\r\n")[1:-2]
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


async def ask(gateway: Client, request: bytes) -> bytes:
    """All that comes back for a request that asks for the connection's end."""
    async with dial(port_of(gateway)) as connection:
        await connection.send(request)
        return await connection.rest()


# The request's head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/api/a%2Fb", "/api//x/.y/z..", "/api/%7e?c&&e=", "/api/x?", "/api/x?q=%zz&a=b+c"])
async def test_the_target_reaches_the_backend_byte_for_byte(start_gateway: StartGateway, target: str) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend)
        await ask(gateway, f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert heads[0].startswith(f"GET {target} HTTP/1.1\r\n".encode())


async def test_a_target_in_absolute_form_loses_its_authority(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend)
        await ask(gateway, b"GET http://localhost/api/x?y HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert heads[0].startswith(b"GET /api/x?y HTTP/1.1\r\n")


async def test_headers_pass_but_for_those_of_the_connection(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend, upstream_keepalive=None)
        await ask(
            gateway,
            b"GET /api/x HTTP/1.1\r\nHost: localhost:4321\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\n"
            b"Keep-Alive: 5\r\nProxy-Authorization: secret\r\nX_Real_IP: 6.6.6.6\r\nUpgrade: h2c\r\n"
            b"Cookie: a=1\r\nX-Dup: 1\r\nX-Dup: 2\r\n\r\n",
        )
    passed = fields(heads[0])
    assert {name.lower() for name, _ in passed} == {
        "host", "connection", "cookie", "x-dup", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
        "x-moorline-gateway", "x-real-ip", "x-request-id",
    }  # fmt: skip
    assert [value for name, value in passed if name == "X-Dup"] == ["1", "2"]
    assert ("Host", "localhost:4321") in passed
    assert ("Connection", "close") in passed


async def test_a_trusted_proxys_word_on_the_client_is_kept_and_extended(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend)
        spoken = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https", "X-Request-ID": "abc"}
        await gateway.get("/api/x", headers=spoken)
    passed = dict(fields(heads[0]))
    assert passed["X-Forwarded-For"] == "9.9.9.9, 127.0.0.1"
    assert passed["X-Real-IP"] == "9.9.9.9"
    assert (passed["X-Forwarded-Proto"], passed["X-Request-ID"]) == ("https", "abc")


async def test_anybody_elses_word_on_the_client_is_replaced(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend, trusted_proxies=())
        spoken = {"X-Forwarded-For": "9.9.9.9", "X-Real-IP": "9.9.9.9", "X-Forwarded-Port": "1", "X-Request-ID": "abc"}
        await gateway.get("/api/x", headers={**spoken, "Forwarded": "for=9.9.9.9"})
    passed = dict(fields(heads[0]))
    assert passed["X-Forwarded-For"] == passed["X-Real-IP"] == "127.0.0.1"
    assert re.fullmatch("[0-9a-f]{32}", passed["X-Request-ID"])
    assert "X-Forwarded-Port" not in passed
    assert "Forwarded" not in passed


# The request's body ---------------------------------------------------------------------------------------------------


async def test_an_upload_passes_as_it_comes_and_compressed_as_it_is(start_gateway: StartGateway) -> None:
    body = gzip.compress(b"{}" * 1000)
    received: list[bytes] = []

    async def serve(connection: Connection) -> None:
        received.append(await connection.head())
        received.append(await connection.exactly(5))
        first_half.set()
        received.append(await connection.exactly(len(body) - 5))
        await connection.send(OK)

    first_half = asyncio.Event()
    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with dial(port_of(gateway)) as client:
            await client.send(
                b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
            )
            await client.send(body[:5])
            await first_half.wait()
            await client.send(body[5:])
            assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(body)}".encode() in received[0]
    assert b"".join(received[1:]) == body


async def test_a_chunked_upload_stays_chunked(start_gateway: StartGateway) -> None:
    received: list[bytes] = []

    async def serve(connection: Connection) -> None:
        received.append(await connection.head())
        received.append(await connection.until(b"0\r\n\r\n"))
        await connection.send(OK)

    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        await ask(
            gateway,
            b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        )
    assert b"Transfer-Encoding: chunked" in received[0]
    assert received[1] == b"2\r\n{}\r\n0\r\n\r\n"


async def test_an_upload_that_is_broken_off_breaks_off_at_the_backend(start_gateway: StartGateway) -> None:
    ended = asyncio.Event()

    async def serve(connection: Connection) -> None:
        await connection.head()
        await connection.exactly(3)
        begun.set()
        await connection.ended()
        ended.set()

    begun = asyncio.Event()
    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with dial(port_of(gateway)) as client:
            await client.send(
                b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n{ab"
            )
            await begun.wait()
            client.reset()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_backend_that_does_not_take_the_upload_is_given_up(start_gateway: StartGateway) -> None:
    stalled = asyncio.Event()

    async def serve(connection: Connection) -> None:
        await stalled.wait()

    async with listening(serve) as backend:
        gateway = await start_gateway(backend, proxy_send_timeout=0.2)

        async def endless() -> object:
            while True:
                yield b" " * 65536

        async with gateway.post("/api/x", data=endless(), headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == 504
        stalled.set()


# The answer -----------------------------------------------------------------------------------------------------------


async def test_an_answer_passes_with_its_status_headers_and_compressed_body(start_gateway: StartGateway) -> None:
    body = gzip.compress(b"hello")
    answer = (
        b"HTTP/1.1 418 Short And Stout\r\nContent-Type: text/x\r\nContent-Encoding: gzip\r\nSet-Cookie: a=1\r\n"
        b"Set-Cookie: b=2\r\nKeep-Alive: timeout=5\r\nServer: other\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body
    async with listening(answering(answer, [])) as backend:
        gateway = await start_gateway(backend)
        got = await ask(gateway, b"GET /api/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 418 Short And Stout\r\n")
    assert rest == body
    passed = fields(head + b"\r\n\r\n")
    assert [value for name, value in passed if name == "Set-Cookie"] == ["a=1", "b=2"]
    assert "Keep-Alive" not in dict(passed)
    assert dict(passed)["Server"] == "other"


@pytest.mark.parametrize(
    ("method", "answer", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", "12345"),
        ("GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n', None),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", None),
    ],
)
async def test_an_answer_without_body_leaves_the_connection_usable(
    start_gateway: StartGateway, method: str, answer: bytes, length: str | None
) -> None:
    async with listening(answering(answer, [])) as backend:
        gateway = await start_gateway(backend)
        async with dial(port_of(gateway)) as client:
            for _ in range(2):
                await client.send(f"{method} /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                head = await client.head()
                assert head.split(b" ")[1] == answer.split(b" ")[1]
                assert dict(fields(head)).get("Content-Length") == length
                assert b"Transfer-Encoding" not in head


async def test_a_server_sent_event_is_passed_on_before_the_next_one(start_gateway: StartGateway) -> None:
    go_on = asyncio.Event()

    async def serve(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await go_on.wait()
        go_on.clear()
        await connection.send(b"data: one\n\n")
        await go_on.wait()
        await connection.send(b"data: two\n\n")

    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with gateway.get("/api/events") as answer:
            # The head is here although there is no event yet.
            assert answer.headers["Content-Type"] == "text/event-stream"
            go_on.set()
            assert await answer.content.readuntil(b"\n\n") == b"data: one\n\n"
            go_on.set()
            assert await answer.content.read() == b"data: two\n\n"


async def test_a_redirect_to_the_backends_own_address_leads_to_the_clients(start_gateway: StartGateway) -> None:
    async def serve(connection: Connection) -> None:
        await connection.head()
        location = f"http://127.0.0.1:{backend}/api/y?z"
        await connection.send(f"HTTP/1.1 307 Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())

    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        behind_tls = {"Host": "localhost:8443", "X-Forwarded-Proto": "https"}
        answer = await gateway.get("/api/x", headers=behind_tls, allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (307, "https://localhost:8443/api/y?z")


async def test_a_client_that_goes_away_ends_the_backends_request_at_once(start_gateway: StartGateway) -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def serve(connection: Connection) -> None:
        await connection.head()
        asked.set()
        await connection.ended()
        ended.set()

    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with dial(port_of(gateway)) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asked.wait()
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_client_that_goes_away_during_a_stream_ends_it_at_the_backend(start_gateway: StartGateway) -> None:
    ended = asyncio.Event()

    async def serve(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\n\r\nfirst")
        await connection.ended()
        ended.set()

    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with dial(port_of(gateway)) as client:
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await client.until(b"first")
        await asyncio.wait_for(ended.wait(), 5)


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_an_answer_that_breaks_off_never_looks_complete(start_gateway: StartGateway, framing: bytes) -> None:
    async def serve(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n5\r\nhello\r\n")
        await relayed.wait()
        connection.reset()

    relayed = asyncio.Event()
    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with gateway.get("/api/x") as answer:
            await answer.content.readany()
            relayed.set()
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()


async def test_an_answer_that_breaks_off_is_a_reset_for_a_client_that_reads_to_the_end(
    start_gateway: StartGateway,
) -> None:
    async def serve(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await relayed.wait()
        connection.reset()

    relayed = asyncio.Event()
    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        async with dial(port_of(gateway)) as client:
            await client.send(b"GET /api/x HTTP/1.0\r\nHost: localhost\r\n\r\n")
            await client.until(b"hello")
            relayed.set()
            with pytest.raises(ConnectionResetError):
                await client.rest()


# No answer ------------------------------------------------------------------------------------------------------------


async def test_an_unreachable_backend_is_a_502_in_the_chats_own_words(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(unused_port())
    async with gateway.get("/api/x") as answer:
        assert (answer.status, answer.content_type) == (502, "application/problem+json")
        problem = await answer.json(content_type=None)
    assert (problem["status"], problem["code"]) == (502, "internal")
    assert problem["request_id"] == answer.headers["X-Request-ID"]


async def test_a_browser_gets_the_502_as_a_page(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(unused_port())
    async with gateway.get("/docs", headers={"Accept": "text/html,*/*;q=0.8"}) as answer:
        assert (answer.status, answer.content_type) == (502, "text/html")
        assert "<h1>502 Bad Gateway</h1>" in await answer.text()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200", b"garbage\r\n\r\n", b"HTTP/1.1 101 Sure\r\nUpgrade: x\r\n\r\n"]
)
async def test_an_answer_that_is_none_is_a_502(start_gateway: StartGateway, answer: bytes) -> None:
    async with listening(answering(answer, [])) as backend:
        gateway = await start_gateway(backend)
        assert (await gateway.get("/api/x")).status == 502


async def test_a_silent_backend_is_a_504_after_proxy_read_timeout(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.SILENT) as backend:
        gateway = await start_gateway(backend, proxy_read_timeout=0.2, client_heartbeat=None, upstream_heartbeat=None)
        async with gateway.get("/api/x") as answer:
            assert answer.status == 504
            assert "proxy_read_timeout" in (await answer.json(content_type=None))["detail"]


async def test_a_backend_that_takes_no_connection_is_a_504_after_proxy_connect_timeout(
    start_gateway: StartGateway,
) -> None:
    with dropping() as port:
        gateway = await start_gateway(port, proxy_connect_timeout=0.3)
        async with gateway.get("/api/x") as answer:
            assert answer.status == 504
            assert "proxy_connect_timeout" in (await answer.json(content_type=None))["detail"]


@contextlib.asynccontextmanager
async def an_unfinished_body(start_gateway: StartGateway, **limits: float) -> AsyncIterator[Connection]:
    """A client that has sent one byte of its body; its backend reads and never answers."""
    async with (
        faulty_upstream(Fault.SILENT) as backend,
        dial(port_of(await start_gateway(backend, **limits))) as client,
    ):
        head = "POST /api/x HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        await client.send(f"{head}Content-Length: 100000\r\n\r\n{{".encode())
        yield client


async def test_a_body_that_stalls_is_a_408_after_client_body_timeout(start_gateway: StartGateway) -> None:
    async with an_unfinished_body(start_gateway, client_body_timeout=0.2) as client:
        assert (await client.head()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_comes_byte_by_byte_is_a_408_after_message_timeout(start_gateway: StartGateway) -> None:
    async with an_unfinished_body(start_gateway, message_timeout=0.3) as client:
        answered = asyncio.create_task(client.head())
        while not answered.done():
            await client.send(b" ")
            await asyncio.wait({answered}, timeout=0.02)
        assert answered.result().startswith(b"HTTP/1.1 408 ")


# Between users --------------------------------------------------------------------------------------------------------


async def test_no_cookie_and_no_answer_of_one_user_reaches_another(
    start_gateway: StartGateway, aiohttp_server: StartServer
) -> None:
    async def whoami(request: web.Request) -> web.Response:
        user = request.query["user"]
        response = web.json_response({"user": user, "cookie": request.headers.get("Cookie", "")})
        response.set_cookie("session", user)
        return response

    app = web.Application()
    app.router.add_get("/api/whoami", whoami)
    gateway = await start_gateway((await aiohttp_server(app)).port)

    async def user(name: str) -> None:
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            for cookie in ("", f"session={name}"):
                headers = {"Cookie": cookie} if cookie else {}
                async with session.get(gateway.make_url("/api/whoami"), params={"user": name}, headers=headers) as got:
                    assert await got.json() == {"user": name, "cookie": cookie}
                    assert got.headers["Set-Cookie"].startswith(f"session={name};")

    await asyncio.gather(*(user(f"user{number}") for number in range(20)))


async def test_bytes_after_an_answer_are_never_anybody_elses_answer(start_gateway: StartGateway) -> None:
    async with listening(answering(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret", [])) as backend:
        gateway = await start_gateway(backend)
        for _ in range(3):
            assert await (await gateway.get("/api/x")).text() == "ok"
