"""What answers a message: an async generator function of a turn, or an object with one as `answer`. Pure.

`llm.py` asks a model, `offline.py` reads from a script; `--responder` names any other. How one is checked and called is
in `service.py`.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from moorline.backend.events import Finish, Usage
from moorline.backend.parts import Data, Part, Source, Status

__all__ = ["Answer", "Data", "Done", "Piece", "Prompt", "Responder", "Source", "Status", "Text", "Turn"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One message of the chat as the model sees it."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """The message to answer, and what is known about it."""

    message: str
    history: Sequence[Prompt] = ()
    """What was said before, oldest first: the last 100 rows of the session."""
    patient_id: str = ""
    session_id: str = ""
    run_id: str = ""
    principal: str = ""
    """The name that the `authorize` hook gave to the sender; `anonymous` without a hook."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The `Principal.metadata` of the sender. Not stored: empty in a run that was taken over from another process."""
    system: str | None = None
    """The system prompt; None leaves it to the responder."""

    @property
    def prompts(self) -> list[Prompt]:
        """The chat as the model sees it: the history and the message."""
        return [*self.history, Prompt("user", self.message)]

    def with_system(self, prompt: str) -> "Turn":
        """The same with another system prompt."""
        return replace(self, system=prompt)


@dataclass(frozen=True, slots=True)
class Text:
    """The answer goes on with `text`; a bare `str` is the same."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """How the answer ended, where it was not `stop`, and what it cost; the last one counts, usages add up."""

    finish: Finish
    usage: Usage | None = None


Piece = str | Text | Part | Done
Answer = Callable[[Turn], AsyncIterator[Piece]]


class Responder(Protocol):
    """An object that answers, shared by all runs of a process.

    It may have `async def startup(self)`, which comes before the first turn, and `async def shutdown(self)`, which
    comes after the last; `name: str`, which the start line and /readyz show; and `scripted: bool`: no model answers,
    and clients are told with the hello.
    """

    def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        """Stream the answer. A stream that ends without `Done` was whole.

        At a cancellation it is closed (`aclose`), or sees `asyncio.CancelledError` where it waits.

        Raises:
            LLMError: with the code for the client and the detail for the log. Any other exception is `internal`.
        """
