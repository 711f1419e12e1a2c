"""What the server says: events, rows and refusals to the JSON of version 1, version 2 and HTTP. Pure."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from moorline.backend.errors import CATALOGUE, ErrorCode, Refusal
from moorline.backend.events import (
    Event,
    Finish,
    MessageEnded,
    PartialAnswer,
    Position,
    Row,
    RunError,
    RunStarted,
    Snapshot,
    TextAdded,
    Usage,
    UserMessage,
)
from moorline.backend.protocol.commands import is_id

__all__ = [
    "Json",
    "ack_frame",
    "encode",
    "error_frame",
    "error_object",
    "event_object",
    "hello_frame",
    "row_object",
    "snapshot_object",
    "v1_frame",
]

Json = dict[str, Any]


def encode(value: object) -> str:
    """Compact JSON in UTF-8, as every frame and body is sent."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def v1_frame(event: Event) -> Json | None:
    """What version 1 says of an event; None where it says nothing."""
    match event:
        case RunStarted():
            return {"type": "status", "status": "thinking"}
        case MessageEnded(finish=Finish.ERROR):
            code = event.error.code if event.error else ErrorCode.INTERNAL
            return _v1_error(code, CATALOGUE[code].message)
        case MessageEnded(content="", finish=Finish.CANCELLED | Finish.INTERRUPTED):
            return _v1_error(ErrorCode.INTERNAL, f"The answer was {event.finish}.")
        case MessageEnded():
            return {"type": "message", "role": "assistant", "content": event.content}
        case _:
            return None


def event_object(event: Event) -> Json:
    """An event as version 2 and long polling show it."""
    match event:
        case UserMessage():
            return {
                "type": "user",
                "seq": event.seq,
                "message_id": event.message_id,
                "client_msg_id": event.client_msg_id,
                "content": event.content,
                "at": _time(event.at),
            }
        case RunStarted():
            return {"type": "status", "seq": event.seq, "run_id": event.run_id, "status": "thinking"}
        case TextAdded():
            return {
                "type": "delta",
                "seq": event.seq,
                "run_id": event.run_id,
                "message_id": event.message_id,
                "text": event.text,
            }
        case MessageEnded():
            return {
                "type": "message",
                "seq": event.seq,
                "from_seq": event.from_seq,
                "run_id": event.run_id,
                "message_id": event.message_id,
                "role": "assistant",
                "content": event.content,
                "finish": event.finish,
                **_given(error=_error(event.error), usage=_usage(event.usage)),
                "at": _time(event.at),
            }


def row_object(row: Row) -> Json:
    """A row of a snapshot or of a GET."""
    return {
        "message_id": row.message_id,
        "role": row.role,
        "content": row.content,
        "seq": row.seq,
        "at": _time(row.at),
        **_given(run_id=row.run_id, client_msg_id=row.client_msg_id, finish=row.finish, error=_error(row.error)),
    }


def snapshot_object(snapshot: Snapshot) -> Json:
    """All that a client shows."""
    return {
        "type": "snapshot",
        "messages": [row_object(row) for row in snapshot.rows],
        "earlier": snapshot.earlier,
        **_given(run=_partial(snapshot.run)),
        "through_seq": snapshot.position.seq,
    }


def hello_frame(
    head: Position, *, recovered: bool, run_id: str | None, heartbeat: float, max_bytes: int, scripted: bool = False
) -> Json:
    """The first reply of version 2."""
    return {
        "type": "hello",
        "v": 2,
        "epoch": head.epoch,
        "head": head.seq,
        "recovered": recovered,
        **_given(run_id=run_id),
        "heartbeat": heartbeat,
        "max_bytes": max_bytes,
        **_given(scripted=scripted or None),
    }


def ack_frame(client_msg_id: str, *, seq: int, run_id: str, duplicate: bool) -> Json:
    """A command was committed."""
    return {"type": "ack", "client_msg_id": client_msg_id, "seq": seq, "run_id": run_id, "duplicate": duplicate}


def error_object(refusal: Refusal) -> Json:
    """A refusal's members, as a frame of version 2 and a problem document share them."""
    return {
        "code": refusal.code,
        "message": refusal.message,
        "retryable": CATALOGUE[refusal.code].retryable,
        **_given(retry_after=refusal.retry_after),
    }


def error_frame(refusal: Refusal, *, version: int, client_msg_id: object = None) -> Json:
    """A command was refused."""
    if version == 1:
        return _v1_error(refusal.code, refusal.message)
    known = client_msg_id if is_id(client_msg_id) else None
    return {"type": "error", **error_object(refusal), **_given(client_msg_id=known)}


def _v1_error(code: ErrorCode, message: str) -> Json:
    return {"type": "error", "code": code, "message": message}


def _given(**members: object) -> Json:
    return {name: value for name, value in members.items() if value is not None}


def _error(error: RunError | None) -> Mapping[str, object] | None:
    if error is None:
        return None
    return {"code": error.code, "retryable": error.retryable, **_given(retry_after=error.retry_after)}


def _usage(usage: Usage | None) -> Mapping[str, object] | None:
    return None if usage is None else {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}


def _partial(run: PartialAnswer | None) -> Mapping[str, object] | None:
    return None if run is None else {"run_id": run.run_id, "message_id": run.message_id, "text": run.text}


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
