"""The production configuration in a real nginx: in front of the gateway, and straight in front of the backend."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from moorline.gateway.site.static import BUILT_IN
from tests.support import needs, raw
from tests.support.backends import hello, receive, receive_until, say
from tests.support.browser import browser, check_conversation, visitor
from tests.support.nginx import NAME, Nginx, check, listener, nginx, running, write
from tests.support.stack import Stack, socket, stack

pytestmark = needs.nginx

API = "/api/chat/s1/messages"
LIMIT_OF_THREE = "limit_conn moorline_connections 3;"


@pytest.mark.parametrize("root", [None, BUILT_IN], ids=["gateway", "folder"])
async def test_nginx_accepts_the_configuration_without_a_warning(nginx_folder: Path, root: Path | None) -> None:
    await write(nginx_folder, [8080, 8081, 8443], "http://127.0.0.1:4321", root=root)
    said = await check(nginx_folder)
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
    # The whole browser, where other tests take its part without windows.
    async with browser("chromium") as chromium, visitor(chromium, ignore_https_errors=True) as tab:
        await check_conversation(tab.page, getattr(either, scheme))
        assert tab.complaints == []


# Access control -------------------------------------------------------------------------------------------------------


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


async def test_the_backend_learns_client_scheme_and_host_and_one_request_id(tmp_path: Path, nginx_folder: Path) -> None:
    heads: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    async with (
        raw.listening(raw.answering(answer, heads)) as port,
        stack(tmp_path, gateway={"upstream": (f"http://127.0.0.1:{port}",)}) as parts,
        nginx(nginx_folder, parts.gateway) as front,
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


async def test_only_listed_headers_of_a_client_reach_the_backend(tmp_path: Path, nginx_folder: Path) -> None:
    heads: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    forged = ("X-Forwarded-User", "X-Forwarded-Email", "Remote-User", "X-Auth-Request-User", "X-Original-URL", "X-Any")
    async with (
        raw.listening(raw.answering(answer, heads)) as port,
        stack(tmp_path, gateway={"upstream": (f"http://127.0.0.1:{port}",)}) as parts,
        nginx(nginx_folder, parts.gateway) as front,
        aiohttp.ClientSession(front.plain) as session,
        session.get(API, headers={"Authorization": "Bearer t", "Cookie": "a=b", **dict.fromkeys(forged, "root")}),
    ):
        said = dict(line.split(": ", 1) for line in heads[0].decode().splitlines()[1:] if line)
    assert (said["Authorization"], said["Cookie"]) == ("Bearer t", "a=b")
    assert not {name.lower() for name in forged} & {name.lower() for name in said}


async def test_more_requests_of_one_address_than_the_burst_get_429(either: Nginx) -> None:
    # At once: what comes as fast as a busy machine answers may be slower than the rate.
    async with aiohttp.ClientSession(either.plain, connector=aiohttp.TCPConnector(limit=0)) as session:

        async def status() -> int:
            async with session.get("/missing.js") as answer:
                return answer.status

        statuses = await asyncio.gather(*(status() for _ in range(900)))
    assert statuses.count(404) >= 500
    assert set(statuses) == {404, 429}


async def test_one_connection_more_of_an_address_than_limit_conn_gets_503(nginx_folder: Path) -> None:
    request, held = b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n", asyncio.Semaphore(0)

    async def hold(connection: raw.Connection) -> None:
        await connection.head()
        held.release()
        await connection.ended()

    async with raw.listening(hold) as gateway, contextlib.AsyncExitStack() as stack:
        sockets = [stack.enter_context(listener()) for _ in range(3)]
        ports = [each.getsockname()[1] for each in sockets]
        await write(nginx_folder, ports, f"http://127.0.0.1:{gateway}")
        # Three instead of a thousand, of which `limit_req` lets no more than a hundred come in a second.
        conf = nginx_folder / "moorline" / "chat.conf"
        conf.write_text(conf.read_text().replace("limit_conn moorline_connections 1000;", LIMIT_OF_THREE))
        await stack.enter_async_context(running(nginx_folder, sockets))
        clients = [await stack.enter_async_context(raw.dial(ports[0])) for _ in range(4)]
        for client in clients[:3]:
            await client.send(request)
            await held.acquire()
        await clients[3].send(request)
        assert (await clients[3].head()).startswith(b"HTTP/1.1 503 ")


# As it comes ----------------------------------------------------------------------------------------------------------


async def test_an_event_arrives_before_the_next_is_sent(tmp_path: Path, nginx_folder: Path) -> None:
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
        nginx(nginx_folder, parts.gateway) as front,
        aiohttp.ClientSession(front.plain) as session,
        session.get("/api/events", headers={"Accept-Encoding": "gzip"}) as answer,
    ):
        assert await answer.content.readuntil(b"\n\n") == b"data: 1\n\n"
        arrived.set()
        assert await answer.content.readuntil(b"\n\n") == b"data: 2\n\n"


async def test_an_upload_passes_piece_by_piece(tmp_path: Path, nginx_folder: Path) -> None:
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
        nginx(nginx_folder, parts.gateway) as front,
        aiohttp.ClientSession(front.plain) as session,
        session.post("/api/upload", data=upload(), headers={"Content-Type": "application/json"}) as answer,
    ):
        assert answer.status == 204


async def test_a_text_that_is_too_large_is_refused_in_the_backends_words(either: Nginx) -> None:
    text = {"patient_id": "patient:demo", "message": "x" * (1 << 19), "client_msg_id": "1"}
    async with (
        aiohttp.ClientSession(either.plain) as session,
        session.post(API, data=json.dumps(text), headers={"Content-Type": "application/json"}) as answer,
    ):
        assert (answer.status, (await answer.json())["code"]) == (413, "too_large")
