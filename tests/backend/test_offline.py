"""No key, no model: the script answers and says that it does."""

from moorline.backend.events import Finish
from moorline.backend.offline import OfflineResponder
from moorline.backend.responder import Done, Piece, Prompt, Text, Turn
from moorline.backend.responder_factory import create_responder
from moorline.backend.settings import Settings


async def answer(*said: str) -> list[Piece]:
    responder = OfflineResponder(piece_seconds=0)
    *before, message = said
    turn = Turn(message=message, history=[Prompt("user", text) for text in before])
    return [piece async for piece in responder.answer(turn)]


async def test_it_streams_and_says_what_it_is() -> None:
    pieces = await answer("Hello", "Who are you?")
    text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    assert len(pieces) > 20
    assert pieces[-1] == Done(Finish.STOP)
    assert "scripted" in text
    assert "OPENAI_API_KEY" in text
    assert "number 2" in text
    assert "with 12 characters" in text


async def test_it_answers_where_the_key_is_missing_or_empty() -> None:
    for environ in ({}, {"OPENAI_API_KEY": " "}, {"OPENAI_BASE_URL": "http://localhost:1/v1"}):
        responder = create_responder(Settings(), environ)
        assert responder.scripted
        assert "OPENAI_API_KEY" in responder.name
