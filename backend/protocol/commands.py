"""What a client says: the JSON of its frames to commands. Rejects the unknown. Pure.

What a frame must hold stands in `messages.py`. Members that it does not name are ignored, so that newer clients can
talk to older servers.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import MAX_SEQ, Position
from moorline.backend.protocol.messages import CLIENT, ID, Field, Message

__all__ = [
    "Cancel",
    "Command",
    "Hello",
    "Ping",
    "Pong",
    "Retry",
    "Send",
    "decode_object",
    "fields_of",
    "is_id",
    "parse_frame",
    "valid_text",
]

_ID = re.compile(ID)
# A lone surrogate cannot be written as UTF-8, and PostgreSQL's text holds no NUL.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_CLIENT_TYPES = {message.type: message for message in CLIENT}
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "id": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hello:
    """Speak version 2; go on from `resume`, which is None without one and where it cannot be one."""

    resume: Position | None


@dataclass(frozen=True, slots=True)
class Send:
    """Start a run. Version 1 has no `client_msg_id`."""

    message: str
    client_msg_id: str | None


@dataclass(frozen=True, slots=True)
class Retry:
    """Run again for the same user message."""

    run_id: str
    client_msg_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a run."""

    run_id: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Wants a Pong."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Needs no answer."""


Command = Hello | Send | Retry | Cancel | Ping | Pong


def parse_frame(frame: Json, *, version: int, first: bool, max_bytes: int) -> Command:
    """The command in a frame's object; hello is one only as the `first` frame.

    Raises:
        Refusal: `bad_request` or `too_large`.
    """
    kind = frame.get("type", "")
    message = _CLIENT_TYPES.get(kind) if isinstance(kind, str) else None
    if message is None or not (first if kind == "hello" else version in message.versions):
        raise Refusal(ErrorCode.BAD_REQUEST, f"There is no such message in version {version} of the protocol.")
    fields = fields_of(message, frame)
    match kind:
        case "hello":
            if fields["v"] != 2:
                raise Refusal(ErrorCode.BAD_REQUEST, "v: this server speaks version 2.")
            return Hello(_position(fields.get("resume")))
        case "retry":
            return Retry(fields["run_id"], fields["client_msg_id"])
        case "cancel":
            return Cancel(fields["run_id"])
        case "ping":
            return Ping()
        case "pong":
            return Pong()
        case _:
            return Send(valid_text(fields["message"], max_bytes=max_bytes), fields.get("client_msg_id"))


def decode_object(text: str) -> Json:
    """The JSON object in `text`; Refusal `bad_request` where there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(ErrorCode.BAD_REQUEST, "This is not JSON.") from None
    if not isinstance(value, dict):
        raise Refusal(ErrorCode.BAD_REQUEST, "A message is a JSON object.")
    return value


def fields_of(message: Message, given: Json) -> Json:
    """The members that `message` names, each of its kind; Refusal `bad_request` for a missing or wrong one."""
    # A malformed cursor is no bad request: it gets recovered:false and a snapshot.
    for field in message.fields:
        if field.name != "resume":
            _check(field, given)
    return {field.name: given[field.name] for field in message.fields if field.name in given}


def valid_text(text: str, *, max_bytes: int) -> str:
    """`text`, if it can be kept as a message.

    Raises:
        Refusal: `bad_request` or `too_large`.
    """
    if _UNSTORABLE.search(text):
        raise Refusal(ErrorCode.BAD_REQUEST, "message: holds NUL or half of a surrogate pair.")
    if not text.strip():
        raise Refusal(ErrorCode.BAD_REQUEST, "message: is empty.")
    if len(text) > max_bytes or len(text.encode()) > max_bytes:
        raise Refusal(ErrorCode.TOO_LARGE, f"The message is too long: at most {max_bytes} bytes of UTF-8.")
    return text


def is_id(text: object) -> bool:
    """Whether `text` can name a patient, a session, a run or a message."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def _check(field: Field, given: Json) -> None:
    if field.name not in given:
        if field.required:
            raise Refusal(ErrorCode.BAD_REQUEST, f"{field.name}: is missing.")
        return
    value = given[field.name]
    # JSON's true is Python's 1.
    wrong = not isinstance(value, _JSON_TYPES[field.kind]) or (isinstance(value, bool) and field.kind != "boolean")
    if wrong or (field.kind == "id" and not is_id(value)):
        raise Refusal(ErrorCode.BAD_REQUEST, f"{field.name}: must be {_words(field)}.")


def _words(field: Field) -> str:
    return f"a string that matches {ID}" if field.kind == "id" else f"of type {field.kind}"


def _position(resume: object) -> Position | None:
    match resume:
        case {"epoch": str(epoch), "seq": int(seq)} if not isinstance(seq, bool) and 0 <= seq <= MAX_SEQ:
            return Position(epoch, seq)
        case _:
            return None
