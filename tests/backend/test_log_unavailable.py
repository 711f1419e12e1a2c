"""The database is gone for a while: reads and sends fail and say so, sockets stay, and all goes on by itself."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from moorline.backend.eventlog.factory import open_log
from tests.support.backends import STEP, Script, backend, hello, receive, receive_until, say
from tests.support.eventlogs import FaultyLog

SEND = {"patient_id": "patient:demo", "message": "Hi", "client_msg_id": "c9"}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FaultyLog]]:
    """The log of the backend that the test starts."""
    made: list[FaultyLog] = []

    def faulty(database: str, **options: Any) -> Any:
        made.append(FaultyLog(open_log(database, **options)))
        return made[-1]

    monkeypatch.setattr("moorline.backend.app.open_log", faulty)
    for module in ("delivery", "run", "writer"):
        monkeypatch.setattr(f"moorline.backend.{module}.LOG_RETRY_SECONDS", 0.05)
    yield made
    assert len(made) == 1


async def test_reads_and_sends_fail_and_may_be_tried_again(tmp_path: Path, log: list[FaultyLog]) -> None:
    async with backend(tmp_path, Script("hi", None)) as server, server.socket() as socket:
        await hello(socket)
        log[0].unavailable = True
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        refused = await receive(socket)
        assert (refused["code"], refused["retryable"], refused["client_msg_id"]) == ("internal", True, "c1")
        url = f"{server.http}/api/chat/s1"
        async with aiohttp.ClientSession() as http:
            for method, path, body in (
                ("GET", "/messages", None),
                ("GET", "/messages?after=0&epoch=", None),
                ("POST", "/messages", SEND),
                ("POST", "/retry", {"run_id": "r", "client_msg_id": "c"}),
                ("POST", "/cancel", {"run_id": "r"}),
                ("DELETE", "", None),
            ):
                async with http.request(method, f"{url}{path}", json=body) as answer:
                    problem = await answer.json()
                    assert (answer.status, problem["code"], problem["retryable"]) == (503, "internal", True)
            async with http.get(f"{server.http}/readyz") as answer:
                assert answer.status == 503
        with pytest.raises(InvalidStatus) as late:
            await server.socket()
        assert late.value.response.status_code == 503
        log[0].unavailable = False
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        assert (await receive_until(socket, "message"))[-1]["content"] == "hi"


async def test_an_answer_and_its_readers_go_on_where_they_were(tmp_path: Path, log: list[FaultyLog]) -> None:
    script = Script("one ")
    # A Pong has half of it to come.
    async with backend(tmp_path, script, heartbeat=1.0) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        frames = await receive_until(socket, "delta")
        log[0].unavailable = True
        script.put("two ", "three")
        # The socket lives: pings come, and are answered.
        await receive_until(socket, "ping")
        await say(socket, type="ping")
        await receive_until(socket, "pong")
        log[0].unavailable = False
        script.put(None)
        frames += await receive_until(socket, "message")
        assert (frames[-1]["content"], frames[-1]["finish"]) == ("one two three", "stop")
        seqs = [frame["seq"] for frame in frames if "seq" in frame and frame["type"] != "ack"]
        assert seqs == sorted(set(seqs))


async def test_the_end_of_an_answer_is_written_when_the_log_is_restored(tmp_path: Path, log: list[FaultyLog]) -> None:
    script = Script("one ")
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "delta")
        log[0].unavailable = True
        script.put("two", None)
        await asyncio.wait_for(script.closed.wait(), STEP)
        log[0].unavailable = False
        end = (await receive_until(socket, "message"))[-1]
        assert (end["content"], end["finish"]) == ("one two", "stop")


async def test_a_cancel_while_the_log_is_unavailable_is_kept(tmp_path: Path, log: list[FaultyLog]) -> None:
    script = Script("one ")
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        run_id = (await receive_until(socket, "delta"))[-1]["run_id"]
        log[0].unavailable = True
        await say(socket, type="cancel", run_id=run_id)
        await asyncio.wait_for(script.closed.wait(), STEP)
        log[0].unavailable = False
        end = (await receive_until(socket, "message"))[-1]
        assert (end["content"], end["finish"]) == ("one ", "cancelled")


async def test_a_hello_is_answered_when_the_log_is_restored(tmp_path: Path, log: list[FaultyLog]) -> None:
    async with backend(tmp_path, Script(), v1_ping=0.05) as server, server.socket() as socket:
        log[0].unavailable = True
        await say(socket, type="hello", v=2)
        async with aiohttp.ClientSession() as http, http.get(f"{server.http}/readyz") as answer:
            assert answer.status == 503
        log[0].unavailable = False
        frames = await receive_until(socket, "snapshot")
        assert [frame["type"] for frame in frames][-2:] == ["hello", "snapshot"]


async def test_a_run_that_finds_no_history_ends_and_can_be_retried(tmp_path: Path, log: list[FaultyLog]) -> None:
    script = Script()
    async with backend(tmp_path, script, max_runs=1) as server, server.socket() as one, server.socket("s2") as two:
        for socket in (one, two):
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            run_id = (await receive_until(socket, "ack"))[-1]["run_id"]
        # The second waits for its turn, which comes while the log is unavailable.
        log[0].unavailable = True
        script.put(None)
        await asyncio.wait_for(script.closed.wait(), STEP)
        script.put("whole", None)
        log[0].unavailable = False
        end = (await receive_until(two, "message"))[-1]
        if end["finish"] == "error":
            assert end["error"] == {"code": "internal", "retryable": True}
            await say(two, type="retry", run_id=run_id, client_msg_id="c2")
            end = (await receive_until(two, "message"))[-1]
        assert end["content"] == "whole"
