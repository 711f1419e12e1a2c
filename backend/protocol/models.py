"""Every message of the chat protocol, defined once: `codec.py` parses and encodes by these classes, and /docs and
/openapi.json show them. Pure.

They are dataclasses, so that making one costs no validation: what clients send is validated, what the server sends is
its own. A member that is None is left out of the JSON. Members that a class does not name are ignored, so that newer
clients can talk to older servers.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import MAX_SEQ, Finish, Position
from moorline.backend.parts import Data, Source, Status

__all__ = [
    "CLIENT",
    "ID",
    "SERVER",
    "SOCKET_PATH",
    "Accepted",
    "Ack",
    "Cancel",
    "CancelBody",
    "ClientMessage",
    "ClientPing",
    "ClientPong",
    "DeletedEvent",
    "DeltaEvent",
    "EraseBody",
    "ErrorMessage",
    "EventPage",
    "GoAway",
    "Hello",
    "IssuedTicket",
    "MessageError",
    "MessageEvent",
    "MessageRow",
    "MessageUsage",
    "PageEvent",
    "PartEvent",
    "Problem",
    "Retried",
    "Retry",
    "RetryBody",
    "RunningAnswer",
    "Send",
    "SendBody",
    "ServerHello",
    "ServerPing",
    "ServerPong",
    "SessionPage",
    "SessionRow",
    "SnapshotEvent",
    "StatusEvent",
    "TicketBody",
    "UserEvent",
    "V1Error",
    "V1Message",
    "V1Send",
    "V1Status",
    "is_id",
]

SOCKET_PATH = "/ws/chat/{patient_id}/{session_id}"

#: Ids of patients, sessions, runs and messages. Clients and proxies resolve . and .. in a path.
ID = r"(?!\.{1,2}$)[A-Za-z0-9:._-]{1,128}"
_ID = re.compile(ID)
# A lone surrogate cannot be written as UTF-8, and PostgreSQL's text holds no NUL.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def is_id(text: object) -> TypeGuard[str]:
    """Whether `text` can name a patient, a session, a run or a message."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


# Types of members -----------------------------------------------------------------------------------------------------


def _valid_text(text: str, info: ValidationInfo) -> str:
    """`text`, if it can be kept as a message of at most `max_bytes`, which stands in the context."""
    max_bytes: int = info.context["max_bytes"] if info.context else 0
    if _UNSTORABLE.search(text):
        raise PydanticCustomError("text", "holds NUL or half of a surrogate pair")
    if not text.strip():
        raise PydanticCustomError("text", "is empty")
    if len(text) > max_bytes or len(text.encode()) > max_bytes:
        raise Refusal(ErrorCode.TOO_LARGE, f"The message is too long: at most {max_bytes} bytes of UTF-8.")
    return text


def _position(resume: object) -> Position | None:
    """A malformed cursor is no bad request: it gets recovered:false and a snapshot."""
    match resume:
        # JSON's true is Python's 1.
        case {"epoch": str(epoch), "seq": int(seq)} if not isinstance(seq, bool) and 0 <= seq <= MAX_SEQ:
            return Position(epoch, seq)
        case _:
            return None


# Compiled, as pydantic's own engine has no look-ahead. In Python's regular expressions $ would let a line break follow.
Id = Annotated[str, Field(pattern=re.compile(rf"^{ID}\Z"), json_schema_extra={"pattern": f"^{ID}$"})]
RunId = Annotated[Id, Field(description="the run: one generation of an answer")]
MessageId = Annotated[Id, Field(description="the message that this belongs to")]
ClientMsgId = Annotated[Id, Field(description="a UUID of the client's: sending it again changes nothing")]
SessionPatient = Annotated[Id | None, Field(description="must be the session's when given")]
Text = Annotated[str, AfterValidator(_valid_text), Field(description="the text")]
Seq = Annotated[int, Field(description="place in the session's log: gap-free, never reset")]
Time = Annotated[str, Field(description="time, RFC 3339, UTC")]
Content = Annotated[str, Field(description="the text")]
Code = Annotated[ErrorCode, Field(description="see the error codes")]
Explanation = Annotated[str, Field(description="explanation for a person")]
Retryable = Annotated[bool, Field(description="whether trying again can help")]
RetryAfter = Annotated[float | None, Field(description="seconds")]
Parts = Annotated[
    list[Source | Data] | None, Field(description="source {title, url} and data {name, value}, in their order")
]
Author = Annotated[str | None, Field(description="the principal that sent it, where that is known")]
Duplicate = Annotated[bool, Field(description="whether it had been committed before")]


# Client to server -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Send:
    """Send a message."""

    message: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first frame of version 2; valid only as the first frame."""

    type: Literal["hello"] = "hello"
    v: Annotated[Literal[2], Field(description="the version of the protocol")]
    resume: Annotated[
        Position | None, BeforeValidator(_position), Field(description="{epoch, seq}: where the client left off")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a message; idempotent. The same id with another text is rejected."""

    type: Literal["send"] = "send"
    message: Text
    client_msg_id: ClientMsgId


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A new run for the user message of a run that ended otherwise than with stop; idempotent."""

    type: Literal["retry"] = "retry"
    run_id: RunId
    client_msg_id: ClientMsgId


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """End a run; what was written stays. Idempotent."""

    type: Literal["cancel"] = "cancel"
    run_id: RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPing:
    """Answered by pong."""

    type: Literal["ping"] = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientPong:
    """The answer to a ping; optional."""

    type: Literal["pong"] = "pong"


ClientMessage = V1Send | Hello | Send | Retry | Cancel | ClientPing | ClientPong


# Server to client, version 1 ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Status:
    """An answer is under way."""

    type: Literal["status"] = "status"
    status: Literal["thinking"] = "thinking"


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Message:
    """The answer."""

    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    content: Content


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Error:
    """A message was refused, or an answer failed."""

    type: Literal["error"] = "error"
    code: Code
    message: Explanation


# Server to client, version 2 ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageError:
    """Why a run failed."""

    code: Code
    retryable: Retryable
    retry_after: RetryAfter = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageUsage:
    """Tokens as the provider counted them."""

    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """One message of a session, in snapshots and over HTTP; a run that wrote no text is one, too."""

    message_id: Id
    role: Literal["user", "assistant"]
    content: str
    seq: Seq
    at: Time
    run_id: Annotated[Id | None, Field(description="the run that wrote it, or that it started")] = None
    client_msg_id: Annotated[Id | None, Field(description="of the message's command")] = None
    finish: Annotated[Finish | None, Field(description="how the run ended")] = None
    error: Annotated[MessageError | None, Field(description="where finish is error")] = None
    parts: Parts = None
    author: Author = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAnswer:
    """The run under way, its text and parts so far, and its status now."""

    run_id: Id
    message_id: Id
    text: str
    parts: Parts = None
    status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerHello:
    """The first reply."""

    type: Literal["hello"] = "hello"
    v: Literal[2] = 2
    epoch: Annotated[str, Field(description="name of the session's log; new when the log was lost")]
    head: Annotated[int, Field(description="the log's last seq")]
    recovered: Annotated[bool, Field(description="true: all after the client's seq follows; false: a snapshot follows")]
    run_id: Annotated[Id | None, Field(description="the run under way")] = None
    heartbeat: Annotated[float, Field(description="seconds between two pings")]
    max_bytes: Annotated[int, Field(description="longest message, as UTF-8")]
    scripted: Annotated[bool | None, Field(description="true: no model is configured, a script answers")] = None
    request_id: Annotated[
        Id | None, Field(description="the handshake's X-Request-ID, by which a gateway in front knows the socket")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotEvent:
    """Replaces everything that the client shows."""

    type: Literal["snapshot"] = "snapshot"
    messages: Annotated[list[MessageRow], Field(description="the last 500 rows")]
    earlier: Annotated[bool, Field(description="whether there are older rows: GET them with before")]
    run: Annotated[RunningAnswer | None, Field(description="the answer under way")] = None
    database: Annotated[
        str,
        Field(
            description="names the server's database. With another epoch, and no message that the client shows, the "
            "session was erased; with another name, too, it is missing from a database that was replaced or restored"
        ),
    ]
    through_seq: Annotated[int, Field(description="the last seq that is in the snapshot")]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEvent:
    """A message sent on any tab."""

    type: Literal["user"] = "user"
    seq: Seq
    message_id: MessageId
    client_msg_id: ClientMsgId
    content: Content
    at: Time
    author: Author = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusEvent:
    """A run began."""

    type: Literal["status"] = "status"
    seq: Seq
    run_id: RunId
    status: Literal["thinking"] = "thinking"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaEvent:
    """Append text."""

    type: Literal["delta"] = "delta"
    seq: Seq
    run_id: RunId
    message_id: MessageId
    text: Annotated[str, Field(description="the addition")]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEvent:
    """Something beside the text: a source, data for the client's own use, or what the responder is doing."""

    type: Literal["part"] = "part"
    seq: Seq
    run_id: RunId
    message_id: MessageId
    part: Annotated[
        Source | Status | Data,
        Field(
            description="by its kind: source {title, url}; data {name, value}; "
            "status {text}, which stands until text or another status follows"
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEvent:
    """The end of a run."""

    type: Literal["message"] = "message"
    seq: Seq
    from_seq: Annotated[int, Field(description="the first seq that this event stands for")]
    run_id: RunId
    message_id: MessageId
    role: Literal["assistant"] = "assistant"
    content: Annotated[str, Field(description="all of the answer; replaces the deltas")]
    parts: Parts = None
    finish: Annotated[Finish, Field(description="stop, length, cancelled, interrupted or error")]
    error: Annotated[MessageError | None, Field(description="where finish is error")] = None
    usage: Annotated[MessageUsage | None, Field(description="where the provider told")] = None
    at: Time


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Committed: it survives a crash from now on. Sent before the run's first delta; never moves the cursor."""

    type: Literal["ack"] = "ack"
    client_msg_id: ClientMsgId
    seq: Annotated[int, Field(description="that of the user event")]
    run_id: RunId
    duplicate: Duplicate


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMessage:
    """A command was refused; changes nothing."""

    type: Literal["error"] = "error"
    code: Code
    message: Explanation
    retryable: Retryable
    retry_after: RetryAfter = None
    client_msg_id: Annotated[Id | None, Field(description="of the command")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedEvent:
    """The session was erased; Close 4504 follows."""

    type: Literal["deleted"] = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPing:
    """Every heartbeat seconds (version 1: 30): a browser cannot see Ping frames."""

    type: Literal["ping"] = "ping"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPong:
    """The answer to a ping."""

    type: Literal["pong"] = "pong"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoAway:
    """The server is about to restart; Close 1012 follows."""

    type: Literal["goaway"] = "goaway"
    reconnect_after: Annotated[float, Field(description="seconds")]
    reconnect_within: Annotated[
        float | None, Field(description="seconds after that, over which clients spread: each comes at a random time")
    ] = None


#: Each message of the socket with the versions of the protocol that have it.
CLIENT: dict[type[ClientMessage], tuple[int, ...]] = {
    V1Send: (1,),
    Hello: (2,),
    Send: (2,),
    Retry: (2,),
    Cancel: (2,),
    ClientPing: (1, 2),
    ClientPong: (1, 2),
}
SERVER: dict[type[Any], tuple[int, ...]] = {
    V1Status: (1,),
    V1Message: (1,),
    V1Error: (1,),
    ServerHello: (2,),
    SnapshotEvent: (2,),
    UserEvent: (2,),
    StatusEvent: (2,),
    DeltaEvent: (2,),
    PartEvent: (2,),
    MessageEvent: (2,),
    Ack: (2,),
    ErrorMessage: (2,),
    DeletedEvent: (2,),
    ServerPing: (1, 2),
    ServerPong: (1, 2),
    GoAway: (2,),
}


# HTTP -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SendBody:
    """A message."""

    patient_id: Annotated[Id, Field(description="whose session it is")]
    message: Text
    client_msg_id: ClientMsgId
    epoch: Annotated[
        str | None, Field(description="of the chat that it is written to: not_found where that was erased meanwhile")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryBody:
    """A run to repeat."""

    run_id: Annotated[Id, Field(description="the run that failed")]
    client_msg_id: ClientMsgId
    patient_id: SessionPatient = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelBody:
    """A run to end."""

    run_id: Annotated[Id, Field(description="the run")]
    patient_id: SessionPatient = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseBody:
    """May be left out."""

    patient_id: SessionPatient = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TicketBody:
    """What a ticket is for."""

    patient_id: Annotated[Id, Field(description="whose sessions it opens")]
    session_id: Annotated[Id | None, Field(description="the only session that it opens")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedTicket:
    """A ticket: one socket's handshake may offer it as the subprotocol moorline.ticket.TICKET, beside moorline."""

    ticket: Annotated[str, Field(description="in place of the credentials; secret")]
    expires_in: Annotated[float, Field(description="seconds until it can be used no more")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A message was committed."""

    seq: Annotated[int, Field(description="that of the user event")]
    run_id: RunId
    duplicate: Duplicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """A new run was committed."""

    run_id: RunId
    duplicate: Duplicate


PageEvent = SnapshotEvent | UserEvent | StatusEvent | DeltaEvent | PartEvent | MessageEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """The socket's events after a seq. `recovered` false: the first one is a snapshot."""

    epoch: str
    head: Annotated[int, Field(description="the seq to ask after next")]
    recovered: bool
    events: list[PageEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    """One of a patient's sessions."""

    session_id: Id
    at: Annotated[str, Field(description="when a run of it last began or ended, RFC 3339, UTC")]
    first_words: Annotated[str, Field(description="of its first message, up to 100 characters")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPage:
    """A patient's sessions, the one last active first."""

    sessions: list[SessionRow]
    next: Annotated[str | None, Field(description="`before` of the next page, where there are more")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A refusal, RFC 9457."""

    type: Literal["about:blank"] = "about:blank"
    title: Explanation
    status: int
    code: Code
    retryable: Retryable
    retry_after: RetryAfter = None
