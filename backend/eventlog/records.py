"""Events as rows of the table `events`, and back. The numbers of `Kind` are stored: they are never reused. Pure."""

import enum
from typing import Any

from moorline.backend.errors import ErrorCode
from moorline.backend.events import Event, Finish, MessageEnded, RunError, RunStarted, TextAdded, Usage, UserMessage

__all__ = ["COLUMNS", "Kind", "from_record", "to_record"]


class Kind(enum.IntEnum):
    """The column `kind`."""

    USER = 1
    STARTED = 2
    TEXT = 3
    ENDED = 4


#: What `from_record` takes and `to_record` returns, in this order.
COLUMNS = (
    "kind, seq, run_id, message_id, content, at, client_msg_id, from_seq, finish, "
    "error_code, error_retryable, error_retry_after, input_tokens, output_tokens"
)


def to_record(event: UserMessage | RunStarted | MessageEnded) -> tuple[Any, ...]:
    """The columns of COLUMNS. `TextAdded` is written in batches, by statements of its own."""
    if isinstance(event, UserMessage):
        first = (Kind.USER, event.seq, event.run_id, event.message_id, event.content, event.at, event.client_msg_id)
        return (*first, *[None] * 7)
    if isinstance(event, RunStarted):
        return (Kind.STARTED, event.seq, event.run_id, event.message_id, "", event.at, *[None] * 8)
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
    )


def from_record(record: tuple[Any, ...]) -> Event:
    """The event of a record of COLUMNS."""
    kind, seq, run_id, message_id, content, at, client_msg_id, from_seq, finish, code, retryable, after, *tokens = (
        record
    )
    if kind == Kind.TEXT:
        return TextAdded(seq, run_id, message_id, content)
    if kind == Kind.STARTED:
        return RunStarted(seq, run_id, message_id, at)
    if kind == Kind.USER:
        return UserMessage(seq, message_id, client_msg_id, run_id, content, at)
    error = None if code is None else RunError(ErrorCode(code), bool(retryable), after)
    usage = None if tokens[0] is None else Usage(*tokens)
    return MessageEnded(seq, from_seq, run_id, message_id, content, Finish(finish), at, error, usage)
