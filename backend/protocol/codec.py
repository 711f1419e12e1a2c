"""JSON to messages and back, by the definitions in `models.py`. Pure."""

import dataclasses
import json
from json.encoder import encode_basestring
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import TextAdded
from moorline.backend.protocol.models import CLIENT, ID, ClientMessage, Hello

__all__ = [
    "ENVELOPE",
    "Json",
    "adapter",
    "decode_object",
    "encode",
    "encode_delta",
    "frame_limit",
    "parse",
    "parse_frame",
    "type_of",
]

Json = dict[str, Any]
T = TypeVar("T")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def adapter(model: Any) -> TypeAdapter[Any]:
    """What parses, encodes and describes `model`."""
    found = _ADAPTERS.get(model)
    if found is None:
        found = _ADAPTERS[model] = TypeAdapter(model)
    return found


def type_of(model: type[Any]) -> str:
    """The member `type` of a message; empty for version 1's `{"message": ...}`, which has none."""
    return next((str(each.default) for each in dataclasses.fields(model) if each.name == "type"), "")


_BY_TYPE = {type_of(model): model for model in CLIENT}


#: Of JSON around a message's text.
ENVELOPE = 4 << 10


def frame_limit(max_bytes: int) -> int:
    """The largest frame or body that is read at all: JSON may write each byte as `\\u00xx`; then comes what it is in.

    A text over max_bytes is answered with `too_large`; a frame over this ends the socket with 1009.
    """
    return 6 * max_bytes + ENVELOPE


# Parsing --------------------------------------------------------------------------------------------------------------


def decode_object(text: str) -> Json:
    """The JSON object in `text`; Refusal `bad_request` where there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refusal(ErrorCode.BAD_REQUEST, "This is not JSON.") from None
    if not isinstance(value, dict):
        raise Refusal(ErrorCode.BAD_REQUEST, "A message is a JSON object.")
    return value


def parse(model: type[T], members: Json, *, max_bytes: int = 0) -> T:
    """The `model` in a JSON object; its `message` has at most `max_bytes`.

    Raises:
        Refusal: `bad_request` or `too_large`.
    """
    try:
        parsed: T = adapter(model).validate_python(members, context={"max_bytes": max_bytes})
    except ValidationError as error:
        raise Refusal(ErrorCode.BAD_REQUEST, _explanation(error)) from None
    return parsed


def parse_frame(frame: Json, *, version: int, first: bool, max_bytes: int) -> ClientMessage:
    """The message in a frame's object; hello is one only as the `first` frame.

    Raises:
        Refusal: `bad_request` or `too_large`.
    """
    kind = frame.get("type", "")
    model = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if model is None or not (first if model is Hello else version in CLIENT[model]):
        raise Refusal(ErrorCode.BAD_REQUEST, f"There is no such message in version {version} of the protocol.")
    return parse(model, frame, max_bytes=max_bytes)


def _explanation(error: ValidationError) -> str:
    """The first mistake, for a person."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(map(str, first["loc"]))
    match first["type"]:
        case "missing":
            return f"{name}: is missing."
        case "string_type":
            return f"{name}: must be of type string."
        case "string_pattern_mismatch" | "string_unicode":
            return f"{name}: must be a string that matches {ID}."
        case "literal_error":
            return f"{name}: must be {first['ctx']['expected']}."
        case _:
            return f"{name}: {first['msg']}."


# Encoding -------------------------------------------------------------------------------------------------------------


def encode(message: object, model: Any = None) -> bytes:
    """`message` as compact JSON in UTF-8; `model` where its type is not one, as a list's."""
    return adapter(model or type(message)).dump_json(message, exclude_none=True)


def encode_delta(event: TextAdded) -> bytes:
    """What `encode` makes of a `DeltaEvent`, in a tenth of the time: there is one for each piece of text and socket."""
    return (
        f'{{"type":"delta","seq":{event.seq},"run_id":"{event.run_id}","message_id":"{event.message_id}",'
        f'"text":{encode_basestring(event.text)}}}'
    ).encode()
