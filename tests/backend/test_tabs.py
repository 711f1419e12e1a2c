"""Several tabs and devices on one session."""

import asyncio
from pathlib import Path
from typing import Any

from tests.support.backends import STEP, Backend, Script, backend, hello, receive, receive_until, say
from tests.support.transcript import Transcript

TABS = 6
PIECES = 24


async def follow(server: Backend, opened: asyncio.Event, seen: list[dict[str, Any]]) -> Transcript:
    """Open a tab and read until the second answer has ended; raises Gap where an event is missing."""
    transcript = Transcript()
    async with server.socket() as socket:
        greeting, snapshot = await hello(socket)
        transcript.epoch = greeting["epoch"]
        transcript.fold(snapshot)
        opened.set()
        while sum(row.finish is not None for row in transcript.rows.values()) < 2:
            frame = await receive(socket)
            before = transcript.seq
            assert transcript.fold(frame) or "seq" not in frame or frame["type"] == "ack", (before, frame)
            if "seq" in frame and frame["type"] != "ack":
                seen.append(frame)
    return transcript


async def test_all_see_the_same_events_in_the_same_order_whenever_they_came(tmp_path: Path) -> None:
    script = Script()
    seen: list[list[dict[str, Any]]] = [[] for _ in range(TABS)]
    tabs: list[asyncio.Task[Transcript]] = []
    async with backend(tmp_path, script) as server, server.socket() as writer, asyncio.timeout(3 * STEP):
        await hello(writer)
        for answer in range(2):
            await say(writer, type="send", message=f"question {answer}", client_msg_id=f"c{answer}")
            for piece in range(PIECES):
                script.put(f"{piece} ")
                if piece % (2 * PIECES // TABS) == 0:
                    # The next tab opens here, in the middle of an answer.
                    opened = asyncio.Event()
                    tabs.append(asyncio.create_task(follow(server, opened, seen[len(tabs)])))
                    await opened.wait()
                await receive_until(writer, "delta")
            script.put(None)
            await receive_until(writer, "message")
        transcripts = await asyncio.gather(*tabs)
        fresh = Transcript()
        async with server.socket() as socket:
            fresh.fold((await hello(socket))[-1])
    for transcript in transcripts:
        assert shown(transcript) == shown(fresh)
    events = {frame["seq"]: frame for frames in seen for frame in frames}
    for frames in seen:
        assert [frame["seq"] for frame in frames] == sorted(frame["seq"] for frame in frames)
        assert frames == [events[frame["seq"]] for frame in frames]
    # They really came one after the other, and each saw some of the answer being written.
    assert len({frames[0]["seq"] for frames in seen}) == TABS
    assert all(any(frame["type"] == "delta" for frame in frames) for frames in seen)


def shown(transcript: Transcript) -> list[tuple[str, str, str, str | None]]:
    return [(row.message_id, row.role, row.content, row.finish) for row in transcript.rows.values()]


async def test_a_silent_client_of_version_1_gets_the_run_of_another_tab(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("hi", None)) as server, server.socket() as silent, server.socket() as one:
        await say(one, message="Hello")
        assert [(await receive(silent))["type"] for _ in range(2)] == ["status", "message"]


async def test_a_client_of_version_2_is_sent_nothing_of_version_1_before_its_hello(tmp_path: Path) -> None:
    script = Script("hi", None)
    async with backend(tmp_path, script) as server, server.socket() as late, server.socket() as one:
        await say(one, message="Hello")
        await receive_until(one, "message")
        await say(late, type="hello", v=2)
        assert [(await receive(late))["type"] for _ in range(2)] == ["hello", "snapshot"]
