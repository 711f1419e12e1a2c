"""Coming back with a position, on the socket and in polling: what is missing, or a snapshot; never silence or a gap."""

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moorline.backend.events import Finish
from tests.support.backends import STEP, Backend, Script, backend, hello, receive, receive_until, say
from tests.support.eventlogs import NOW, exchange, handle_of
from tests.support.transcript import Transcript

WAYS = pytest.mark.parametrize("way", ["socket", "polling"])


async def by_socket(server: Backend, seen: Transcript, resume: Any) -> bool:
    async with server.socket(max_size=None) as socket:
        frames = await hello(socket, **({} if resume is None else {"resume": resume}))
        seen.epoch = frames[0]["epoch"]
        for frame in frames[1:]:
            seen.fold(frame)
        while seen.seq < frames[0]["head"]:
            seen.fold(await receive(socket))
    return bool(frames[0]["recovered"])


async def by_polling(server: Backend, seen: Transcript, resume: Any) -> bool:
    cursor = resume or {"epoch": "", "seq": 0}
    recovered = True
    async with aiohttp.ClientSession() as http, asyncio.timeout(STEP):
        while True:
            query = {"after": cursor["seq"], "epoch": cursor["epoch"]}
            async with http.get(f"{server.http}/api/chat/s1/messages", params=query) as response:
                body = await response.json()
            recovered = recovered and body["recovered"]
            for frame in body["events"]:
                seen.fold(frame)
            cursor = {"seq": body["head"], "epoch": body["epoch"]}
            seen.epoch = body["epoch"]
            if not body["events"]:
                assert seen.seq == body["head"]
                return bool(recovered)


async def come_back(server: Backend, way: str, seen: Transcript, resume: Any = None) -> bool:
    """Resume, by default from where `seen` ends, and read to the head; whether the server recovered."""
    resume = resume or seen.resume
    return await (by_socket if way == "socket" else by_polling)(server, seen, resume)


def shown(seen: Transcript) -> list[tuple[str, str, str | None]]:
    return [(row.role, row.content, row.finish) for row in seen.rows.values()]


async def truth(server: Backend) -> list[tuple[str, str, str | None]]:
    fresh = Transcript()
    assert not await by_socket(server, fresh, None)
    return shown(fresh)


async def ask(server: Backend, script: Script, number: int, *lines: Any) -> None:
    """One more message; returns once `lines` are in the log."""
    async with server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message=f"question {number}", client_msg_id=f"c{number}")
        for line in lines:
            script.put(line)
            await receive_until(socket, "message" if line is None else "delta")


async def views_of_every_seq(server: Backend, script: Script) -> list[Transcript]:
    """What a client had seen that left behind each event of two answers, the second under way."""
    views = [Transcript()]
    async with server.socket() as socket:
        greeting, snapshot = await hello(socket)
        views[0].epoch = greeting["epoch"]
        views[0].fold(snapshot)
        answers: list[list[str | None]] = [["one ", "two ", "three", None], ["four ", "five"]]
        for number, lines in enumerate(answers):
            await say(socket, type="send", message=f"question {number}", client_msg_id=f"c{number}")
            for line in lines:
                script.put(line)
                for frame in await receive_until(socket, "message" if line is None else "delta"):
                    view = copy.deepcopy(views[-1])
                    if view.fold(frame):
                        views.append(view)
    return views


@WAYS
async def test_a_client_that_left_after_any_event_gets_all_that_is_missing(tmp_path: Path, way: str) -> None:
    script = Script()
    async with backend(tmp_path, script, drain=0.1) as server:
        views = await views_of_every_seq(server, script)
        assert [view.seq for view in views] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
        for view in views:
            assert await come_back(server, way, view) is True
            assert shown(view) == await truth(server)


@WAYS
async def test_a_client_that_left_before_a_restart_gets_all_that_is_missing(tmp_path: Path, way: str) -> None:
    script = Script()
    async with backend(tmp_path, script, drain=0.1) as server:
        views = await views_of_every_seq(server, script)
    async with backend(tmp_path, script, drain=0.1) as server:
        for view in views:
            assert await come_back(server, way, view) is True
            assert shown(view) == await truth(server)
            assert shown(view)[-1] == ("assistant", "four five", "interrupted")


@WAYS
async def test_between_two_answers_nothing_is_replayed(tmp_path: Path, way: str) -> None:
    script = Script()
    async with backend(tmp_path, script, drain=0.1) as server:
        await ask(server, script, 1, "text", None)
        seen = Transcript()
        await come_back(server, way, seen)
        before = shown(seen)
        assert await come_back(server, way, seen) is True
        assert shown(seen) == before


@WAYS
@pytest.mark.parametrize(
    "resume",
    [
        {"epoch": "lost", "seq": 2},
        {"epoch": "", "seq": 0},
        {"epoch": "right", "seq": 99},
        {"epoch": "right", "seq": 10**30},
        {"epoch": "right", "seq": -1},
        {"epoch": "right", "seq": "x"},
        {"epoch": "right", "seq": 1.5},
    ],
    ids=json.dumps,
)
async def test_a_position_that_cannot_be_followed_gets_a_snapshot_of_all(
    tmp_path: Path, way: str, resume: dict[str, Any]
) -> None:
    script = Script()
    async with backend(tmp_path, script, drain=0.1) as server:
        await ask(server, script, 1, "text", None)
        await ask(server, script, 2, "half")
        info = await server.log.find_session("s1")
        assert info is not None
        resume = {**resume, "epoch": info.head.epoch if resume["epoch"] == "right" else resume["epoch"]}
        seen = Transcript()
        assert await come_back(server, way, seen, resume) is False
        assert shown(seen) == await truth(server)
        assert shown(seen)[-1] == ("assistant", "half", None)


@WAYS
async def test_a_little_behind_is_replayed_and_ten_thousand_events_get_a_snapshot(tmp_path: Path, way: str) -> None:
    async with backend(tmp_path, Script(), drain=0.1) as server:
        run = handle_of(await server.log.start_run("s1", "patient:demo", client_msg_id="c1", content="Hi", now=NOW))
        await asyncio.gather(*(server.log.add_text(run, f"{number} ") for number in range(10_000)))
        expected = await truth(server)
        assert len(expected[-1][1]) > 40_000
        epoch = (await server.log.find_session("s1")).head.epoch  # type: ignore[union-attr]
        far = Transcript()
        assert await come_back(server, way, far, {"epoch": epoch, "seq": 2}) is False
        assert shown(far) == expected
        near = Transcript()
        near.seq = 8_002
        assert await come_back(server, way, near, {"epoch": epoch, "seq": 8_002}) is True
        assert near.rows[run.message_id].content == "".join(f"{number} " for number in range(8_000, 10_000))
        assert near.seq == 10_002


async def test_a_poll_that_is_cut_into_portions_says_where_to_go_on(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), drain=0.1) as server, aiohttp.ClientSession() as http:
        run = handle_of(await server.log.start_run("s1", "patient:demo", client_msg_id="c1", content="Hi", now=NOW))
        await asyncio.gather(*(server.log.add_text(run, "x") for _ in range(1_000)))
        epoch = (await server.log.find_session("s1")).head.epoch  # type: ignore[union-attr]
        async with http.get(f"{server.http}/api/chat/s1/messages?after=2&epoch={epoch}") as response:
            body = await response.json()
        assert body["head"] == body["events"][-1]["seq"] < 1_002


async def test_a_socket_never_takes_the_log_of_a_new_session_for_that_of_an_erased_one(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), drain=0.1) as server, server.socket() as socket:
        await exchange(server.log, "s1")
        await hello(socket)
        # One batch: the socket is told of both at once.
        await asyncio.gather(
            server.log.delete_session("s1"),
            server.log.start_run("s1", "patient:demo", client_msg_id="c1", content="another log", now=NOW),
        )
        assert await receive(socket) == {"type": "deleted"}


async def test_a_snapshot_holds_the_newest_rows_that_fit_and_says_that_there_are_earlier_ones(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), drain=0.1) as server, aiohttp.ClientSession() as http:
        for number in range(40):
            content = f"{number} " + "x" * 60_000
            run = handle_of(
                await server.log.start_run("s1", "patient:demo", client_msg_id=f"c{number}", content=content, now=NOW)
            )
            await server.log.end_run(run, finish=Finish.STOP, now=NOW, text=f"answer {number}")
        async with server.socket(max_size=None) as socket:
            _, snapshot = await hello(socket)
        assert snapshot["earlier"] is True
        assert len(json.dumps(snapshot)) < 1.1 * (1 << 20)
        assert snapshot["messages"][-1]["content"] == "answer 39"
        first = snapshot["messages"][0]["seq"]
        async with http.get(f"{server.http}/api/chat/s1/messages?before={first}&limit=1") as response:
            (older,) = await response.json()
        assert older["seq"] < first
