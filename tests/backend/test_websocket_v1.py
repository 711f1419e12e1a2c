"""The seed conversation and the rest of version 1, with a client that is not ours."""

import asyncio
import contextlib
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from moorline.backend.errors import ErrorCode, LLMError
from tests.support.backends import STEP, Script, backend, receive, say
from tests.support.eventlogs import exchange
from tests.support.faulty_upstream import dial, handshake
from tests.support.websocket_frames import parse


async def test_the_seed_conversation_is_byte_for_byte_the_documented_one(tmp_path: Path) -> None:
    script = Script("Hel", "lo, ünïcode", None)
    async with backend(tmp_path, script) as server, server.socket() as socket, asyncio.timeout(STEP):
        await socket.send('{"message":"Hello"}')
        assert await socket.recv() == '{"type":"status","status":"thinking"}'
        assert await socket.recv() == '{"type":"message","role":"assistant","content":"Hello, ünïcode"}'


async def test_a_ping_is_answered_with_a_pong(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket, asyncio.timeout(STEP):
        await socket.send('{"type":"ping"}')
        assert await socket.recv() == '{"type":"pong"}'


@pytest.mark.parametrize("before", ["the first message", "later ones"])
async def test_a_websocket_ping_is_answered_with_a_websocket_pong(tmp_path: Path, before: str) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        if before == "later ones":
            await say(socket, type="ping")
            assert await receive(socket) == {"type": "pong"}
        async with asyncio.timeout(STEP):
            await (await socket.ping(b"1"))
        await say(socket, type="ping")
        assert await receive(socket) == {"type": "pong"}


async def test_the_server_pings_at_its_interval(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), v1_ping=0.02) as server, server.socket() as socket, asyncio.timeout(STEP):
        assert [await socket.recv(), await socket.recv()] == ['{"type":"ping"}'] * 2


async def test_a_second_message_while_one_is_answered_is_busy_and_the_first_goes_on(tmp_path: Path) -> None:
    script = Script()
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await say(socket, message="one")
        await receive(socket)
        await say(socket, message="two")
        refused = await receive(socket)
        assert (refused["type"], refused["code"]) == ("error", "busy")
        script.put("first", None)
        assert (await receive(socket))["content"] == "first"


async def test_every_tab_of_a_session_sees_the_answer(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("hi", None)) as server, server.socket() as one, server.socket() as two:
        await say(one, message="Hello")
        assert [(await receive(two))["type"] for _ in range(2)] == ["status", "message"]


async def test_a_run_that_began_before_the_socket_is_not_shown(tmp_path: Path) -> None:
    script = Script()
    async with backend(tmp_path, script) as server, server.socket() as one:
        await say(one, message="Hello")
        await receive(one)
        async with server.socket() as late:
            script.put("unseen", None)
            await receive(one)
            script.put("seen", None)
            await say(one, message="again")
            assert (await receive(late))["type"] == "status"
            assert (await receive(late))["content"] == "seen"


@pytest.mark.parametrize("before", [(), ("Half",)])
async def test_a_failed_answer_is_an_error_without_the_providers_words(tmp_path: Path, before: tuple[str, ...]) -> None:
    script = Script(*before, LLMError(ErrorCode.LLM_UNAVAILABLE, "sk-secret timed out"))
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await say(socket, message="Hello")
        await receive(socket)
        assert await receive(socket) == {
            "type": "error",
            "code": "llm_unavailable",
            "message": "The assistant cannot be reached right now.",
        }


@pytest.mark.parametrize("frame", ["{", "[]", "1", '{"message":1}', '{"type":"nope"}', '{"message":""}', "[" * 9999])
async def test_a_frame_that_is_not_understood_is_a_bad_request(tmp_path: Path, frame: str) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await socket.send(frame)
        assert (await receive(socket))["code"] == "bad_request"


async def test_the_third_bad_frame_within_a_minute_closes_4500(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        for _ in range(3):
            await socket.send("{")
        for _ in range(3):
            assert (await receive(socket))["type"] == "error"
        with pytest.raises(ConnectionClosed) as closed:
            await receive(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4500


async def test_a_binary_frame_closes_1003(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await socket.send(b"\0")
        with pytest.raises(ConnectionClosed) as closed:
            await receive(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1003


async def test_text_over_max_bytes_is_too_large_counted_as_utf_8(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("ok", None), max_bytes=4) as server, server.socket() as socket:
        await say(socket, message="üüü")
        assert (await receive(socket))["code"] == "too_large"
        await say(socket, message="üü")
        assert (await receive(socket))["type"] == "status"


async def test_a_client_gets_the_close_frame_while_it_is_sending_a_message_that_is_too_large(tmp_path: Path) -> None:
    size, part = 8 << 20, b"y" * (1 << 16)
    async with backend(tmp_path, Script()) as server, dial(server.port) as client, asyncio.timeout(STEP):
        await client.send(handshake("/ws/chat/p/s"))
        await client.head()
        # All of it before a look at what the server says, as browsers do.
        await client.send(b"\x81\xff" + size.to_bytes(8, "big") + b"mask")
        for _ in range(size // len(part)):
            await client.send(part)
        data, end = await client.end()
        assert end == "FIN"
        assert parse(data)[-1].close[0] == 1009


async def test_a_giant_frame_closes_1009(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        # It may be closed before all was taken.
        with contextlib.suppress(ConnectionClosed):
            await socket.send('{"message":"' + "x" * (1 << 20))
        with pytest.raises(ConnectionClosed) as closed:
            await receive(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


async def test_ids_that_do_not_match_are_refused_before_the_upgrade(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        with pytest.raises(InvalidStatus) as refused:
            await server.socket(session="a%20b")
        assert refused.value.response.status_code == 400


async def test_a_session_of_another_patient_is_forbidden(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        await exchange(server.log, "s1", patient_id="p1")
        with pytest.raises(InvalidStatus) as refused:
            await server.socket(patient="p2")
        assert refused.value.response.status_code == 403


async def test_a_page_of_another_site_is_forbidden(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        with pytest.raises(InvalidStatus) as refused:
            await server.socket(origin="https://evil.example")
        assert refused.value.response.status_code == 403
