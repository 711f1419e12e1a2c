"""Every message of the socket as data: what `wire.py` checks and what /docs and /openapi.json show. Pure."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CLIENT", "ID", "SERVER", "SOCKET_PATH", "Field", "Message"]

SOCKET_PATH = "/ws/chat/{patient_id}/{session_id}"

#: What ids of patients, sessions, runs and messages look like. Clients and proxies resolve . and .. in a path.
ID = r"(?!\.{1,2}$)[A-Za-z0-9:._-]{1,128}"


@dataclass(frozen=True, slots=True)
class Field:
    """One member of a message's object; `kind` is its JSON type, or `id` for a string that matches ID."""

    name: str
    kind: Literal["string", "id", "integer", "number", "boolean", "object", "array"]
    meaning: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """One type of message. `type` is empty for version 1's `{"message": ...}`, which has none."""

    type: str
    versions: tuple[int, ...]
    meaning: str
    fields: tuple[Field, ...] = ()


_SEQ = Field("seq", "integer", "place in the session's log: gap-free, never reset")
_RUN_ID = Field("run_id", "id", "the run: one generation of an answer")
_MESSAGE_ID = Field("message_id", "id", "the message that this belongs to")
_CLIENT_MSG_ID = Field("client_msg_id", "id", "a UUID of the client's: sending it again changes nothing")
_AT = Field("at", "string", "time, RFC 3339, UTC")

CLIENT = (
    Message("", (1,), "Say something.", (Field("message", "string", "the text"),)),
    Message(
        "hello",
        (2,),
        "The first frame of version 2; valid only as the first frame.",
        (
            Field("v", "integer", "2"),
            Field("resume", "object", "{epoch, seq}: where the client left off", required=False),
        ),
    ),
    Message(
        "send",
        (2,),
        "Say something; idempotent. The same id with another text is rejected.",
        (Field("message", "string", "the text"), _CLIENT_MSG_ID),
    ),
    Message(
        "retry",
        (2,),
        "A new run for the user message of a run that ended otherwise than with stop; idempotent.",
        (_RUN_ID, _CLIENT_MSG_ID),
    ),
    Message("cancel", (2,), "End a run; what was written stays. Idempotent.", (_RUN_ID,)),
    Message("ping", (1, 2), "Answered by pong."),
    Message("pong", (1, 2), "The answer to a ping; optional."),
)

SERVER = (
    Message("status", (1,), "An answer is under way.", (Field("status", "string", "thinking"),)),
    Message(
        "message",
        (1,),
        "The answer.",
        (Field("role", "string", "assistant"), Field("content", "string", "the text")),
    ),
    Message(
        "error",
        (1,),
        "A message was refused, or an answer failed.",
        (Field("code", "string", "see the error codes"), Field("message", "string", "words for a person")),
    ),
    Message(
        "hello",
        (2,),
        "The first reply.",
        (
            Field("v", "integer", "2"),
            Field("epoch", "string", "name of the session's log; new when the log was lost"),
            Field("head", "integer", "the log's last seq"),
            Field("recovered", "boolean", "true: all after the client's seq follows; false: a snapshot follows"),
            Field("run_id", "id", "the run under way", required=False),
            Field("heartbeat", "number", "seconds between two pings"),
            Field("max_bytes", "integer", "longest message, as UTF-8"),
            Field("scripted", "boolean", "true: no model is configured, a script answers", required=False),
        ),
    ),
    Message(
        "snapshot",
        (2,),
        "Replaces everything that the client shows.",
        (
            Field("messages", "array", "the last 500 rows"),
            Field("earlier", "boolean", "whether there are older rows: GET them with before"),
            Field("run", "object", "{run_id, message_id, text}: the answer under way", required=False),
            Field("through_seq", "integer", "the last seq that is in the snapshot"),
        ),
    ),
    Message(
        "user",
        (2,),
        "A message sent on any tab.",
        (_SEQ, _MESSAGE_ID, _CLIENT_MSG_ID, Field("content", "string", "the text"), _AT),
    ),
    Message("status", (2,), "A run began.", (_SEQ, _RUN_ID, Field("status", "string", "thinking"))),
    Message("delta", (2,), "Append text.", (_SEQ, _RUN_ID, _MESSAGE_ID, Field("text", "string", "the addition"))),
    Message(
        "message",
        (2,),
        "The end of a run.",
        (
            _SEQ,
            Field("from_seq", "integer", "the first seq that this event stands for"),
            _RUN_ID,
            _MESSAGE_ID,
            Field("role", "string", "assistant"),
            Field("content", "string", "all of the answer; replaces the deltas"),
            Field("finish", "string", "stop, length, cancelled, interrupted or error"),
            Field("error", "object", "{code, retryable, retry_after?}, where finish is error", required=False),
            Field("usage", "object", "{input_tokens, output_tokens}", required=False),
            _AT,
        ),
    ),
    Message(
        "ack",
        (2,),
        "Committed: it survives whatever happens now. Sent before the run's first delta; never moves the cursor.",
        (
            _CLIENT_MSG_ID,
            Field("seq", "integer", "that of the user event"),
            _RUN_ID,
            Field("duplicate", "boolean", "whether it had been committed before"),
        ),
    ),
    Message(
        "error",
        (2,),
        "A command was refused; changes nothing.",
        (
            Field("code", "string", "see the error codes"),
            Field("message", "string", "words for a person"),
            Field("retryable", "boolean", "whether trying again can help"),
            Field("retry_after", "number", "seconds", required=False),
            Field("client_msg_id", "id", "of the command", required=False),
        ),
    ),
    Message("deleted", (2,), "The session was erased; Close 4504 follows."),
    Message("ping", (1, 2), "Every heartbeat seconds (version 1: 30): a browser cannot see Ping frames."),
    Message("pong", (1, 2), "The answer to a ping."),
    Message(
        "goaway",
        (2,),
        "The server is about to restart; Close 1012 follows.",
        (Field("reconnect_after", "number", "seconds"),),
    ),
)
