"""Events as rows of the table `events`, and back. The numbers of `Kind` stand in files: they are never reused."""

import enum
import sqlite3
from typing import Any

from moorline.backend.errors import ErrorCode
from moorline.backend.events import Event, Finish, MessageEnded, RunError, RunStarted, TextAdded, Usage, UserMessage

__all__ = ["COLUMNS", "Kind", "ended_record", "from_record", "insert"]


class Kind(enum.IntEnum):
    """The column `kind`."""

    USER = 1
    STARTED = 2
    TEXT = 3
    ENDED = 4


#: What `from_record` takes, in this order.
COLUMNS = (
    "kind, seq, run_id, message_id, content, at, client_msg_id, from_seq, finish, "
    "error_code, error_retryable, error_retry_after, input_tokens, output_tokens"
)

_INSERT = "INSERT INTO events (session, kind, seq, run_id, message_id, content, at) VALUES (?, ?, ?, ?, ?, ?, ?)"
_INSERT_USER = (
    "INSERT INTO events (session, kind, seq, run_id, message_id, content, at, client_msg_id)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_ENDED = f"INSERT INTO events (session, {COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def insert(db: sqlite3.Connection, session: int, event: Event) -> None:
    """Write `event` of the session with the row number `session`."""
    match event:
        case TextAdded(seq, run_id, message_id, text):
            db.execute(_INSERT, (session, int(Kind.TEXT), seq, run_id, message_id, text, 0.0))
        case RunStarted(seq, run_id, message_id, at):
            db.execute(_INSERT, (session, int(Kind.STARTED), seq, run_id, message_id, "", at))
        case UserMessage(seq, message_id, client_msg_id, run_id, content, at):
            db.execute(_INSERT_USER, (session, int(Kind.USER), seq, run_id, message_id, content, at, client_msg_id))
        case MessageEnded():
            db.execute(_INSERT_ENDED, (session, *ended_record(event)))


def ended_record(event: MessageEnded) -> tuple[Any, ...]:
    """The columns of COLUMNS."""
    error, usage = event.error, event.usage
    return (
        int(Kind.ENDED),
        event.seq,
        event.run_id,
        event.message_id,
        event.content,
        event.at,
        None,
        event.from_seq,
        event.finish.value,
        error and error.code.value,
        error and int(error.retryable),
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
