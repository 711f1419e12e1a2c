"""The script that answers where no model is configured, and tells so."""

import asyncio
import re
from collections.abc import AsyncIterator

from moorline.backend.events import Finish
from moorline.backend.responder import Done, Piece, Text, Turn

__all__ = ["OfflineResponder"]

# About the pace of a model, so that a front end is tried as it will be used.
_PIECE_SECONDS = 0.02

_SCRIPT = (
    "This is a scripted answer: no model is configured. Your message number {number} arrived, with {size} characters,"
    " and is kept.\n\nFor answers from a model, set OPENAI_API_KEY and start again. OPENAI_BASE_URL names any other"
    " server that speaks the OpenAI API; --model names the model."
)


class OfflineResponder:
    """Streams the same text to each client. It needs no key, no network and no library."""

    name = "none: OPENAI_API_KEY is not set, answers are scripted"
    scripted = True

    def __init__(self, *, piece_seconds: float = _PIECE_SECONDS) -> None:
        self._piece_seconds = piece_seconds

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        """One word after the other; the number and the length show that messages arrive once and whole."""
        said = [prompt for prompt in turn.prompts if prompt.role == "user"]
        text = _SCRIPT.format(number=len(said), size=len(turn.message))
        for piece in re.findall(r"\S+\s*", text):
            yield Text(piece)
            await asyncio.sleep(self._piece_seconds)
        yield Done(Finish.STOP)
