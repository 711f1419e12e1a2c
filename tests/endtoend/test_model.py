"""`moorline serve` as a process, with a model behind it: from the page's socket to the provider and back."""

import asyncio
import json
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection

from tests.support.backends import STEP
from tests.support.openai_server import DONE, Status, error, finish, openai_server, says
from tests.support.process import Program, started
from tests.support.stack import socket

SECRET = "a word that is private"


async def ask(client: ClientConnection) -> dict[str, Any]:
    """Say something in version 1; what follows the status."""
    await client.send(json.dumps({"message": SECRET}))
    async with asyncio.timeout(STEP):
        assert json.loads(await client.recv())["type"] == "status"
        answer = json.loads(await client.recv())
    assert isinstance(answer, dict)
    return answer


async def address(program: Program) -> str:
    await program.line("database")
    return (await program.line("page")).split()[1].removesuffix("/chat/patient:demo")


async def test_answers_and_failures_of_the_model_reach_the_client_and_no_text_the_log(tmp_path: Path) -> None:
    async with openai_server() as model:
        environ = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": model.base_url}
        arguments = ("serve", "--port", "0", "--backend-port", "0", "--model", "m1")
        async with started("moorline", *arguments, cwd=tmp_path, env=environ) as program:
            async with socket(await address(program)) as client:
                assert "m1" in await program.line("model")
                model.reply(says("Good "), says("morning."), finish("stop"), DONE)
                answer = await ask(client)
                assert (answer["type"], answer["content"]) == ("message", "Good morning.")
                model.reply(Status(401, error("invalid_api_key", SECRET)))
                assert (await ask(client))["code"] == "llm_misconfigured"
                await program.line("llm_misconfigured", "status=401", "invalid_api_key")
            assert await program.stop() == 0
    assert [body["messages"][-1]["content"] for body in model.asked] == [SECRET, SECRET]
    for private in (SECRET, "patient:demo", "sk-secret", "Good"):
        assert private not in program.err
