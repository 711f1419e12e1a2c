"""What the log and its stores have in common: handles, commands, commits, errors, and the protocols between them.

`log.EventLog` is the contract that the rest of the backend uses. `sqlite/` stores the log for one process, `postgres/`
for many; one suite tests both.
"""

import asyncio
import enum
import math
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import (
    Event,
    Finish,
    MessageEnded,
    PartAdded,
    Position,
    Row,
    RunError,
    Snapshot,
    TextAdded,
    Usage,
    UserMessage,
)
from moorline.backend.parts import Part
from moorline.backend.session import PriorCommand, check_owner, check_retry, check_send

__all__ = [
    "ANONYMOUS",
    "CHECKED_BYTES",
    "EPOCH_BUCKETS",
    "ERASED_AT_ONCE",
    "FIRST_WORDS",
    "IDENTITY_BUCKET",
    "LOG_RETRY_SECONDS",
    "SNAPSHOT_BYTES",
    "SNAPSHOT_ROWS",
    "Commit",
    "DatabaseState",
    "End",
    "EventQuery",
    "FoundTicket",
    "Hint",
    "ListCursor",
    "LogUnavailable",
    "Piece",
    "Retried",
    "RunFacts",
    "RunHandle",
    "RunLost",
    "RunOwner",
    "SessionInfo",
    "SessionSummary",
    "Start",
    "Started",
    "Store",
    "StoreOwner",
    "Ticket",
    "check_start",
    "epoch_bucket",
    "new_id",
    "unwritten",
]

#: Rows of a snapshot and of a plain GET.
SNAPSHOT_ROWS = 500
#: Text of a snapshot and of a plain GET, as UTF-8, but always one row. It is what a client that does not read can make
#: a process hold: with a MiB, 4,000 requests of 80 bytes held 4 GiB.
SNAPSHOT_BYTES = 64 << 10
#: What `check_write` writes: a disk that has no room for it is full.
CHECKED_BYTES = 16 << 10
#: Characters of a session's first message in the list of its patient's sessions: a title, not the text.
FIRST_WORDS = 100
#: Between two attempts while the event log is unavailable.
LOG_RETRY_SECONDS = 1.0
#: The principal where no `authorize` hook names one.
ANONYMOUS = "anonymous"


class DatabaseState(enum.StrEnum):
    """What kept the database from its work, for /readyz: no names and no data."""

    OK = "ok"
    LOCKED = "locked"
    """Another transaction or process holds what is needed."""
    READ_ONLY = "read-only"
    FULL = "full"
    DOWN = "down"
    """It cannot be reached, or does not answer."""
    FAILED = "failed"

    @property
    def outlives_reads(self) -> bool:
        """Whether some reads succeed all the same, so that only a write shows that it is over."""
        return self in (DatabaseState.LOCKED, DatabaseState.FULL, DatabaseState.READ_ONLY)


class LogUnavailable(Exception):
    """The database does not answer, is full or cannot be written; trying again may help.

    If the connection broke, the command may have been committed nevertheless. Every command can therefore be repeated:
    sends and retries by their `client_msg_id`, text by its offset (`at`). Clients get `internal` (HTTP 503, retryable).

    `separable`: of several pieces of text that were written together, one may have caused it; each may be tried alone.
    """

    def __init__(self, message: str, *, separable: bool = False, state: DatabaseState = DatabaseState.FAILED) -> None:
        super().__init__(message)
        self.separable = separable
        self.state = state


class RunLost(Exception):
    """The writer no longer owns the run: it ended, was taken over, or its session was erased."""


# Sessions and runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """The patient a session belongs to and how far its log reaches (`head.seq` is 0 before its first message)."""

    session_id: str
    patient_id: str
    head: Position
    active_run_id: str | None


class SessionSummary(NamedTuple):
    """A session in the list of its patient's."""

    session_id: str
    at: float
    """When a run of it last began or ended."""
    first_words: str
    """Of its first message, at most FIRST_WORDS characters."""


class ListCursor(NamedTuple):
    """Where a page of that list begins: behind this session. The default is the beginning.

    The order is that of activity, so a session that becomes active while pages are read is on none of the later ones.
    """

    at: float = math.inf
    session_id: str = ""


class Ticket(NamedTuple):
    """What a ticket stands for: a principal, as the authorize hook named it, that may open a patient's sockets."""

    patient_id: str
    session_id: str | None
    """None: any session of the patient."""
    principal: str
    metadata: str
    """That of the principal, as JSON."""
    expires: float | None
    issued: float | None
    """When the principal's credentials were issued, for a revocation meanwhile. None: when it was decided about, by the
    database's clock, which revocations have, too."""


class FoundTicket(NamedTuple):
    """A ticket that is valid."""

    ticket: Ticket
    left: float
    """Seconds for which it is. Not a time: the clocks of two backends may differ."""


@dataclass(frozen=True, slots=True)
class RunHandle:
    """The right to write one run. `fence` grows with each owner: writes of an earlier owner are refused."""

    session_id: str
    run_id: str
    message_id: str
    fence: int


class RunFacts(NamedTuple):
    """Whose chat a run belongs to, and who sent its command (`anonymous`: written by a version that did not say)."""

    patient_id: str
    principal: str


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome of a send or a retry.

    `seq` is that of the user's message. `handle` is None for a duplicate: the run exists already, has an owner and must
    not be started again.
    """

    seq: int
    run_id: str
    handle: RunHandle | None

    @property
    def duplicate(self) -> bool:
        """Whether the same command had been committed before."""
        return self.handle is None


class RunOwner(Protocol):
    """The part of a process that carries out runs; called by its log in the event loop. No call may raise or block."""

    def stop_run(self, run_id: str) -> None:
        """End a run of this process as `cancelled`, or stop writing one that is lost. May be called twice for a run."""

    def adopt_run(self, started: Started) -> None:
        """Answer, or end, a run without text whose owner is gone; it is this process's from now on."""


# Commands -------------------------------------------------------------------------------------------------------------


def new_id() -> str:
    """A random id."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Start:
    """A send (`patient_id` and `content`) or a retry (`retry_of`), with the ids of what every attempt at it writes.

    `refusal` is raised where a new run would begin. A send with an `epoch` is for the session of that epoch alone.
    """

    session_id: str
    client_msg_id: str
    now: float
    refusal: Refusal | None
    patient_id: str = ""
    content: str = ""
    principal: str = ANONYMOUS
    epoch: str | None = None
    retry_of: str | None = None
    run_id: str = field(default_factory=new_id)
    message_id: str = field(default_factory=new_id)
    user_message_id: str = field(default_factory=new_id)

    def message(self, seq: int) -> UserMessage:
        """What readers see of a send."""
        return UserMessage(
            seq, self.user_message_id, self.client_msg_id, self.run_id, self.content, self.now, self.principal
        )


class Piece(NamedTuple):
    """A piece of a run's text, or a part. `at` is its offset in the answer; None: at the end, unconditionally.

    Offsets count characters, and a part, which has no text, as one.
    """

    run: RunHandle
    text: str
    at: int | None
    part: Part | None = None

    @property
    def size(self) -> int:
        """By how much it moves the offset of what follows."""
        return len(self.text) if self.part is None else 1

    def beyond(self, written: int) -> "Piece | None":
        """What of it is not in a log that has `written` of the answer; None: all of it is. Raises as `unwritten`."""
        if self.at is None or self.at == written:
            return self
        missing = unwritten(self.text, at=self.at, written=written)
        if self.part is not None:
            return None
        return self._replace(text=missing, at=written) if missing or not self.text else None

    def as_event(self, seq: int) -> TextAdded | PartAdded:
        """What readers see of it."""
        if self.part is not None:
            return PartAdded(seq, self.run.run_id, self.run.message_id, self.part)
        return TextAdded(seq, self.run.run_id, self.run.message_id, self.text)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a run. `text` is the last piece, `at` its offset."""

    run: RunHandle
    finish: Finish
    now: float
    text: str = ""
    at: int | None = None
    error: RunError | None = None
    usage: Usage | None = None

    def as_event(self, seq: int, *, from_seq: int, content: str, parts: tuple[Part, ...]) -> MessageEnded:
        """What readers see of it."""
        run = self.run
        return MessageEnded(
            seq, from_seq, run.run_id, run.message_id, content, self.finish, self.now, self.error, self.usage, parts
        )


class Retried(NamedTuple):
    """The run that a retry names. `finish` is None while it is active."""

    user_seq: int
    finish: str | None


class EventQuery(NamedTuple):
    """What one reader asks for."""

    session_id: str
    seq: int
    limit: int
    epoch: str | None
    size: int | None = None
    """Events until so many bytes are reached; None: `limit` alone counts."""


def check_start(
    start: Start,
    *,
    patient_id: str | None,
    epoch: str | None,
    active_run_id: str | None,
    prior: PriorCommand | None,
    retried: Retried | None,
) -> PriorCommand | None:
    """Whether `start` may begin a run (None), or the same command as committed before.

    `patient_id` and `epoch` are the session's, None where there is no session.

    Raises:
        Refusal: neither.
    """
    if start.retry_of is not None:
        return check_retry(
            start.retry_of,
            prior=prior,
            exists=retried is not None,
            finish=Finish(retried.finish) if retried and retried.finish else None,
            active_run_id=active_run_id,
            refusal=start.refusal,
        )
    if patient_id is not None:
        check_owner(patient_id, start.patient_id)
    if prior is None and start.epoch not in (None, epoch):
        raise Refusal(ErrorCode.NOT_FOUND, "The chat that this was written to is not here any more.")
    return check_send(start.content, prior=prior, active_run_id=active_run_id, refusal=start.refusal)


def unwritten(text: str, *, at: int | None, written: int) -> str:
    """The part of `text`, which has the offset `at`, beyond the first `written` characters of the answer.

    Raises:
        RunLost: the log holds less than was acknowledged; the text in between is lost.
    """
    if at is None:
        return text
    if at > written:
        raise RunLost(f"{written} of {at} characters are in the log")
    return text[written - at :]


#: Seeds for the epochs of sessions that begin. An erasure replaces the one that the session shares with a few others.
EPOCH_BUCKETS = 1024

#: The seed of this number, which no session has, is the name of the database.
IDENTITY_BUCKET = -1


def epoch_bucket(session_id: str) -> int:
    """The number of the seed from which the epoch of a session is derived when it begins."""
    return zlib.crc32(session_id.encode()) % EPOCH_BUCKETS


#: Events that one transaction deletes of a session that is erased: of more it is thinned out before. A million would
#: hold up all other chats for six seconds in SQLite, and never be deleted within PostgreSQL's time for a statement.
ERASED_AT_ONCE = 10_000


# The store ------------------------------------------------------------------------------------------------------------


class Commit(NamedTuple):
    """A committed event of a session's log; None: the session was erased."""

    session_id: str
    epoch: str
    event: Event | None


class Hint(enum.Enum):
    """What happened to a watched session. It may be late or unfounded: read the log before acting on it."""

    GROWN = "there may be new events"
    ERASED = "it may have been erased, and there may be new events"


class StoreOwner(Protocol):
    """What a store tells its log, in the event loop."""

    def committed(self, commits: Sequence[Commit]) -> None:
        """This process has committed; called before the command that did so returns."""

    def changed_elsewhere(self, hints: Mapping[str, Hint]) -> None:
        """Other processes have written to these sessions, or erased them."""

    def watched(self) -> Mapping[str, Position | None]:
        """The sessions whose changes have to be noticed, each with the head before its first reader began to wait: all
        that came since has to be noticed. None where that is not known, or a hint came meanwhile."""

    def revoked(self, principals: Mapping[str, float]) -> None:
        """What these principals had until then is revoked: all of them at first, later those that are new."""

    def stop_run(self, run_id: str) -> None:
        """See RunOwner.stop_run."""

    def adopt_run(self, started: Started) -> bool:
        """See RunOwner.adopt_run; False where there is no RunOwner."""


class Store(Protocol):
    """One database. Each write is atomic, returns after its commit, and may be repeated after LogUnavailable.

    `log.EventLog`, the only caller, describes the operations in full.
    """

    #: Whether no other process writes to the database.
    exclusive: bool
    #: Names the database, once it is open. Where it was restored it has another name; an erasure leaves it.
    identity: str

    async def open(self, owner: StoreOwner) -> None:
        """Create or migrate the schema, and take over or end the runs that no living process owns."""

    async def close(self) -> None:
        """Commit what is queued and release the database. Called once, also when `open` has failed."""

    async def check(self) -> None:
        """Return if the database answers."""

    async def check_write(self) -> None:
        """Return if a message could be written; nothing of it stays."""

    async def find_session(self, session_id: str) -> SessionInfo | None:
        """The session, or None."""

    async def session_for(self, session_id: str, patient_id: str) -> SessionInfo:
        """The session, or as it would begin for the patient."""

    async def sessions(self, patient_id: str, before: ListCursor, limit: int) -> Sequence[SessionSummary]:
        """The patient's sessions behind `before`, the one last active first."""

    async def now(self) -> float:
        """The time that all processes of the database have, as `time.time()` counts."""

    async def add_ticket(self, digest: str, ticket: Ticket, lifetime: float, age: float) -> None:
        """Keep a ticket by the hash of its text, valid for `lifetime` seconds; its principal was decided about at most
        `age` seconds ago."""

    async def find_ticket(self, digest: str) -> FoundTicket | None:
        """The ticket, if it is there and valid."""

    async def take_ticket(self, digest: str) -> bool:
        """Remove the ticket; whether it was there and valid."""

    async def prune(self, revoked_within: float) -> None:
        """Remove tickets that are not valid any more, and revocations that are older than so many seconds."""

    async def revoke(self, principal: str) -> float:
        """Revoke what the principal has, in all processes; the time of that."""

    async def long_sessions(self, before: float, limit: int) -> Sequence[tuple[str, str]]:
        """Id and epoch of those of the sessions that `expire` would erase which `thin_out` has to come before."""

    async def thin_out(self, session_id: str, epoch: str | None, after: int) -> int | None:
        """Delete the oldest ERASED_AT_ONCE events, but the first, of a session that is to be erased, or as many of the
        rows that they leave. A message that stays has its command, and a run whose message is gone is not retried.

        `after` is 1 at first, then what the call before has returned. None when the rest can be deleted at once, and
        when there is no such session (of `epoch`).
        """

    async def delete_session(self, session_id: str, epoch: str | None) -> bool | None:
        """Erase the session; False when there was none (of `epoch`), and None when `thin_out` has to come before."""

    async def expire(self, before: float, limit: int) -> Sequence[str]:
        """Erase up to `limit` idle sessions, the oldest first; returns their ids."""

    async def run_facts(self, run: RunHandle) -> RunFacts | None:
        """About the run; None where its session was erased."""

    async def start_run(self, start: Start) -> Started:
        """Append `UserMessage` (of a send) and `RunStarted`, as `check_start` allows."""

    def add_texts(self, pieces: Sequence[Piece]) -> "asyncio.Future[Sequence[int | Exception]]":
        """The seq of each of `pieces`, in this order, or why it has none.

        No coroutine: to begin a task for each piece of an answer takes longer than all else that is done with it here.
        """

    async def end_run(self, end: End) -> int:
        """Append `MessageEnded` in the place of the run's text and parts; returns its seq. RunLost: not the owner's."""

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Have the owner of the run stop it, if it is active."""

    async def read_after(self, queries: Sequence[EventQuery]) -> Sequence[list[Event]]:
        """The events that each of `queries` asks for, in this order."""

    async def snapshot(self, session_id: str) -> Snapshot | None:
        """The newest rows and the active run, read in one transaction."""

    async def rows(self, session_id: str, before: int | None, limit: int) -> Sequence[Row]:
        """The last `limit` rows before the seq `before`."""
