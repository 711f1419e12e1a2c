"""The production configuration in a real nginx: in front of the gateway, and straight in front of the backend."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from gateway.static import BUILT_IN
from tests.support import needs, raw
from tests.support.backends import hello, receive, receive_until, say
from tests.support.browser import browser, check_conversation, visitor
from tests.support.nginx import NAME, Nginx, check, nginx, write
from tests.support.stack import SOCKET, Stack, socket, stack

pytestmark = needs.nginx

API = "/api/chat/s1/messages"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """nginx's own."""
    (tmp_path / "nginx").mkdir()
    return tmp_path / "nginx"


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Stack]:
    options = {"trusted_proxies": ("127.0.0.1/32",), "allowed_hosts": (NAME,)}
    async with stack(tmp_path, gateway=options, backend_options=options) as started:
        yield started


@pytest.fixture
async def front(parts: Stack, folder: Path) -> AsyncIterator[Nginx]:
    """nginx -> gateway -> backend"""
    async with nginx(folder, parts.gateway) as started:
        yield started


@pytest.fixture(params=["gateway", "backend"])
async def either(request: pytest.FixtureRequest, parts: Stack, folder: Path) -> AsyncIterator[Nginx]:
    """nginx -> gateway -> backend, and nginx -> backend"""
    if request.param == "gateway":
        started = nginx(folder, parts.gateway)
    else:
        started = nginx(folder, parts.backend, root=BUILT_IN)
    async with started as server:
        yield server


@pytest.mark.parametrize("root", [None, BUILT_IN], ids=["gateway", "folder"])
async def test_nginx_accepts_the_configuration_without_a_warning(folder: Path, root: Path | None) -> None:
    await write(folder, [8080, 8081, 8443], "http://127.0.0.1:4321", root=root)
    said = await check(folder)
    assert "test is successful" in said
    assert "[warn]" not in said


# The conversation -----------------------------------------------------------------------------------------------------


async def test_the_first_conversation_passes(parts: Stack, either: Nginx) -> None:
    parts.script.put("Good ", "morning.", None)
    async with socket(either.plain) as client:
        await client.send('{"message": "Hello"}')
        assert await receive(client) == {"type": "status", "status": "thinking"}
        assert await receive(client) == {"type": "message", "role": "assistant", "content": "Good morning."}
        await client.send('{"type":"ping"}')
        assert await receive(client) == {"type": "pong"}


async def test_a_conversation_of_version_2_streams_through_tls(parts: Stack, either: Nginx) -> None:
    async with socket(either.tls, ssl=either.trust(), origin=either.tls) as client:
        await hello(client)
        await say(client, type="send", message="Hello", client_msg_id="7c1f5a5e-6a0e-4b3d-9a77-0d2b6f0b9a11")
        parts.script.put("Good ")
        frames = await receive_until(client, "delta")
        assert frames[-1]["text"] == "Good "
        parts.script.put("morning.", None)
        assert (await receive_until(client, "message"))[-1]["content"] == "Good morning."


async def test_a_conversation_under_its_public_name_passes(parts: Stack, either: Nginx) -> None:
    parts.script.put("Good morning.", None)
    port = int(either.tls.rpartition(":")[2])
    origin = f"https://{NAME}"
    async with socket(origin, host="127.0.0.1", port=port, ssl=either.trust(), origin=origin) as client:
        await client.send('{"message": "Hello"}')
        assert (await receive_until(client, "message"))[-1]["content"] == "Good morning."


@needs.chromium
@pytest.mark.parametrize("scheme", ["plain", "tls"])
async def test_the_page_chats_through_nginx(parts: Stack, either: Nginx, scheme: str) -> None:
    parts.script.put("Good morning.", None)
    async with browser() as chromium, visitor(chromium, ignore_https_errors=True) as tab:
        await check_conversation(tab.page, getattr(either, scheme))
        assert tab.complaints == []


# Who is let in --------------------------------------------------------------------------------------------------------


async def test_a_page_of_another_site_gets_no_socket(either: Nginx) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(either.plain, origin="https://evil.example"):
            pass
    assert refused.value.response.status_code == 403


async def test_a_page_of_another_site_cannot_post(either: Nginx) -> None:
    headers = {"Origin": "https://evil.example"}
    async with aiohttp.ClientSession(either.plain) as session, session.post(API, json={}, headers=headers) as answer:
        assert answer.status == 403


async def test_a_name_that_was_pointed_here_by_dns_is_misdirected(front: Nginx) -> None:
    headers = {"Host": "evil.example"}
    async with aiohttp.ClientSession(front.plain) as session, session.get(API, headers=headers) as answer:
        assert answer.status == 421


async def test_the_gateway_logs_the_clients_address_whatever_the_client_says(
    front: Nginx, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="moorline.gateway")
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.5", 0))
    lies = {"X-Forwarded-For": "8.8.8.8", "X-Real-IP": "8.8.4.4", "Forwarded": "for=8.8.8.8"}
    async with (
        aiohttp.ClientSession(front.plain, connector=connector) as session,
        session.get(API, headers=lies) as answer,
    ):
        assert answer.status == 200
    assert "client=127.0.0.5 " in caplog.text
    assert "8.8." not in caplog.text


async def test_the_backend_learns_client_scheme_and_host_and_one_request_id(tmp_path: Path, folder: Path) -> None:
    heads: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with (
        raw.listening(raw.answering(answer, heads)) as port,
        stack(tmp_path, gateway={"upstream": (f"http://127.0.0.1:{port}",)}) as parts,
        nginx(folder, parts.gateway) as front,
        aiohttp.ClientSession(front.tls) as session,
        session.get(API, ssl=front.trust()) as response,
    ):
        said = dict(line.split(": ", 1) for line in heads[0].decode().splitlines()[1:] if line)
        assert said["Host"] == front.tls.removeprefix("https://")
        assert said["X-Forwarded-Host"] == said["Host"]
        assert said["X-Forwarded-Proto"] == "https"
        assert said["X-Real-IP"] == "127.0.0.1"
        assert said["X-Forwarded-For"] == "127.0.0.1, 127.0.0.1"
        assert said["X-Request-ID"] == response.headers["X-Request-ID"]
        assert f"request_id={said['X-Request-ID']}" in front.log()


# As it comes ----------------------------------------------------------------------------------------------------------


async def test_an_event_arrives_before_the_next_is_sent(tmp_path: Path, folder: Path) -> None:
    arrived = asyncio.Event()

    async def serve(connection: raw.Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        await connection.send(b"data: 1\n\n")
        await arrived.wait()
        await connection.send(b"data: 2\n\n")

    async with (
        raw.listening(serve) as port,
        stack(tmp_path, gateway={"upstream": (f"http://127.0.0.1:{port}",)}) as parts,
        nginx(folder, parts.gateway) as front,
        aiohttp.ClientSession(front.plain) as session,
        session.get("/api/events", headers={"Accept-Encoding": "gzip"}) as answer,
    ):
        assert await answer.content.readuntil(b"\n\n") == b"data: 1\n\n"
        arrived.set()
        assert await answer.content.readuntil(b"\n\n") == b"data: 2\n\n"


async def test_an_upload_passes_piece_by_piece(tmp_path: Path, folder: Path) -> None:
    first = asyncio.Event()

    async def serve(connection: raw.Connection) -> None:
        await connection.head()
        await connection.until(b"first")
        first.set()
        await connection.until(b"second")
        await connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async def upload() -> AsyncIterator[bytes]:
        yield b'"first '
        await first.wait()
        yield b'second"'

    async with (
        raw.listening(serve) as port,
        stack(tmp_path, gateway={"upstream": (f"http://127.0.0.1:{port}",)}) as parts,
        nginx(folder, parts.gateway) as front,
        aiohttp.ClientSession(front.plain) as session,
        session.post("/api/upload", data=upload(), headers={"Content-Type": "application/json"}) as answer,
    ):
        assert answer.status == 204


# Headers, caching, logs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/chat/patient:demo", "/chat.js", API, "/docs", "/missing.js"])
async def test_each_security_header_is_there_once(either: Nginx, path: str) -> None:
    async with aiohttp.ClientSession(either.tls) as session, session.get(path, ssl=either.trust()) as answer:
        assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers.getall("Referrer-Policy") == ["no-referrer"]
        assert answer.headers.getall("X-Frame-Options") == ["DENY"]
        assert answer.headers.getall("Strict-Transport-Security") == ["max-age=31536000"]


async def test_the_plain_port_sends_everybody_to_tls(front: Nginx) -> None:
    headers = {"Host": NAME}
    async with (
        aiohttp.ClientSession(front.redirect) as session,
        session.get("/chat/p1?x=1", headers=headers, allow_redirects=False) as answer,
    ):
        assert (answer.status, answer.headers["Location"]) == (301, f"https://{NAME}/chat/p1?x=1")


async def test_history_is_compressed(parts: Stack, front: Nginx) -> None:
    parts.script.put("Good morning. " * 200, None)
    async with socket(parts.backend) as client:
        await client.send('{"message": "Hello"}')
        await receive_until(client, "message")
    async with aiohttp.ClientSession(front.plain) as session, session.get(API) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert [row["role"] for row in await answer.json()] == ["user", "assistant"]


async def test_the_page_and_its_files_are_asked_for_again_and_not_sent_again(either: Nginx) -> None:
    async with aiohttp.ClientSession(either.plain) as session:
        for path in ("/chat/patient:demo", "/chat.js"):
            async with session.get(path) as first:
                assert (first.status, first.headers["Cache-Control"]) == (200, "no-cache")
            async with session.get(path, headers={"If-None-Match": first.headers["ETag"]}) as second:
                assert second.status == 304


async def test_hashed_files_are_kept_and_missing_ones_are_no_page(parts: Stack, folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "dist"
    (root / "assets").mkdir(parents=True)
    (root / "index.html").write_text("<title>page</title>")
    for name in ("index-BxY3k2_a.js", "my-document.js"):
        (root / "assets" / name).write_text("//")
    async with nginx(folder, parts.backend, root=root) as front, aiohttp.ClientSession(front.plain) as session:
        async with session.get("/assets/index-BxY3k2_a.js") as hashed:
            assert hashed.headers["Cache-Control"] == "max-age=315360000"
        async with session.get("/assets/my-document.js") as named:
            assert named.headers["Cache-Control"] == "no-cache"
        async with session.get("/orders/7") as route:
            assert await route.text() == "<title>page</title>"
        for path in ("/assets/index-00000000.js", "/assets/none", "/none.js", "/.env"):
            async with session.get(path) as missing:
                assert missing.status == 404


async def test_no_log_of_nginx_names_a_patient_or_a_session(front: Nginx, parts: Stack) -> None:
    async with aiohttp.ClientSession(front.plain) as session:
        for path in ("/chat/patient:demo", "/api/chat/secret-session/messages?patient_id=patient:demo"):
            async with session.get(path) as answer:
                await answer.read()
        async with session.get(SOCKET) as refused:
            assert refused.status == 400
    log = front.log()
    assert '"GET /api/..." 200' in log
    assert "patient" not in log
    assert "secret-session" not in log


async def test_a_backend_that_is_away_is_a_502_with_no_path_in_the_log(folder: Path) -> None:
    async with nginx(folder, "http://127.0.0.1:9") as front, aiohttp.ClientSession(front.plain) as session:
        async with session.get("/api/chat/secret-session/messages") as answer:
            assert answer.status == 502
        assert "secret-session" not in front.log()


async def test_health_is_not_for_the_world(either: Nginx) -> None:
    async with aiohttp.ClientSession(either.plain) as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(path) as answer:
                assert answer.status == 404


async def test_a_text_that_is_too_large_is_refused_in_the_backends_words(either: Nginx) -> None:
    text = {"patient_id": "patient:demo", "message": "x" * (1 << 19), "client_msg_id": "1"}
    async with (
        aiohttp.ClientSession(either.plain) as session,
        session.post(API, data=json.dumps(text), headers={"Content-Type": "application/json"}) as answer,
    ):
        assert (answer.status, (await answer.json())["code"]) == (413, "too_large")
