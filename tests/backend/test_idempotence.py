"""The same command any number of times, wherever it comes from: one user event, one run."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moorline.backend.errors import ErrorCode, LLMError
from moorline.backend.events import RunStarted, UserMessage
from tests.support.backends import STEP, Backend, Script, backend, hello, receive, receive_until, say


async def post(server: Backend, session: str = "s1", **members: Any) -> tuple[int, dict[str, Any]]:
    body = {"patient_id": "patient:demo", "message": "Hi", "client_msg_id": "c1", **members}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{server.http}/api/chat/{session}/messages", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def begun(server: Backend) -> tuple[int, int]:
    """How many user events and how many runs the log holds."""
    events = await server.log.read_after("s1", 0, limit=1000)
    kinds = [type(event) for event in events]
    return kinds.count(UserMessage), kinds.count(RunStarted)


async def sent(server: Backend) -> dict[str, Any]:
    async with server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        return (await receive_until(socket, "ack"))[-1]


async def test_one_message_on_many_sockets_and_by_post_at_once_is_one_run(tmp_path: Path) -> None:
    script = Script("hi")
    async with backend(tmp_path, script, drain=0.1) as server, asyncio.timeout(STEP):
        acks = await asyncio.gather(*(sent(server) for _ in range(8)))
        posts = [body for _, body in await asyncio.gather(*(post(server) for _ in range(8)))]
        assert await begun(server) == (1, 1)
        assert len({answer["run_id"] for answer in (*acks, *posts)}) == 1
        assert {answer["seq"] for answer in (*acks, *posts)} == {1}
        assert [answer["duplicate"] for answer in (*acks, *posts)].count(False) == 1
        await script.asked.wait()
        assert len(script.chats) == 1


async def test_the_same_id_with_another_text_is_rejected_on_every_way(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("hi", None)) as server:
        await post(server)
        status, problem = await post(server, message="Ho")
        assert (status, problem["code"], problem["retryable"]) == (409, "rejected", False)
        async with server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message="Ho", client_msg_id="c1")
            refused = (await receive_until(socket, "error"))[-1]
            assert (refused["code"], refused["client_msg_id"]) == ("rejected", "c1")
        assert await begun(server) == (1, 1)


async def test_a_repeated_retry_is_one_run_and_its_id_is_taken(tmp_path: Path) -> None:
    script = Script(LLMError(ErrorCode.LLM_UNAVAILABLE, "away"), "whole", None)
    async with backend(tmp_path, script) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        failed = (await receive_until(socket, "message"))[-1]["run_id"]
        for _ in range(3):
            await say(socket, type="retry", run_id=failed, client_msg_id="c2")
        frames = await receive_until(socket, "message")
        while sum(frame["type"] == "ack" for frame in frames) < 3:
            frames.append(await receive(socket))
        acks = [frame for frame in frames if frame["type"] == "ack"]
        assert [ack["duplicate"] for ack in acks] == [False, True, True]
        assert len({ack["run_id"] for ack in acks}) == 1
        assert await begun(server) == (1, 2)
        await say(socket, type="send", message="Hi", client_msg_id="c2")
        assert (await receive(socket))["code"] == "rejected"


async def test_a_full_process_still_acknowledges_what_it_committed_before(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), max_runs=1, drain=0.1) as server:
        first = (await post(server))[1]
        assert (await post(server, "s2"))[0] == 202
        status, problem = await post(server, "s3")
        assert (status, problem["code"], problem["retryable"]) == (503, "llm_busy", True)
        assert await post(server) == (202, {**first, "duplicate": True})


# rate_limit -----------------------------------------------------------------------------------------------------------


async def test_more_messages_in_a_minute_than_rate_limit_are_refused_and_repeats_are_not(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("a", None, "b", None), rate_limit=2) as server, server.socket() as socket:
        await hello(socket)
        for name in ("c1", "c2"):
            await say(socket, type="send", message="Hi", client_msg_id=name)
            await receive_until(socket, "message")
        await say(socket, type="send", message="Hi", client_msg_id="c3")
        refused = await receive(socket)
        assert (refused["code"], refused["retryable"], refused["client_msg_id"]) == ("rate_limited", True, "c3")
        assert 50 < refused["retry_after"] <= 60
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        assert (await receive(socket))["duplicate"] is True
        status, problem = await post(server, client_msg_id="c4")
        assert (status, problem["code"]) == (429, "rate_limited")
        assert (await post(server, "s2"))[0] == 202


async def test_a_retry_counts_as_a_message(tmp_path: Path) -> None:
    script = Script(LLMError(ErrorCode.LLM_BUSY, "429"), LLMError(ErrorCode.LLM_BUSY, "429"))
    async with backend(tmp_path, script, rate_limit=2) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        run_id = (await receive_until(socket, "message"))[-1]["run_id"]
        await say(socket, type="retry", run_id=run_id, client_msg_id="c2")
        await receive_until(socket, "message")
        await say(socket, type="retry", run_id=run_id, client_msg_id="c3")
        assert (await receive(socket))["code"] == "rate_limited"


async def test_a_minute_later_there_is_room_again_also_after_a_restart(tmp_path: Path, monkeypatch: Any) -> None:
    async with backend(tmp_path, Script("a", None), rate_limit=1) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "message")
    async with backend(tmp_path, Script("b", None), rate_limit=1) as server:
        assert (await post(server, client_msg_id="c2"))[0] == 429
        monkeypatch.setattr("moorline.backend.ratelimit._WINDOW_SECONDS", 0.001)
        assert (await post(server, client_msg_id="c2"))[0] == 202


def test_a_limit_of_nothing_is_refused() -> None:
    from moorline.backend.settings import Settings
    from moorline.gateway.common.errors import UsageError

    with pytest.raises(UsageError, match="rate_limit"):
        Settings(rate_limit=0)
