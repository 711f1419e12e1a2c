"""The responders that gateway/docs/backend.md shows do what it says, as they stand there."""

import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import pytest

from moorline.backend.responder import Piece, Prompt, Source, Status, Turn
from moorline.backend.service import as_service
from moorline.gateway.site.docs import DOCS
from tests.support.openai_server import DONE, finish, openai_server, says
from tests.support.process import started_command

PAGE = (DOCS / "backend.md").read_text(encoding="utf-8")
TURN = Turn(message="Hi", history=[Prompt("user", "one"), Prompt("assistant", "two")], patient_id="patient:4711")


def blocks(heading: str) -> list[str]:
    """The Python below a heading."""
    section = re.split(r"^##", PAGE.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def module(name: str, **members: Any) -> ModuleType:
    found = ModuleType(name)
    vars(found).update(members)
    return found


@pytest.fixture
def clinic(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The package of a person's own that the examples import, and the calls to it."""
    calls: list[Any] = []

    class IntelligentChatService:
        async def initialize(self) -> None:
            calls.append("initialize")

        async def process_message(self, message: str, *, patient_id: str, session_id: str) -> dict[str, Any]:
            calls.append((message, patient_id, session_id))
            return {"response": "Good day", "sources": [{"title": "Record", "url": "/record/1"}]}

        async def close(self) -> None:
            calls.append("close")

    class Graph:
        async def astream(self, state: dict[str, Any], *, stream_mode: str) -> AsyncIterator[tuple[Any, Any]]:
            calls.append((state, stream_mode))
            for text in ("Good ", "day"):
                yield SimpleNamespace(text=text), {}

    class Agent:
        @asynccontextmanager
        async def run_stream(self, prompt: str, *, deps: str) -> AsyncIterator[Any]:
            calls.append((prompt, deps))

            async def stream_text(*, delta: bool) -> AsyncIterator[str]:
                for text in ("Good ", "day"):
                    yield text

            yield SimpleNamespace(stream_text=stream_text)

    package = {
        "my_clinic": module("my_clinic", __path__=[]),
        "my_clinic.services": module("my_clinic.services", IntelligentChatService=IntelligentChatService),
        "my_clinic.graph": module("my_clinic.graph", graph=Graph()),
        "my_clinic.agent": module("my_clinic.agent", agent=Agent()),
    }
    for name, each in package.items():
        monkeypatch.setitem(sys.modules, name, each)
    return calls


def defined(block: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(block, "documentation", "exec"), names)
    return names


async def answers(responder: Any) -> Sequence[Piece]:
    service = as_service(responder)
    await service.startup(1.0)
    try:
        return [service.checked(piece) async for piece in service.answer(TURN)]
    finally:
        await service.shutdown(1.0)


async def test_the_smallest_responder_answers() -> None:
    (block,) = blocks("A chat service of your own")
    assert await answers(defined(block)["answer"]) == ["You said: Hi"]


async def test_the_service_that_exists_is_asked_in_30_lines(clinic: list[Any]) -> None:
    (block,) = blocks("A service that exists")
    assert len(block.splitlines()) <= 30
    assert await answers(defined(block)["chat"]) == [
        Status("Looking into the record ..."),
        "Good day",
        Source("Record", "/record/1"),
    ]
    assert clinic == ["initialize", ("Hi", "patient:4711", ""), "close"]


async def test_the_model_is_asked_with_the_patients_own_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("A system prompt for each patient")
    async with openai_server() as model:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        monkeypatch.setenv("OPENAI_BASE_URL", model.base_url)
        model.reply(says("Good day"), finish("stop"), DONE)
        pieces = await answers(defined(block)["chat"])
    assert pieces[0] == "Good day"
    assert model.asked[0]["messages"] == [
        {"role": "system", "content": "The patient is 8 years old. Use short sentences."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "Hi"},
    ]


@pytest.mark.parametrize("number", [0, 1], ids=["langgraph", "pydantic-ai"])
async def test_an_agent_answers_in_15_lines(clinic: list[Any], number: int) -> None:
    block = blocks("An agent")[number]
    assert len(block.splitlines()) <= 15
    assert await answers(defined(block)["answer"]) == ["Good ", "day"]
    said = {"messages": [("user", "one"), ("assistant", "two"), ("user", "Hi")]}
    assert clinic == [[(said, "messages")], [("Hi", "patient:4711")]][number]


async def test_the_whole_program_serves_logs_and_ends(tmp_path: Path) -> None:
    (block,) = blocks("In a program of yours")
    (tmp_path / "program.py").write_text(block.replace("port=8000", "port=0"), encoding="utf-8")
    async with started_command(sys.executable, "program.py", cwd=tmp_path) as program:
        address = (await program.line("The backend listens at")).split()[-1]
        async with aiohttp.ClientSession(address) as http, http.ws_connect("/ws/chat/p/s") as socket:
            await socket.send_json({"message": "Hi"})
            assert (await socket.receive_json())["type"] == "status"
            assert (await socket.receive_json())["content"] == "You said: Hi"
        assert await program.stop() == 0
    assert "socket opened" in program.err
    assert "chat: ended after" in program.err
