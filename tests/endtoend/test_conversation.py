"""The chat protocol, straight on the backend and through the gateway: the same frames, and the same ends."""

import asyncio
import contextlib
import socket as sockets
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from moorline.backend.protocol.codec import frame_limit
from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.support.backends import STEP, hello, receive, receive_until, say
from tests.support.stack import SOCKET, Stack, socket, stack

MESSAGE_ID = "7c1f5a5e-6a0e-4b3d-9a77-0d2b6f0b9a11"


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(tmp_path, backend_options={"max_bytes": 1000}) as started:
        yield started


@pytest.fixture(params=["backend", "gateway"])
def url(request: pytest.FixtureRequest, parts: Stack) -> str:
    """Where the client connects."""
    return parts.backend if request.param == "backend" else parts.gateway


# Version 1 ------------------------------------------------------------------------------------------------------------


async def test_the_seed_conversation_is_byte_for_byte_the_documented_one(parts: Stack, url: str) -> None:
    parts.script.put("Hel", "lo, ünïcode", None)
    async with socket(url) as client, asyncio.timeout(STEP):
        await client.send('{"message":"Hello"}')
        assert await client.recv() == '{"type":"status","status":"thinking"}'
        assert await client.recv() == '{"type":"message","role":"assistant","content":"Hello, ünïcode"}'


async def test_a_ping_is_answered_with_a_pong_and_a_pong_with_nothing(url: str) -> None:
    async with socket(url) as client, asyncio.timeout(STEP):
        await client.send('{"type":"pong"}')
        await client.send('{"type":"ping"}')
        assert await client.recv() == '{"type":"pong"}'


@pytest.mark.parametrize("way", ["backend", "gateway"])
async def test_the_server_pings_at_its_interval(tmp_path: Path, way: str) -> None:
    async with stack(tmp_path, backend_options={"v1_ping": 0.02}) as parts:
        url = parts.backend if way == "backend" else parts.gateway
        async with socket(url) as client, asyncio.timeout(STEP):
            assert [await client.recv(), await client.recv()] == ['{"type":"ping"}'] * 2


# Version 2 ------------------------------------------------------------------------------------------------------------


async def test_a_conversation_of_version_2_streams_and_is_there_afterwards(parts: Stack, url: str) -> None:
    async with socket(url) as client:
        greeting, snapshot = await hello(client)
        assert (greeting["v"], greeting["recovered"], snapshot["messages"]) == (2, False, [])
        await say(client, type="send", message="Hello", client_msg_id=MESSAGE_ID)
        # The ack is the command's, the others are the log's; which comes first is not said.
        frames = [await receive(client) for _ in range(3)]
        assert sorted(frame["type"] for frame in frames) == ["ack", "status", "user"]
        parts.script.put("Good ")
        assert (await receive(client))["text"] == "Good "
        parts.script.put("morning.", None)
        final = (await receive_until(client, "message"))[-1]
        assert (final["content"], final["finish"]) == ("Good morning.", "stop")
    async with socket(url) as client:
        _, snapshot = await hello(client)
        assert [row["content"] for row in snapshot["messages"]] == ["Hello", "Good morning."]


async def test_a_socket_that_comes_back_gets_what_it_missed(parts: Stack, url: str) -> None:
    async with socket(url) as client:
        greeting, _ = await hello(client)
        await say(client, type="send", message="Hello", client_msg_id=MESSAGE_ID)
        seen = (await receive_until(client, "status"))[-1]["seq"]
    parts.script.put("Good morning.", None)
    async with socket(url) as client:
        again = await hello(client, resume={"epoch": greeting["epoch"], "seq": seen})
        assert again[-1]["recovered"] is True
        assert (await receive_until(client, "message"))[-1]["content"] == "Good morning."


async def test_polling_shows_what_the_socket_wrote(parts: Stack, url: str) -> None:
    parts.script.put("Good morning.", None)
    async with socket(url) as client:
        await say(client, message="Hello")
        await receive_until(client, "message")
    async with aiohttp.ClientSession(url) as session, session.get("/api/chat/s1/messages") as answer:
        assert [row["content"] for row in await answer.json()] == ["Hello", "Good morning."]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/ws/chat/patient:demo/a%20b", "/ws/chat/patient:demo/" + "x" * 129, "/ws/chat/p%C3%A4tient/s1"],
    ids=["space", "too long", "not ASCII"],
)
async def test_ids_that_do_not_match_are_refused_before_the_upgrade(url: str, path: str) -> None:
    assert await _refused(url, path) == 400


async def test_a_page_of_another_site_gets_no_socket(url: str) -> None:
    assert await _refused(url, SOCKET, origin="https://evil.example") == 403


async def test_a_session_of_another_patient_is_forbidden(url: str) -> None:
    async with socket(url) as client:
        await hello(client)
        await say(client, type="send", message="Hi", client_msg_id="c1")
        await receive_until(client, "ack")
        assert await _refused(url, "/ws/chat/patient:other/s1") == 403


@pytest.mark.parametrize("frame", ["{", "[]", "{}", '{"type":"unknown"}', '{"message":7}'])
async def test_a_frame_that_is_not_understood_is_a_bad_request_and_the_socket_stays(url: str, frame: str) -> None:
    async with socket(url) as client:
        await client.send(frame)
        refused = await receive(client)
        assert (refused["type"], refused["code"]) == ("error", "bad_request")
        await say(client, type="ping")
        assert await receive(client) == {"type": "pong"}


async def test_the_third_bad_frame_within_a_minute_closes_4500(url: str) -> None:
    async with socket(url) as client:
        for _ in range(3):
            await client.send("{")
        assert await _close_code(client) == 4500


async def test_text_over_max_bytes_is_too_large(url: str) -> None:
    async with socket(url) as client:
        await say(client, message="x" * 1001)
        assert (await receive(client))["code"] == "too_large"


async def test_a_frame_that_no_text_could_need_closes_1009(url: str) -> None:
    async with socket(url) as client:
        # It may come while the client still sends.
        with contextlib.suppress(ConnectionClosed):
            await client.send("x" * (frame_limit(1000) + 1))
        assert await _close_code(client) == 1009


async def test_a_binary_frame_closes_1003(url: str) -> None:
    async with socket(url) as client:
        await client.send(b"\x00\x01")
        assert await _close_code(client) == 1003


# An unreachable backend -----------------------------------------------------------------------------------------------


@pytest.fixture
async def alone() -> AsyncIterator[str]:
    """A gateway whose upstream refuses: a port that is bound and not listened on."""
    with sockets.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        upstream = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = Settings(host="127.0.0.1", port=0, upstream=(upstream,), drain=1.0, connect_retry=None)
        async with server.running(settings) as started:
            yield started.addresses[0]


async def test_without_a_backend_the_page_still_loads(alone: str) -> None:
    async with aiohttp.ClientSession(alone) as session, session.get("/chat/patient:demo") as page:
        assert (page.status, page.content_type) == (200, "text/html")


async def test_without_a_backend_the_api_is_a_502_with_an_id_to_look_for(alone: str) -> None:
    async with aiohttp.ClientSession(alone) as session, session.get("/api/chat/s1/messages") as answer:
        problem = await answer.json()
        assert (answer.status, problem["code"]) == (502, "internal")
        assert problem["request_id"] == answer.headers["X-Request-ID"]


async def test_without_a_backend_the_sockets_handshake_is_a_502(alone: str) -> None:
    assert await _refused(alone, SOCKET) == 502


async def _refused(url: str, path: str, **options: str) -> int:
    """The status that the handshake got."""
    with pytest.raises(InvalidStatus) as refused:
        async with socket(url, path, **options):
            pass
    return refused.value.response.status_code


async def _close_code(client: ClientConnection) -> int | None:
    """The code of the Close frame that ends the socket."""
    async with asyncio.timeout(STEP):
        await client.wait_closed()
    return client.close_code
