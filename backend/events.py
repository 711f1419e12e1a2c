"""What a session's log holds. Pure.

One ordered log per session is the only path by which a client learns anything. Every event that changes what a person
sees has a `seq`: gap-free within the session, starting at 1, never reset. `at` is a POSIX time in seconds, UTC.
"""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from moorline.backend.errors import ErrorCode
from moorline.backend.parts import Part, encode_part

__all__ = [
    "MAX_SEQ",
    "Event",
    "Finish",
    "MessageEnded",
    "PartAdded",
    "PartialAnswer",
    "Position",
    "Row",
    "RunError",
    "RunStarted",
    "Snapshot",
    "TextAdded",
    "Usage",
    "UserMessage",
    "event_size",
    "fitting",
]

#: What both databases can hold.
MAX_SEQ = 2**63 - 1


class Position(NamedTuple):
    """How far a reader has come: everything up to and including `seq` of the log called `epoch`.

    The epoch is a random value of the session, new when its log was lost; so a lost log is detected, not skipped.
    """

    epoch: str
    seq: int


class Finish(enum.StrEnum):
    """How a run ended. STOP and LENGTH are the provider's words for a whole answer and for one cut at max_tokens."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run ended with `Finish.ERROR`."""

    code: ErrorCode
    retryable: bool
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them."""

    input_tokens: int
    output_tokens: int


# Events ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UserMessage:
    """A person wrote `content`; it started the run `run_id`."""

    seq: int
    message_id: str
    client_msg_id: str
    run_id: str
    content: str
    at: float
    author: str | None = None
    """The principal that sent it; None: it was written by a version that did not store that."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run began; `message_id` is that of the answer to come."""

    seq: int
    run_id: str
    message_id: str
    at: float


@dataclass(frozen=True, slots=True)
class TextAdded:
    """The answer grew by `text`. May be compacted away once the run's `MessageEnded` is in the log."""

    seq: int
    run_id: str
    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class PartAdded:
    """The answer gained `part`. May be compacted away as `TextAdded` may."""

    seq: int
    run_id: str
    message_id: str
    part: Part


@dataclass(frozen=True, slots=True)
class MessageEnded:
    """The run's end. `content` and `parts` are authoritative: they replace what the events of the run built.

    `from_seq` is the first seq that this event stands for: that of the run's first text or part, or its own.
    """

    seq: int
    from_seq: int
    run_id: str
    message_id: str
    content: str
    finish: Finish
    at: float
    error: RunError | None = None
    usage: Usage | None = None
    parts: tuple[Part, ...] = ()


Event = UserMessage | RunStarted | TextAdded | PartAdded | MessageEnded


def event_size(event: Event) -> int:
    """The text and parts of an event in bytes of UTF-8."""
    match event:
        case TextAdded(text=text) | UserMessage(content=text):
            return _text_size(text)
        case MessageEnded(content=text, parts=parts):
            return _text_size(text) + _parts_size(parts)
        case PartAdded(part=part):
            return _parts_size((part,))
    return 0


def fitting(events: Iterable[Event], size: int) -> Iterator[Event]:
    """The first of `events`, until `size` bytes are reached; the one that reaches it is the last."""
    for event in events:
        yield event
        size -= event_size(event)
        if size <= 0:
            return


def _text_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _parts_size(parts: Iterable[Part]) -> int:
    return sum(_text_size(encode_part(part)) for part in parts)


# For readers that do not follow event by event ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One message of a session as snapshots and HTTP show it."""

    message_id: str
    role: Literal["user", "assistant"]
    content: str
    seq: int
    at: float
    run_id: str | None = None
    client_msg_id: str | None = None
    finish: Finish | None = None
    error: RunError | None = None
    parts: tuple[Part, ...] = ()
    author: str | None = None

    @property
    def size(self) -> int:
        """Its text and parts in bytes of UTF-8."""
        return _text_size(self.content) + _parts_size(self.parts)


@dataclass(frozen=True, slots=True)
class PartialAnswer:
    """The run under way, what it has written so far, and its status now."""

    run_id: str
    message_id: str
    text: str
    parts: tuple[Part, ...] = ()
    status: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a client shows, as of `position`: the last rows, and whether there are earlier ones."""

    position: Position
    rows: tuple[Row, ...]
    earlier: bool
    run: PartialAnswer | None = None
