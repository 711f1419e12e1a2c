"""A session begins with its first message: a client that connects or reads before writes nothing and claims nothing."""

import asyncio
import contextlib
import itertools
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from moorline.backend.eventlog.base import epoch_bucket
from tests.support.backends import Script, backend, hello, receive, receive_until, say
from tests.support.eventlogs import exchange, opened, until

HANDSHAKES = 100


async def ended(socket: ClientConnection) -> tuple[list[str], int]:
    """What a socket still receives, and the code that it is closed with."""
    frames = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            frames.append((await receive(socket))["type"])
    assert socket.close_code is not None
    return frames, socket.close_code


async def poll(server: Any, **query: str) -> tuple[int, Any]:
    url = f"{server.http}/api/chat/s1/messages"
    async with aiohttp.ClientSession() as http, http.get(url, params=query) as response:
        return response.status, await response.json()


async def test_handshakes_polls_and_reads_leave_no_row(tmp_path: Path, database: str) -> None:
    async with backend(tmp_path, Script(), database=database) as server:
        for number in range(HANDSHAKES):
            async with server.socket(f"s{number}") as socket:
                await hello(socket)
        await poll(server)
        await poll(server, after="0", patient_id="patient:demo")
    async with opened(database) as log:
        assert await log.expire(time.time() + 1, limit=HANDSHAKES) == []


@pytest.mark.parametrize("version", [1, 2])
async def test_a_socket_of_another_patient_sees_nothing_of_the_session_that_begins(
    tmp_path: Path, database: str, version: int
) -> None:
    async with (
        backend(tmp_path, Script("Good day", None), database=database) as server,
        server.socket(patient="stranger") as early,
        server.socket(patient="patient:demo") as socket,
    ):
        if version == 2:
            await hello(early)
        else:
            await say(early, type="ping")
            await receive_until(early, "pong")
        await hello(socket)
        await say(socket, type="send", message="A private word", client_msg_id="c1")
        await receive_until(socket, "message")
        assert await ended(early) == ([], 4503)


async def test_a_held_poll_of_another_patient_is_refused_when_the_session_begins(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        _, body = await poll(server, after="0", patient_id="stranger")
        query = {"after": "0", "epoch": body["epoch"], "wait": "20", "patient_id": "stranger"}
        held = asyncio.create_task(poll(server, **query))
        await until(lambda: server.log._watches.watched().keys() == {"s1"})
        await exchange(server.log, "s1")
        status, _ = await held
        assert status == 403


async def test_a_client_comes_back_to_a_session_that_has_begun_meanwhile(tmp_path: Path, database: str) -> None:
    async with backend(tmp_path, Script(), database=database) as server, server.socket() as socket:
        greeting, snapshot = await hello(socket)
        assert (greeting["head"], snapshot["messages"]) == (0, [])
    resume = {"epoch": greeting["epoch"], "seq": 0}
    async with backend(tmp_path, Script(), database=database) as server:
        async with server.socket() as socket:
            assert [frame["recovered"] for frame in await hello(socket, resume=resume)] == [True]
        await exchange(server.log, "s1")
        async with server.socket() as socket:
            assert [frame["recovered"] for frame in await hello(socket, resume=resume)] == [True]
            assert [(await receive(socket))["type"] for _ in range(3)] == ["user", "status", "message"]


async def test_an_erasure_elsewhere_that_changes_the_epoch_costs_a_connected_client_nothing(
    tmp_path: Path, database: str
) -> None:
    names = (f"other{number}" for number in itertools.count())
    neighbour = next(name for name in names if epoch_bucket(name) == epoch_bucket("s1"))
    async with backend(tmp_path, Script(), database=database) as server, server.socket() as socket:
        epoch = (await hello(socket))[0]["epoch"]
        await exchange(server.log, neighbour)
        await server.log.delete_session(neighbour)
        await exchange(server.log, "s1")
        assert [(await receive(socket))["type"] for _ in range(3)] == ["user", "status", "message"]
        async with server.socket() as again:
            greeting, snapshot = await hello(again, resume={"epoch": epoch, "seq": 3})
            assert (greeting["recovered"], len(snapshot["messages"])) == (False, 2)
