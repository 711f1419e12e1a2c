"""`--responder` and `--authorize` as a person uses them: files in a folder, real processes."""

import asyncio
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from moorline.backend.app import create_app
from moorline.backend.settings import Settings
from moorline.gateway.common.errors import UsageError
from tests.gateway.run.test_serve import ask, serving
from tests.support.gateway_process import echoing
from tests.support.own_modules import own_folder
from tests.support.process import refused, started

__all__ = ["own_folder"]

CHAT = """\
async def answer(turn):
    yield f"{turn.principal} asks about {turn.patient_id}: "
    yield turn.message
"""
RULES = """\
from aiohttp import web

async def authorize(request, patient_id, session_id):
    if request.headers.get("Authorization") != "Bearer secret":
        raise web.HTTPUnauthorized
    return "dr.who"
"""
NAMED = ("--responder", "chat:answer", "--authorize", "rules:authorize")
TOKEN = {"Authorization": "Bearer secret"}


def project(folder: Path) -> Path:
    (folder / "chat.py").write_text(CHAT, encoding="utf-8")
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    return folder


async def status(address: str, path: str = "/api/chat/s1/messages", headers: dict[str, str] | None = None) -> int:
    async with aiohttp.ClientSession(headers=headers) as http, http.get(address + path) as response:
        return response.status


async def test_serve_answers_with_the_responder_and_asks_the_hook(tmp_path: Path) -> None:
    async with serving(project(tmp_path), *NAMED) as (program, address):
        assert "chat:answer" in await program.line("responder")
        assert await ask(address, "Hi", headers=TOKEN) == "dr.who asks about patient:demo: Hi"
        assert (await status(address), await status(address, headers=TOKEN)) == (401, 200)


@pytest.mark.parametrize("table", ["gateway", "backend"])
async def test_the_options_may_stand_in_the_file(tmp_path: Path, table: str) -> None:
    (project(tmp_path) / "moorline.toml").write_text(
        f'backend.responder = "chat:answer"\n{table}.authorize = "rules:authorize"\n', encoding="utf-8"
    )
    async with serving(tmp_path, "--route", "/other=http://127.0.0.1:9") as (_, address):
        assert await ask(address, "Hi", headers=TOKEN) == "dr.who asks about patient:demo: Hi"
        assert (await status(address), await status(address, "/other")) == (401, 401)


async def test_reload_notices_a_change_of_the_responder(tmp_path: Path) -> None:
    async with serving(project(tmp_path), "--responder", "chat:answer", "--reload") as (program, address):
        assert await ask(address, "Hi") == "anonymous asks about patient:demo: Hi"
        (tmp_path / "chat.py").write_text("async def answer(turn:\n", encoding="utf-8")
        await program.line("chat.py changed")
        await program.line('moorline: responder: "chat:answer": SyntaxError', "(chat.py, line 1)")
        await program.line("waiting for the next change")
        (tmp_path / "chat.py").write_text("async def answer(turn):\n    yield 'changed'\n", encoding="utf-8")
        await program.line("the backend is up again")
        assert await ask(address, "Hi", session="s2") == "changed"


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_gateway_asks_the_hook_in_all_its_workers(tmp_path: Path, workers: str) -> None:
    options = ("--authorize", "rules:authorize", "--workers", workers)
    async with echoing(project(tmp_path), *options) as (_, socket):
        address = socket.replace("ws://", "http://").removesuffix("/ws/x")
        found = await asyncio.gather(*(status(address, "/api/x") for _ in range(4)))
        assert found == [401] * 4


WRONG = {
    "wrong module": (
        "chta:answer",
        "",
        '"chta:answer": there is no module "chta" in {folder} or among the installed packages',
    ),
    "wrong name": ("chat:anser", CHAT, '"chat:anser": chat.py has no "anser"; did you mean answer?'),
    "import error": (
        "chat:answer",
        "import langgraph_of_mine",
        "\"chat:answer\": ModuleNotFoundError: No module named 'langgraph_of_mine' (<module> in chat.py, line 1)",
    ),
    "syntax error": (
        "chat:answer",
        "async def answer(turn:",
        "\"chat:answer\": SyntaxError: '(' was never closed (chat.py, line 1)",
    ),
    "synchronous": (
        "chat:answer",
        "def answer(turn):\n    return ''",
        "answer in chat.py, line 1 is not asynchronous; write `async def answer(turn)` with `yield`",
    ),
    "no generator": (
        "chat:answer",
        "async def answer(turn):\n    return ''",
        "answer in chat.py, line 1 never yields; write `async def answer(turn)` with `yield`",
    ),
    "class": (
        "chat:Chat",
        "class Chat:\n    async def answer(self, turn):\n        yield ''",
        "Chat in chat.py, line 1 is a class; name an object of it, as in `chat = Chat()`",
    ),
    "missing argument": (
        "chat:answer",
        "async def answer():\n    yield ''",
        "answer in chat.py, line 1 must take one argument, the turn; write `async def answer(turn)` with `yield`",
    ),
    "startup": (
        "chat:chat",
        "class Chat:\n    async def startup(self):\n        raise OSError('no model here')\n\n"
        "    async def answer(self, turn):\n        yield ''\n\n\nchat = Chat()",
        "startup failed: OSError: no model here (startup in chat.py, line 3)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_responder_is_one_line_that_names_function_and_file(wrong: str, own_folder: Path) -> None:
    option, source, line = WRONG[wrong]
    (own_folder / "chat.py").write_text(source, encoding="utf-8")
    with pytest.raises(UsageError) as refusal:
        async with TestServer(create_app(Settings(responder=option, database="sqlite:///chats.db"))):
            pass
    assert str(refusal.value) == "responder: " + line.format(folder=own_folder)


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("chat", "is not MODULE:NAME; write for example chat:answer"),
        ("chat:answer", 'there is no module "chat"'),
        ("app/chat.py:answer", '"app/chat.py:answer" names a file; write its module: app.chat:answer'),
    ],
)
async def test_a_wrong_responder_ends_the_command_with_its_line(tmp_path: Path, option: str, line: str) -> None:
    for command in ("backend", "serve"):
        assert line in await refused(command, "--port", "0", "--responder", option, cwd=tmp_path)


async def test_a_wrong_hook_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text("def authorize(request):\n    pass\n", encoding="utf-8")
    for command in ("backend", "gateway"):
        line = await refused(command, "--port", "0", "--authorize", "rules:authorize", cwd=tmp_path)
        assert line == (
            "authorize: authorize in rules.py, line 1 must be `async def authorize(request, patient_id, session_id)`"
        )


STUBBORN = """\
import asyncio

async def answer(turn):
    yield "Good "
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""


async def test_a_responder_that_ignores_its_cancellation_does_not_keep_the_process_from_ending(tmp_path: Path) -> None:
    (tmp_path / "chat.py").write_text(STUBBORN, encoding="utf-8")
    arguments = ("backend", "--port", "0", "--drain", "0.2", "--responder", "chat:answer")
    async with started("moorline", *arguments, cwd=tmp_path) as program:
        address = (await program.line("backend", "http://")).split()[1]
        async with aiohttp.ClientSession() as http:
            body = {"patient_id": "p", "message": "Hi", "client_msg_id": "c1"}
            await http.post(f"{address}/api/chat/s1/messages", json=body)
            async with http.get(f"{address}/api/chat/s1/messages?after=0&wait=10"):
                assert await program.stop() == 0
    assert "ending without 1 task that did not end when cancelled" in program.err
