"""The HTTP side of the chat as data, for /docs and /openapi.json. Pure."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from moorline.backend.eventlog.base import ListCursor
from moorline.backend.events import MAX_SEQ
from moorline.backend.protocol.models import (
    Accepted,
    CancelBody,
    EraseBody,
    EventPage,
    IssuedTicket,
    MessageRow,
    Retried,
    RetryBody,
    SendBody,
    SessionPage,
    SessionPatient,
    TicketBody,
    is_id,
)

__all__ = ["OPERATIONS", "EraseQuery", "Operation", "ReadQuery", "SessionsQuery", "shown_cursor"]


# int() and float() would take 1_0, +5, nan and the digits of other scripts as well.
_WHOLE = re.compile(r"[0-9]{1,19}")
_DECIMAL = re.compile(r"[0-9]{1,10}(\.[0-9]{1,9})?")


def _whole(text: str) -> int:
    if not _WHOLE.fullmatch(text) or int(text) > MAX_SEQ:
        raise PydanticCustomError("whole", "is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    number = _whole(text)
    if number < 1:
        raise PydanticCustomError("positive", "is not a positive number")
    return number


def _seconds(text: str) -> float:
    if not _DECIMAL.fullmatch(text):
        raise PydanticCustomError("seconds", "is not a number of seconds")
    return float(text)


def _cursor_seq(text: str) -> int:
    """The seq of a cursor; -1 for a malformed one, which gets a snapshot."""
    return int(text) if _WHOLE.fullmatch(text) and int(text) <= MAX_SEQ else -1


def shown_cursor(cursor: ListCursor) -> str:
    """What `_list_cursor` reads; of characters that need no escape in a query."""
    return f"{cursor.at!r}~{cursor.session_id}"


def _list_cursor(text: str) -> ListCursor:
    at, _, session_id = text.partition("~")
    if not _DECIMAL.fullmatch(at) or not is_id(session_id):
        raise PydanticCustomError("cursor", "is not the `next` of a page")
    return ListCursor(float(at), session_id)


Before = Annotated[int | None, BeforeValidator(_whole), Field(description="only rows with a lower seq")]
Limit = Annotated[int | None, BeforeValidator(_positive), Field(description="at most so many rows, up to 500")]
After = Annotated[
    int | None,
    BeforeValidator(_cursor_seq),
    Field(description="the seq that the client has; answers events instead of rows"),
]
Epoch = Annotated[str | None, Field(description="the epoch of that seq")]
Wait = Annotated[float | None, BeforeValidator(_seconds), Field(description="seconds to wait for an event, up to 30")]

ListBefore = Annotated[
    ListCursor | None,
    BeforeValidator(_list_cursor),
    Field(description="`next` of the page before", json_schema_extra={"type": "string"}),
]
ListLimit = Annotated[int | None, BeforeValidator(_positive), Field(description="at most so many sessions, up to 50")]


@dataclass(frozen=True, slots=True)
class ReadQuery:
    """What to read of a session."""

    before: Before = None
    limit: Limit = None
    after: After = None
    epoch: Epoch = None
    wait: Wait = None
    patient_id: SessionPatient = None


@dataclass(frozen=True, slots=True)
class EraseQuery:
    """Which session to erase."""

    patient_id: SessionPatient = None


@dataclass(frozen=True, slots=True)
class SessionsQuery:
    """Which of a patient's sessions to list."""

    before: ListBefore = None
    limit: ListLimit = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path; `body` and `answer` are messages of `models.py`, None for empty ones."""

    method: Literal["get", "post", "delete"]
    path: str
    meaning: str
    status: int
    answer: Any = None
    query: type[Any] | None = None
    body: type[Any] | None = None
    body_required: bool = True


_MESSAGES = "/api/chat/{session_id}/messages"

OPERATIONS = (
    Operation(
        "get",
        _MESSAGES,
        "The last rows, oldest first; with after, the socket's events since then.",
        200,
        list[MessageRow] | EventPage,
        query=ReadQuery,
    ),
    Operation("post", _MESSAGES, "Send a message; idempotent by client_msg_id.", 202, Accepted, body=SendBody),
    Operation("post", "/api/chat/{session_id}/retry", "A new run for the same message.", 202, Retried, body=RetryBody),
    Operation(
        "post",
        "/api/chat/{session_id}/cancel",
        "End a run; what was written stays.",
        202,
        dict[str, Any],
        body=CancelBody,
    ),
    Operation(
        "delete",
        "/api/chat/{session_id}",
        "Erase the session everywhere.",
        204,
        query=EraseQuery,
        body=EraseBody,
        body_required=False,
    ),
    Operation(
        "get",
        "/api/patients/{patient_id}/sessions",
        "The patient's sessions, the one last active first, in pages.",
        200,
        SessionPage,
        query=SessionsQuery,
    ),
    Operation(
        "post",
        "/api/ticket",
        "A ticket for one socket, for clients whose sockets can send no credentials.",
        200,
        IssuedTicket,
        body=TicketBody,
    ),
    Operation("get", "/healthz", "Whether the process lives.", 200, dict[str, Any]),
    Operation(
        "get",
        "/readyz",
        "Whether the database answers; the model's last known state is in the body.",
        200,
        dict[str, Any],
    ),
)
