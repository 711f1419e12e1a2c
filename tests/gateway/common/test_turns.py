"""Turns of connections whose input is costly, and what comes when an iteration has no time left for it."""

import asyncio

import pytest
from aiohttp import web

from moorline.gateway.common.web import turns
from moorline.gateway.common.web.turns import Turns
from tests.gateway.common.test_server import served
from tests.support.faulty_upstream import STEP, Peer, dial

BODY = b"x" * 2000
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n" + BODY


async def test_an_iteration_that_has_spent_its_time_leaves_the_next_one_all_of_it() -> None:
    loop_turns = Turns(asyncio.get_running_loop())
    spent = []
    for seconds in (0.001, 0.002):
        loop_turns.spend(seconds)
        spent.append(loop_turns.are_spent)
    await asyncio.sleep(0)
    assert [*spent, loop_turns.are_spent] == [False, True, False]


async def test_requests_that_come_when_the_time_is_spent_wait_for_a_turn_and_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "_ITERATION_SECONDS", 0.0)
    queued = 0
    add = Turns.add

    def counted(self: Turns, connection: turns.Parsing) -> None:
        nonlocal queued
        queued += 1
        add(self, connection)

    monkeypatch.setattr(Turns, "add", counted)

    async def echo(request: web.Request) -> web.StreamResponse:
        return web.Response(body=await request.read())

    async def ask(peer: Peer) -> bytes:
        await peer.head()
        return await peer.exactly(len(BODY))

    async with (
        served(echo) as server,
        asyncio.timeout(STEP),
        dial(server.port) as one,
        dial(server.port) as two,
        dial(server.port) as three,
    ):
        # At once, so that one iteration finds all of them.
        for peer in (one, two, three):
            await peer.send(POST)
        assert [await ask(peer) for peer in (one, two, three)] == [BODY] * 3
    assert queued
