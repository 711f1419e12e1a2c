"""The order in which a socket is sent what it gets."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from websockets.exceptions import ConnectionClosedError

from moorline.backend.delivery import OUTBOX_LIMIT, Delivery, Outbox
from moorline.backend.eventlog.base import RunHandle
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Finish
from moorline.backend.follower import Follower
from moorline.gateway.common.access.rights import Right
from moorline.gateway.common.collection import no_collection
from tests.support.backends import STEP, Script, backend, hello, receive, receive_until, say
from tests.support.eventlogs import NOW, exchange, handle_of, until


class Reading:
    """Holds one read of a log, so that something can happen meanwhile."""

    def __init__(self, log: EventLog) -> None:
        self._read = log.read_after
        self._held = False
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, *args: Any, **options: Any) -> Any:
        events = await self._read(*args, **options)
        if events and not self._held:
            self._held = True
            self.begun.set()
            await self.go_on.wait()
        return events


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], asyncio.Event]:
    """An event that is set after a method of Delivery was called."""

    def watch(name: str) -> asyncio.Event:
        event, method = asyncio.Event(), getattr(Delivery, name)

        def told(*args: Any) -> None:
            method(*args)
            event.set()

        monkeypatch.setattr(Delivery, name, told)
        return event

    return watch


async def after(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), STEP)


async def test_a_reply_goes_before_events_that_were_read_while_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Callable[[str], asyncio.Event]
) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        reading = Reading(server.log)
        monkeypatch.setattr(server.log, "read_after", reading)
        await exchange(server.log, "s1")
        await after(reading.begun)
        replied = called("reply")
        await say(socket, type="ping")
        await after(replied)
        reading.go_on.set()
        assert [(await receive(socket))["type"] for _ in range(2)] == ["pong", "user"]


async def test_a_hello_is_answered_before_events_that_were_read_while_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: Callable[[str], asyncio.Event]
) -> None:
    monkeypatch.setattr("moorline.backend.delivery._HELLO_SECONDS", 0.0)
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        reading = Reading(server.log)
        monkeypatch.setattr(server.log, "read_after", reading)
        await exchange(server.log, "s1")
        await after(reading.begun)
        greeted = called("greet")
        await say(socket, type="hello", v=2)
        await after(greeted)
        reading.go_on.set()
        assert [(await receive(socket))["type"] for _ in range(2)] == ["hello", "snapshot"]


# Text that is sent without waking the task ---------------------------------------------------------------------------


async def started(log: EventLog) -> RunHandle:
    return handle_of(await log.start_run("s1", "patient:demo", client_msg_id="c1", content="Hi", now=NOW))


async def test_a_socket_that_can_be_sent_nothing_more_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Follower, "read", AsyncMock(side_effect=RuntimeError("a bug")))
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await say(socket, type="hello", v=2)
        with pytest.raises(ConnectionClosedError):
            await receive_until(socket, "message")
    assert caplog.text.count("delivery failed") == 1


async def test_text_is_sent_at_its_commit_and_the_end_follows_it(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        run = await started(server.log)
        texts = ["a", "\u00e4" * 200, "x" * 20_000, "b"]
        for text in texts:
            await server.log.add_text(run, text)
        await server.log.end_run(run, finish=Finish.STOP, now=NOW)
        frames = await receive_until(socket, "message")
    assert [frame["text"] for frame in frames if frame["type"] == "delta"] == texts
    assert [frame["seq"] for frame in frames] == list(range(1, 8))


async def test_replies_that_wait_go_before_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Delivery, bool]] = []
    send_text = Delivery._send_text

    def sending(delivery: Delivery) -> bool:
        calls.append((delivery, send_text(delivery)))
        return calls[-1][1]

    monkeypatch.setattr(Delivery, "_send_text", sending)
    async with backend(tmp_path, Script()) as server, server.socket() as socket:
        await hello(socket)
        run = await started(server.log)
        await receive_until(socket, "status")
        await server.log.add_text(run, "a")
        assert (await receive(socket))["text"] == "a"
        delivery, sent = calls[-1]
        assert sent
        delivery._outbox.put(b'{"type":"pong"}')
        await server.log.add_text(run, "b")
        assert [(await receive(socket))["type"] for _ in range(2)] == ["pong", "delta"]


# The outbox -----------------------------------------------------------------------------------------------------------


def full() -> Outbox:
    outbox = Outbox()
    for _ in range(OUTBOX_LIMIT):
        outbox.put(b"{}")
    return outbox


async def waits(room: Awaitable[None]) -> "asyncio.Task[None]":
    async def wait() -> None:
        await room

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return waiting


async def test_the_reader_waits_while_the_outbox_is_full_and_goes_on_when_a_reply_was_taken() -> None:
    outbox = full()
    waiting = await waits(outbox.room())
    assert not waiting.done()
    assert outbox.take() == b"{}"
    await asyncio.wait_for(waiting, STEP)


async def test_the_reader_does_not_wait_for_room_in_an_outbox_that_has_some() -> None:
    outbox = full()
    outbox.take()
    assert (await waits(outbox.room())).done()


async def test_the_reader_waits_no_longer_once_the_outbox_is_closed() -> None:
    outbox = full()
    waiting = await waits(outbox.room())
    outbox.close()
    await asyncio.wait_for(waiting, STEP)


def of_sockets() -> int:
    kinds = (Delivery, RequestHandler, Right, web.Request)
    return sum(isinstance(each, kinds) for each in gc.get_objects())


async def test_a_socket_that_has_ended_is_freed_without_a_search_for_cycles(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        gc.collect()
        before = of_sockets()
        with no_collection():
            async with server.socket() as socket:
                await hello(socket)
                assert of_sockets() > before
            await until(lambda: of_sockets() == before)
