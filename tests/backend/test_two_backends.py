"""Two backends on one database are one chat: whatever is said or done at either is so at both."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection

from tests.support import needs
from tests.support.backends import STEP, Backend, Script, backend, hello, receive_until, say
from tests.support.eventlogs import until

pytestmark = needs.postgres


@contextlib.asynccontextmanager
async def two(folder: Path, database: str, one: Script, other: Script) -> AsyncIterator[tuple[Backend, Backend]]:
    """Two backends, each with its own model."""
    async with (
        backend(folder, one, database=database) as first,
        backend(folder, other, database=database) as second,
    ):
        yield first, second


@contextlib.asynccontextmanager
async def two_tabs(
    folder: Path, database: str, one: Script, other: Script
) -> AsyncIterator[tuple[ClientConnection, ClientConnection]]:
    """A socket at each of two backends, both greeted."""
    async with two(folder, database, one, other) as (first, second), first.socket() as here, second.socket() as there:
        await hello(here)
        await hello(there)
        yield here, there


async def test_an_answer_is_seen_and_cancelled_at_the_other_backend(tmp_path: Path, postgres_database: str) -> None:
    script = Script("Good ")
    async with two_tabs(tmp_path, postgres_database, script, Script()) as (here, there):
        await say(here, type="send", message="Hi", client_msg_id="c1")
        delta = (await receive_until(there, "delta"))[-1]
        assert delta["text"] == "Good "
        await say(there, type="cancel", run_id=delta["run_id"])
        ends = [(await receive_until(socket, "message"))[-1] for socket in (here, there)]
        assert ends[0] == ends[1]
        assert (ends[0]["content"], ends[0]["finish"]) == ("Good ", "cancelled")
        await asyncio.wait_for(script.closed.wait(), STEP)


async def test_a_message_that_is_sent_at_both_has_one_run(tmp_path: Path, postgres_database: str) -> None:
    scripts = Script("Good day", None), Script("Good day", None)
    async with two_tabs(tmp_path, postgres_database, *scripts) as tabs:
        await asyncio.gather(*(say(socket, type="send", message="Hi", client_msg_id="c1") for socket in tabs))
        frames = [await receive_until(socket, "message") for socket in tabs]
        acks = [frame for each in frames for frame in each if frame["type"] == "ack"]
        seen = [[frame for frame in each if "seq" in frame and frame["type"] != "ack"] for each in frames]
        assert seen[0][-1] == seen[1][-1]
        assert len({ack["run_id"] for ack in acks} | {seen[0][-1]["run_id"]}) == 1
    assert sum(len(script.chats) for script in scripts) == 1


async def test_an_erased_chat_closes_the_sockets_and_the_run_of_the_other_backend(
    tmp_path: Path, postgres_database: str
) -> None:
    script = Script("Good ")
    async with two(tmp_path, postgres_database, script, Script()) as (one, other), one.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "delta")
        async with (
            aiohttp.ClientSession() as http,
            http.delete(f"{other.http}/api/chat/s1") as answer,
        ):
            assert answer.status == 204
        await receive_until(socket, "deleted")
        await socket.wait_closed()
        assert socket.close_code == 4504
        await asyncio.wait_for(script.closed.wait(), STEP)


async def test_who_resumes_at_the_other_backend_misses_nothing(tmp_path: Path, postgres_database: str) -> None:
    script = Script("Good ")
    async with two(tmp_path, postgres_database, script, Script()) as (one, other):
        async with one.socket() as socket:
            greeting = (await hello(socket))[0]
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            last = (await receive_until(socket, "delta"))[-1]["seq"]
        async with other.socket() as socket:
            (again,) = await hello(socket, resume={"epoch": greeting["epoch"], "seq": last})
            assert again["recovered"] is True
            script.put("day", None)
            frames = await receive_until(socket, "message")
            # The end may come in the place of the text before it; then `from_seq` says so.
            assert frames[0].get("from_seq", frames[0]["seq"]) <= last + 1
            assert [frame["seq"] for frame in frames] == list(range(frames[0]["seq"], frames[-1]["seq"] + 1))
            assert frames[-1]["content"] == "Good day"


async def test_a_poll_at_the_other_backend_is_answered_when_the_answer_comes(
    tmp_path: Path, postgres_database: str
) -> None:
    script = Script()
    async with (
        two(tmp_path, postgres_database, script, Script()) as (one, other),
        aiohttp.ClientSession() as http,
        one.socket() as socket,
    ):
        greeting = (await hello(socket))[0]
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "status")
        query = {"after": "2", "epoch": greeting["epoch"], "wait": "20"}
        polling = asyncio.create_task(http.get(f"{other.http}/api/chat/s1/messages", params=query).__aenter__())
        await until(lambda: other.log._watches.watched().keys() == {"s1"})
        script.put("Good ")
        body = await (await polling).json()
        assert [event["type"] for event in body["events"]] == ["delta"]


@pytest.mark.parametrize("words", [(), ("Good ",)], ids=["before its first word", "in the middle"])
async def test_a_backend_that_goes_leaves_its_run_to_the_other(
    tmp_path: Path, postgres_database: str, words: tuple[str, ...]
) -> None:
    """A drain ends its runs; one that was not drained, as its process died, is found by the other."""
    heir = Script("Good day", None)
    async with backend(tmp_path, heir, database=postgres_database) as other, other.socket() as socket:
        await hello(socket)
        async with backend(tmp_path, Script(*words), database=postgres_database) as one:
            started = await one.log.start_run(
                "s1", "patient:demo", client_msg_id="c1", content="Hi", now=1_700_000_000.0
            )
            assert started.handle is not None
            for word in words:
                await one.log.add_text(started.handle, word)
        end = (await receive_until(socket, "message"))[-1]
    expected = ("Good ", "interrupted") if words else ("Good day", "stop")
    assert (end["content"], end["finish"]) == expected
