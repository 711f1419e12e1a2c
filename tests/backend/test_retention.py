"""Sessions without new messages, and sessions that are erased while a client follows them."""

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from moorline.backend.eventlog.log import EventLog
from moorline.backend.settings import Settings
from moorline.gateway.common.errors import UsageError
from tests.support import needs
from tests.support.backends import STEP, Script, backend, hello, receive, receive_until, say
from tests.support.eventlogs import database_at, exchange, opened


async def write(log: EventLog, session_id: str, *, age: float) -> None:
    """An exchange that ended `age` seconds ago."""
    await exchange(log, session_id, at=time.time() - age)


async def gone(log: EventLog, session_id: str) -> None:
    watch = log.watch(session_id)
    async with asyncio.timeout(STEP):
        while await log.find_session(session_id) is not None:
            await watch.wait()


async def end(socket: Any) -> int:
    """The code that the socket is closed with, after it said that the session was erased."""
    await receive_until(socket, "deleted")
    with pytest.raises(ConnectionClosed) as closed:
        await receive(socket)
    assert closed.value.rcvd is not None
    return int(closed.value.rcvd.code)


async def test_old_sessions_are_erased_at_the_start_and_young_ones_stay(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        for number in range(250):
            await write(log, f"old{number}", age=1000.0)
        await write(log, "young", age=10.0)
    audit = tmp_path / "audit"
    async with backend(tmp_path, Script(), retention=500.0, audit_log=str(audit)) as server:
        for number in range(250):
            await gone(server.log, f"old{number}")
        assert await server.log.find_session("young") is not None
    found = [json.loads(line) for line in read(audit)]
    assert len(found) == 250
    assert {(line["who"], line["action"], line["outcome"]) for line in found} == {("retention", "expire", "ok")}


@needs.postgres
async def test_a_process_whose_clock_is_ahead_erases_nothing_that_is_young(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    async with opened(postgres_database) as log:
        await write(log, "young", age=10.0)
        await write(log, "old", age=1000.0)
        monkeypatch.setattr(time, "time", lambda: clock() + 86_400)
        async with backend(tmp_path, Script(), retention=500.0, database=postgres_database) as server:
            await gone(server.log, "old")
            assert await server.log.find_session("young") is not None


def read(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


async def test_a_session_that_grows_old_is_erased_under_the_eyes_of_its_sockets(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("text", None), retention=0.5) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "message")
        assert await end(socket) == 4504
        assert await server.log.find_session("s1") is None


async def test_a_session_whose_answer_is_under_way_is_not_old(tmp_path: Path) -> None:
    script = Script("text")
    async with backend(tmp_path, script, retention=0.2) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "delta")
        await write(server.log, "s2", age=0.0)
        async with server.socket("s2") as other:
            await hello(other)
            # This one was swept after the other had become as old.
            await end(other)
        script.put(None)
        assert (await receive_until(socket, "message"))[-1]["content"] == "text"


async def test_without_the_option_nothing_is_erased(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await write(log, "old", age=1e9)
    async with backend(tmp_path, Script()) as server:
        assert await server.log.find_session("old") is not None


def test_a_retention_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="retention"):
        Settings(retention=0.0)


async def test_delete_closes_every_socket_of_the_session_and_no_other(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, contextlib.AsyncExitStack() as stack:
        await write(server.log, "s1", age=0.0)
        tabs = [await stack.enter_async_context(server.socket()) for _ in range(3)]
        old = await stack.enter_async_context(server.socket())
        other = await stack.enter_async_context(server.socket("s2"))
        for socket in (*tabs, other):
            await hello(socket)
        await say(old, type="ping")
        await receive(old)
        async with aiohttp.ClientSession() as http, http.delete(f"{server.http}/api/chat/s1") as answer:
            assert answer.status == 204
        assert [await end(socket) for socket in tabs] == [4504] * 3
        # Version 1 has no word for it.
        with pytest.raises(ConnectionClosed) as closed:
            await receive(old)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4504
        await say(other, type="ping")
        await receive_until(other, "pong")


async def test_a_poll_under_way_learns_of_the_erasure(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, aiohttp.ClientSession() as http:
        await write(server.log, "s1", age=0.0)
        info = await server.log.find_session("s1")
        assert info is not None
        url = f"{server.http}/api/chat/s1"
        query = {"after": str(info.head.seq), "epoch": info.head.epoch, "wait": "20"}
        waiting = asyncio.create_task(http.get(f"{url}/messages", params=query))
        # The answer to a request that came later: the poll is waiting by now.
        async with http.get(f"{url}/messages") as answer:
            await answer.read()
        async with http.delete(url) as answer:
            assert answer.status == 204
        async with asyncio.timeout(STEP):
            body = await (await waiting).json()
        # The epoch that the session will have when it begins anew.
        assert body["epoch"] not in ("", info.head.epoch)
        assert (body["recovered"], body["events"][0]["messages"]) == (False, [])
