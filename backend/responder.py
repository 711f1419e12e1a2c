"""What answers a chat: a stream of text. `llm.py` asks a model, `offline.py` reads from a script. Pure."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from moorline.backend.events import Finish, Usage

__all__ = ["Done", "Piece", "Prompt", "Responder", "Text"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One message of the chat as the model sees it."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Text:
    """The answer goes on with `text`, never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The provider said that the answer is over, and how (`stop` or `length`). The last piece of a stream."""

    finish: Finish
    usage: Usage | None = None


Piece = Text | Done


class Responder(Protocol):
    """A source of answers, shared by all runs of a process."""

    #: For the start line, /readyz and the page: the model's name, or a text that there is none.
    name: str
    #: No model answers. Clients are told with the hello.
    scripted: bool

    def answer(self, chat: Sequence[Prompt]) -> AsyncIterator[Piece]:
        """Stream the answer to `chat`, oldest message first (the system prompt is the responder's own business).

        A stream that ends without `Done` was cut off: the run is `interrupted`. Closing the iterator (`aclose`) closes
        the provider's connection.

        Raises:
            LLMError: with the code for the client and the detail for the log.
        """

    async def close(self) -> None:
        """Close all connections. Idempotent."""
