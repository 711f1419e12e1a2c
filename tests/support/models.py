"""The backend's responder, asked by hand against a model's server of the test's."""

from typing import Any

from moorline.backend.responder import Piece, Prompt, Responder
from moorline.backend.responder_factory import create_responder
from moorline.backend.settings import Settings
from tests.support.openai_server import OpenAIServer

__all__ = ["CHAT", "pieces", "responder"]

CHAT = [Prompt("user", "Hi"), Prompt("assistant", "Hello."), Prompt("user", "A private word")]


def responder(server: OpenAIServer, **options: Any) -> Responder:
    environ = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": server.base_url}
    return create_responder(Settings(**options), environ)


async def pieces(server: OpenAIServer, *steps: Any, **options: Any) -> list[Piece]:
    model = responder(server, **options)
    server.reply(*steps)
    try:
        return [piece async for piece in model.answer(CHAT)]
    finally:
        await model.close()
