"""A responder is checked before it is asked, and a wrong one is named by function and file."""

import asyncio
import functools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moorline.backend.app import create_app
from moorline.backend.offline import OfflineResponder
from moorline.backend.responder import Piece, Source, Status, Turn
from moorline.backend.service import as_service
from moorline.backend.settings import Settings
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.errors import UsageError
from tests.support.backends import backend, hello, receive_until, say

HERE = "in tests/backend/test_service.py, line "


async def answer(turn: Turn) -> AsyncIterator[Piece]:
    yield f"You said: {turn.message}"


class Chat:
    """With all that a responder may have."""

    name = "my chat"
    scripted = True

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def startup(self) -> None:
        self.calls.append("startup")

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        self.calls.append(turn.message)
        yield f"You said: {turn.message}"

    async def shutdown(self) -> None:
        self.calls.append("shutdown")


def returns_one(turn: Turn) -> AsyncIterator[Piece]:
    return answer(turn)


@functools.wraps(answer)
def traced(*arguments: Any) -> AsyncIterator[Piece]:
    return answer(*arguments)


@pytest.mark.parametrize("responder", [answer, Chat().answer, Chat(), returns_one, traced, OfflineResponder()])
def test_a_function_a_method_and_an_object_are_responders(responder: Any) -> None:
    assert callable(as_service(responder).answer)


def test_a_responder_is_called_by_its_own_name_or_where_it_is_defined() -> None:
    assert as_service(Chat()).name == "my chat"
    assert as_service(answer).name == f"{__name__}:answer"
    assert (as_service(Chat()).scripted, as_service(answer).scripted) == (True, False)


def synchronous(turn: Turn) -> str:
    return ""


async def coroutine(turn: Turn) -> str:
    return ""


async def without_a_turn() -> AsyncIterator[Piece]:
    yield ""


class WithoutAnswer:
    pass


class SyncStartup(Chat):
    def startup(self) -> None:  # type: ignore[override]
        pass


@pytest.mark.parametrize(
    ("responder", "words"),
    [
        (
            synchronous,
            f"responder: synchronous {HERE}* is not asynchronous; write `async def answer(turn)` with `yield`",
        ),
        (coroutine, f"responder: coroutine {HERE}* never yields; write `async def answer(turn)` with `yield`"),
        (Chat, f"responder: Chat {HERE}* is a class; name an object of it, as in `chat = Chat()`"),
        (without_a_turn, f"responder: without_a_turn {HERE}* must take one argument, the turn; write *"),
        (WithoutAnswer(), f"responder: WithoutAnswer {HERE}* has no method `answer`; write *"),
        (7, "responder: int in builtins has no method `answer`; write *"),
        (SyncStartup(), f"responder: SyncStartup.startup {HERE}* must be `async def startup(self)`"),
    ],
)
def test_a_wrong_responder_is_refused_in_one_line(responder: Any, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        create_app(Settings(), responder=responder)
    assert re.fullmatch(re.escape(words).replace(r"\*", ".+"), str(refused.value))


async def test_startup_comes_before_the_first_turn_and_shutdown_after_the_last(tmp_path: Path) -> None:
    chat = Chat()
    async with backend(tmp_path, chat) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        assert (await receive_until(socket, "message"))[-1]["content"] == "You said: Hi"
    assert chat.calls == ["startup", "Hi", "shutdown"]


async def raising() -> None:
    raise RuntimeError("no model\nin this folder")


async def test_a_startup_that_fails_is_one_line_that_names_function_and_file() -> None:
    chat: Any = Chat()
    chat.startup = raising
    with pytest.raises(UsageError) as refused:
        await as_service(chat).startup(1.0)
    assert str(refused.value).startswith(
        f"responder: startup failed: RuntimeError: no model in this folder (raising {HERE}"
    )


async def test_a_startup_that_never_returns_ends_by_run_timeout() -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    chat: Any = Chat()
    chat.startup = waits
    with pytest.raises(UsageError, match=r"did not return within run_timeout, 0\.01s"):
        await as_service(chat).startup(0.01)


async def test_a_shutdown_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    chat: Any = Chat()
    chat.shutdown = raising
    await as_service(chat).shutdown(1.0)
    assert "responder: shutdown failed: RuntimeError" in caplog.text


@pytest.mark.parametrize("over", ["websocket", "http"])
async def test_a_turn_has_the_sender_and_what_the_hook_says_of_it(tmp_path: Path, over: str) -> None:
    turns: list[Turn] = []

    async def ask(turn: Turn) -> AsyncIterator[Piece]:
        turns.append(turn)
        yield "Good day"

    async def authorize(*_: Any) -> Principal:
        return Principal("dr.who", metadata={"language": "de"})

    async with backend(tmp_path, ask, authorize=authorize) as server, server.socket() as socket:
        await hello(socket)
        if over == "websocket":
            await say(socket, type="send", message="Hi", client_msg_id="c1")
        else:
            body = {"patient_id": "patient:demo", "message": "Hi", "client_msg_id": "c1"}
            await post(f"{server.http}/api/chat/s1/messages", body)
        await receive_until(socket, "message")
    (turn,) = turns
    assert (turn.patient_id, turn.principal, turn.metadata) == ("patient:demo", "dr.who", {"language": "de"})


async def post(url: str, body: dict[str, str]) -> None:
    async with aiohttp.ClientSession() as http, http.post(url, json=body) as response:
        assert response.status == 202


async def test_parts_reach_clients_of_version_2_and_version_1_sees_text_alone(tmp_path: Path) -> None:
    async def with_parts(turn: Turn) -> AsyncIterator[Piece]:
        yield Status("looking up")
        yield "Good day"
        yield Source("Guideline", "/1")

    async with backend(tmp_path, with_parts) as server, server.socket() as new, server.socket() as old:
        await hello(new)
        await old.send('{"message": "Hi"}')
        frames = await receive_until(new, "message")
        source = {"kind": "source", "title": "Guideline", "url": "/1"}
        assert [frame["part"] for frame in frames if frame["type"] == "part"] == [
            {"kind": "status", "text": "looking up"},
            source,
        ]
        assert frames[-1]["parts"] == [source]
        assert [await old.recv() for _ in range(2)] == [
            '{"type":"status","status":"thinking"}',
            '{"type":"message","role":"assistant","content":"Good day"}',
        ]
