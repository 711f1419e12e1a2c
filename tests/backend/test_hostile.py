"""Hostile clients: what they send is refused, and no other client waits for it."""

import asyncio
import contextlib
import json
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from moorline.backend.delivery import Delivery
from moorline.backend.events import Finish
from moorline.gateway.common.web.connection import Connection
from moorline.gateway.common.web.turns import _FIRST_SLICE as FIRST_SLICE
from moorline.gateway.common.web.turns import _LARGEST_SLICE as LARGEST_SLICE
from tests.support.backends import STEP, Backend, Script, backend, hello, receive, receive_until, say
from tests.support.faulty_upstream import dial, handshake
from tests.support.websocket_frames import PING, frame

BIG = 64 << 10
EMPTY_PING = frame(PING, b"", key=b"\1\2\3\4")


async def raw(server: Backend, head: str, body: bytes = b"") -> str:
    """The first line of the answer to a request that no client library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(head.replace("\n", "\r\n").encode() + body)
        return (await asyncio.wait_for(reader.readline(), STEP)).decode().strip()
    finally:
        writer.close()


async def close_code(socket: ClientConnection) -> int | None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await receive(socket)
    return socket.close_code


def post(headers: str = "", length: int = 2) -> str:
    head = f"POST /api/chat/s1/messages HTTP/1.1\nHost: localhost\nContent-Length: {length}\n"
    return f"{head}Content-Type: application/json\n{headers}\n"


@pytest.mark.parametrize(
    "query",
    [
        "before=9223372036854775808",
        "before=1_0",
        "before=%2B5",
        "before=%D9%A3",
        "before=-1",
        "limit=0",
        "limit=1_0",
        "after=0&wait=nan",
        "after=0&wait=inf",
        "after=0&wait=1_0",
    ],
)
async def test_a_number_that_is_none_is_a_bad_request(tmp_path: Path, query: str) -> None:
    async with backend(tmp_path, Script()) as server:
        line = await raw(server, f"GET /api/chat/s1/messages?{query} HTTP/1.1\nHost: localhost\n\n")
        assert line.split()[1] == "400"


async def test_a_cursor_beyond_what_a_database_counts_gets_a_snapshot(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, aiohttp.ClientSession() as http:
        async with http.get(f"{server.http}/api/chat/s1/messages?after=9999999999999999999") as answer:
            assert (answer.status, (await answer.json())["recovered"]) == (200, False)
        async with server.socket() as socket:
            assert (await hello(socket, resume={"epoch": "x", "seq": 2**63}))[0]["recovered"] is False


async def test_the_last_seq_that_a_database_counts_gets_a_snapshot_of_a_session_that_has_begun(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("a", None)) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "message")
        begun = await server.log.session_for("s1", "patient:demo")
        cursor = {"epoch": begun.head.epoch, "seq": 2**63 - 1}
        async with server.socket() as other:
            assert (await hello(other, resume=cursor))[0]["recovered"] is False
        url = f"{server.http}/api/chat/s1/messages?after={cursor['seq']}&epoch={cursor['epoch']}"
        async with aiohttp.request("GET", url) as answer:
            assert (answer.status, (await answer.json())["recovered"]) == (200, False)


@pytest.mark.parametrize("key", [b"\xff", b"abc", b"====", b""])
async def test_a_handshake_whose_key_is_none_is_refused(tmp_path: Path, key: bytes) -> None:
    async with backend(tmp_path, Script()) as server, dial(server.port) as peer:
        await peer.send(handshake("/ws/chat/p1/s1").replace(b"dGhlIHNhbXBsZSBub25jZQ==", key))
        assert (await peer.head()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("name", [".", ".."])
@pytest.mark.parametrize("path", ["/api/chat/{}/messages", "/ws/chat/p1/{}"])
async def test_an_id_that_is_a_step_in_a_path_is_refused(tmp_path: Path, path: str, name: str) -> None:
    async with backend(tmp_path, Script()) as server:
        line = await raw(server, f"GET {path.format(name)} HTTP/1.1\nHost: localhost\n\n")
        assert line.split()[1] == "400"


async def test_a_body_with_a_content_encoding_is_not_read(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        assert (await raw(server, post("Content-Encoding: gzip\n"), b"{}")).split()[1] == "415"
        assert (await raw(server, post("Content-Encoding: identity\n"), b"{}")).split()[1] == "400"


async def test_a_body_that_never_ends_is_given_up(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), message_timeout=0.1) as server:
        assert (await raw(server, post(length=100), b"{")).split()[1] == "408"


async def test_who_erases_may_name_the_patient_in_the_body_and_must_name_the_right_one(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, aiohttp.ClientSession() as http:
        url = f"{server.http}/api/chat/s1"
        async with server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            await receive_until(socket, "ack")
        async with http.delete(url, json={"patient_id": "other"}) as answer:
            assert answer.status == 403
        async with http.delete(url, json={"patient_id": "patient:demo"}) as answer:
            assert answer.status == 204


async def test_a_head_request_switches_no_protocol(tmp_path: Path) -> None:
    upgrade = "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n"
    head = f"HEAD /ws/chat/p1/s1 HTTP/1.1\nHost: localhost\n{upgrade}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\n\n"
    async with backend(tmp_path, Script()) as server:
        assert (await raw(server, head)).split()[1] == "405"


async def test_a_long_frame_that_says_nothing_is_bad_and_the_third_ends_the_socket(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        for _ in range(3):
            await say(socket, type="ping", x=[1] * 10_000)
        assert (await receive(socket))["code"] == "bad_request"
        assert await close_code(socket) == 4500


async def test_a_frame_longer_than_any_message_can_be_ends_the_socket(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        # It may be closed before all was taken.
        with contextlib.suppress(ConnectionClosed):
            await socket.send(json.dumps({"type": "ping", "x": "x" * 6 * BIG + "x" * 5000}))
        assert await close_code(socket) == 1009


async def test_of_a_flood_of_pings_few_are_parsed_before_those_that_came_first_are_received(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = received = most = 0
    parse, answer = Connection._parse_messages, Delivery.answer_ping

    def parsing(connection: Connection, data: bytes) -> None:
        nonlocal parsed, most
        parsed += len(data) // len(EMPTY_PING)
        most = max(most, parsed - received)
        parse(connection, data)

    def answering(delivery: Delivery, payload: bytes) -> None:
        nonlocal received
        received += 1
        answer(delivery, payload)

    monkeypatch.setattr(Connection, "_parse_messages", parsing)
    monkeypatch.setattr(Delivery, "answer_ping", answering)
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        parsed = received = most = 0
        socket.transport.write(EMPTY_PING * 20_000)
        await say(socket, type="ping")
        assert [(await receive(socket))["type"]] == ["pong"]
    assert received == 20_000
    # The frames of a largest slice, and those of the read before it.
    assert most <= (LARGEST_SLICE + FIRST_SLICE) // len(EMPTY_PING)


async def test_frames_that_come_one_by_one_wait_for_no_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    turn = Connection.turn

    async def counted(connection: Connection) -> None:
        nonlocal turns
        turns += 1
        await turn(connection)

    monkeypatch.setattr(Connection, "turn", counted)
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        for _ in range(40):
            await say(socket, type="ping")
            await receive(socket)
        assert turns == 0
        socket.transport.write(EMPTY_PING * 40)
        await say(socket, type="ping")
        await receive(socket)
    assert turns > 0


async def test_a_page_of_rows_is_bounded_in_bytes_and_before_goes_on(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, aiohttp.ClientSession() as http:
        for number in range(20):
            run = await server.log.start_run("s1", "p1", client_msg_id=f"c{number}", content="x" * BIG, now=1.0)
            assert run.handle is not None
            await server.log.end_run(run.handle, finish=Finish.STOP, now=1.0, text="y" * BIG)
        sizes, seqs, before = [], [], ""
        while True:
            async with http.get(f"{server.http}/api/chat/s1/messages{before}") as answer:
                rows = await answer.json()
            if not rows:
                break
            sizes.append(sum(len(row["content"]) for row in rows))
            seqs += [row["seq"] for row in reversed(rows)]
            before = f"?before={rows[0]['seq']}"
        assert max(sizes) <= 1 << 20
        assert (len(seqs), seqs) == (40, sorted(set(seqs), reverse=True))
