"""Events as rows of the table `events`, and back. The numbers of `Kind` are stored: they are never reused. Pure.

A part is kept as text that is empty, with the part in the column `parts`. So a process of the version before, which may
still run beside this one, reads an addition of nothing, and what it makes of the run's text is right.
"""

import enum
from typing import Any

from moorline.backend.errors import ErrorCode
from moorline.backend.events import (
    Event,
    Finish,
    MessageEnded,
    PartAdded,
    RunError,
    RunStarted,
    TextAdded,
    Usage,
    UserMessage,
)
from moorline.backend.parts import decode_part, decode_parts, encode_part

__all__ = ["COLUMNS", "SELECTED", "STORED", "Kind", "from_record", "to_record"]


class Kind(enum.IntEnum):
    """The column `kind`."""

    USER = 1
    STARTED = 2
    TEXT = 3
    ENDED = 4


#: What `to_record` returns, in this order.
STORED = (
    "kind, seq, run_id, message_id, content, at, client_msg_id, from_seq, finish, "
    "error_code, error_retryable, error_retry_after, input_tokens, output_tokens, parts"
)
#: What `from_record` takes, in this order.
COLUMNS = f"{STORED}, author"
#: How they are selected from `events`. The author of a message is in the row of the run that it started: stored twice,
#: it could differ, and messages of earlier versions would have none.
SELECTED = (
    f"{STORED}, CASE WHEN kind = {Kind.USER:d}"
    " THEN (SELECT principal FROM runs WHERE runs.run_id = events.run_id) END AS author"
)


def to_record(event: UserMessage | RunStarted | MessageEnded) -> tuple[Any, ...]:
    """The columns of STORED. Text and parts are written in batches, by statements of their own."""
    if isinstance(event, UserMessage):
        first = (Kind.USER, event.seq, event.run_id, event.message_id, event.content, event.at, event.client_msg_id)
        return (*first, *[None] * 8)
    if isinstance(event, RunStarted):
        return (Kind.STARTED, event.seq, event.run_id, event.message_id, "", event.at, *[None] * 9)
    error, usage = event.error, event.usage
    return (
        Kind.ENDED,
        event.seq,
        event.run_id,
        event.message_id,
        event.content,
        event.at,
        None,
        event.from_seq,
        event.finish.value,
        error and error.code.value,
        error and error.retryable,
        error and error.retry_after,
        usage and usage.input_tokens,
        usage and usage.output_tokens,
        f"[{','.join(map(encode_part, event.parts))}]" if event.parts else None,
    )


def from_record(record: tuple[Any, ...]) -> Event:
    """The event of a record of COLUMNS."""
    kind, seq, run_id, message_id, content, at, client_msg_id, from_seq, finish, *end, parts, author = record
    if kind == Kind.TEXT:
        if parts is not None:
            return PartAdded(seq, run_id, message_id, decode_part(parts))
        return TextAdded(seq, run_id, message_id, content)
    if kind == Kind.STARTED:
        return RunStarted(seq, run_id, message_id, at)
    if kind == Kind.USER:
        return UserMessage(seq, message_id, client_msg_id, run_id, content, at, author)
    code, retryable, after, *tokens = end
    error = None if code is None else RunError(ErrorCode(code), bool(retryable), after)
    usage = None if tokens[0] is None else Usage(*tokens)
    kept = () if parts is None else decode_parts(parts)
    return MessageEnded(seq, from_seq, run_id, message_id, content, Finish(finish), at, error, usage, kept)
