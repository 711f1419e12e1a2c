"""What workers ask each other, on real socket pairs."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from moorline.gateway.common.web.draining import DRAINING, Draining
from moorline.gateway.inspector.shared import answering
from moorline.gateway.keys import SIBLINGS
from moorline.gateway.siblings import Answers, Hub, Siblings

Answer = Callable[[Any], Awaitable[Any]]


async def echo(message: Any) -> Any:
    return message


@contextlib.asynccontextmanager
async def joined(hub: Hub, answer: Answer = echo) -> AsyncIterator[Siblings]:
    with hub.member() as descriptor:
        siblings = Siblings(socket.socket(fileno=os.dup(descriptor)))
        async with siblings.answering(answer):
            yield siblings


async def test_all_others_answer_and_the_one_that_asks_is_not_asked() -> None:
    hub = Hub()

    async def third(message: Any) -> Any:
        return {"third": message}

    async with joined(hub) as asking, joined(hub), joined(hub, third):
        await known(asking, 2)
        answers = await asking.ask("x" * 300_000, seconds=5)
    assert sorted(map(str, answers.bodies)) == sorted(("x" * 300_000, str({"third": "x" * 300_000})))
    assert answers.silent == 0


async def test_one_without_siblings_gets_no_answer() -> None:
    async with joined(Hub()) as alone:
        assert await alone.ask("x", seconds=5) == Answers([], 0)


async def test_one_that_does_not_answer_in_time_is_silent_and_the_others_answer() -> None:
    hub = Hub()

    async def never(message: Any) -> Any:
        await asyncio.Event().wait()

    async with joined(hub) as asking, joined(hub), joined(hub, never), joined(hub, never):
        await known(asking, 1)
        assert await asking.ask("x", seconds=0.2) == Answers(["x"], 2)
        # What comes too late is no answer to the next question.
        assert await asking.ask("y", seconds=0.2) == Answers(["y"], 2)


async def test_one_that_ends_before_it_answers_is_silent() -> None:
    hub, asked = Hub(), asyncio.Event()

    async def hang(message: Any) -> Any:
        asked.set()
        await asyncio.Event().wait()

    async with joined(hub) as asking:
        async with joined(hub, hang):
            question = asyncio.create_task(asking.ask("x", seconds=5))
            await asked.wait()
        assert await question == Answers([], 1)


async def test_an_answer_that_fails_is_none_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()

    async def fail(message: Any) -> Any:
        raise RuntimeError("broken")

    async with joined(hub) as asking, joined(hub, fail):
        await known(asking, 1)
        assert await asking.ask("x", seconds=5) == Answers([None], 0)
    assert "broken" in caplog.text


async def test_what_a_worker_is_told_of_the_drain_has_room_for_its_last_steps() -> None:
    hub, app = Hub(), web.Application()
    draining = app[DRAINING] = Draining()
    with hub.member() as descriptor:
        app[SIBLINGS] = Siblings(socket.socket(fileno=os.dup(descriptor)))
        async with contextlib.asynccontextmanager(answering)(app), asyncio.timeout(5):
            while not draining.is_set():
                # The parent learns of the worker in a later turn of the loop.
                hub.tell({"drain": 1.0})
                await asyncio.sleep(0.01)
    # The second is that of the Close frames, and of handlers that are cancelled.
    assert draining.is_over()


async def known(asking: Siblings, others: int) -> None:
    """Return when so many can be asked and answer."""
    async with asyncio.timeout(5):
        while len((await asking.ask("ready", seconds=0.1)).bodies) < others:
            pass
