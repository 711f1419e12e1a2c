"""Turns of connections whose input is costly, and what comes when an iteration has no time left for it."""

import asyncio

import pytest
from aiohttp import web

from moorline.gateway.common.web import messages, server, turns
from moorline.gateway.common.web.turns import Turns
from tests.gateway.common.test_server import served
from tests.support.faulty_upstream import STEP, Peer, dial

BODY = b"x" * 2000
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + BODY
CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"1\r\nx\r\n" * 2000
CHUNKED = CHUNKED_HEAD + CHUNKS + b"0\r\n\r\n"


async def test_an_iteration_that_has_spent_its_time_leaves_the_next_one_all_of_it() -> None:
    loop_turns = Turns(asyncio.get_running_loop())
    spent = []
    for seconds in (0.001, 0.002):
        loop_turns.spend(seconds)
        spent.append(loop_turns.are_spent)
    await asyncio.sleep(0)
    assert [*spent, loop_turns.are_spent] == [False, True, False]


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[turns.Parsing]:
    """The connections that have waited for a turn, where no iteration has any time."""
    found: list[turns.Parsing] = []
    add = Turns.add

    def noted(self: Turns, connection: turns.Parsing) -> None:
        found.append(connection)
        add(self, connection)

    monkeypatch.setattr(turns, "_ITERATION_SECONDS", -1.0)
    monkeypatch.setattr(Turns, "add", noted)
    return found


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read())


async def received(peer: Peer) -> bytes:
    await peer.head()
    return await peer.exactly(len(BODY))


async def test_chunks_that_come_when_the_time_is_spent_wait_for_a_turn(queued: list[turns.Parsing]) -> None:
    async with served(echo) as running, asyncio.timeout(STEP), dial(running.port) as one, dial(running.port) as two:
        for peer in (one, two):
            await peer.send(CHUNKED)
        assert [await received(peer) for peer in (one, two)] == [BODY] * 2
    assert queued


@pytest.mark.parametrize("parts", [[POST], [POST[:100], POST[100:]], [POST[:-1500], POST[-1500:]]], ids=len)
async def test_a_body_of_a_known_length_waits_for_no_turn(queued: list[turns.Parsing], parts: list[bytes]) -> None:
    async with served(echo) as running, asyncio.timeout(STEP), dial(running.port) as peer:
        for part in parts:
            await peer.send(part)
            await asyncio.sleep(0)
        assert await received(peer) == BODY
    assert not queued


@pytest.mark.parametrize("size", [97, 4096, 1 << 20])
@pytest.mark.usefixtures("queued")
async def test_requests_that_are_cut_anywhere_are_answered_in_order(size: int) -> None:
    async def question_or_body(request: web.Request) -> web.StreamResponse:
        return web.Response(body=request.query_string.encode() or await request.read())

    asked = [b"GET /?%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number for number in range(2)]
    async with served(question_or_body) as running, asyncio.timeout(STEP), dial(running.port) as peer:
        await peer.send_in_pieces(b"".join(POST + each + CHUNKED for each in asked), size)
        for number in range(2):
            assert await received(peer) == BODY
            await peer.head()
            assert await peer.exactly(1) == b"%d" % number
            assert await received(peer) == BODY


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_MOST_WAITING", 0)
    # Reads are small where socket buffers are.
    monkeypatch.setattr(messages, "_FREE", 0)


@pytest.mark.usefixtures("queued", "no_room")
async def test_chunks_that_there_is_no_room_for_are_refused_and_nothing_behind_them_is_read() -> None:
    async with served(echo) as running, asyncio.timeout(STEP), dial(running.port) as one, dial(running.port) as two:
        await one.send(CHUNKED_HEAD + CHUNKS)
        await one.send(b"0\r\n\r\n" + POST)
        answers = await one.rest()
        assert answers.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in answers
        assert answers.count(b"HTTP/1.1 ") == 1
        await two.send(POST)
        assert await received(two) == BODY


@pytest.mark.usefixtures("queued", "no_room")
async def test_requests_that_there_is_no_room_for_behind_another_are_not_begun() -> None:
    async with served(echo) as running, asyncio.timeout(STEP), dial(running.port) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        answers = await peer.rest()
        assert answers.startswith(b"HTTP/1.1 200 ")
        assert (answers.count(b"HTTP/1.1 "), answers.count(b"\r\nConnection: close\r\n")) == (1, 1)


@pytest.mark.usefixtures("queued", "no_room")
async def test_headers_that_there_is_no_room_for_are_answered_503() -> None:
    async with served(echo) as running, asyncio.timeout(STEP), dial(running.port) as peer:
        await peer.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 6000 + b"\r\n\r\n")
        assert (await peer.head()).startswith(b"HTTP/1.0 503 ")
