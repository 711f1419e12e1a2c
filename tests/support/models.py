"""The backend's responder, asked by hand against a model's server of the test's."""

from typing import Any

from moorline.backend.llm import OpenAIResponder
from moorline.backend.responder import Piece, Prompt, Turn
from moorline.backend.responder_factory import create_responder
from moorline.backend.settings import Settings
from tests.support.openai_server import OpenAIServer

__all__ = ["CHAT", "pieces", "responder"]

CHAT = Turn(message="A private word", history=[Prompt("user", "Hi"), Prompt("assistant", "Hello.")])


def responder(server: OpenAIServer, **options: Any) -> OpenAIResponder:
    environ = {"OPENAI_API_KEY": "sk-secret", "OPENAI_BASE_URL": server.base_url}
    found = create_responder(Settings(**options), environ)
    assert isinstance(found, OpenAIResponder)
    return found


async def pieces(server: OpenAIServer, *steps: Any, **options: Any) -> list[Piece]:
    model = responder(server, **options)
    server.reply(*steps)
    try:
        return [piece async for piece in model.answer(CHAT)]
    finally:
        await model.shutdown()
