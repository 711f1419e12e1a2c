"""The contract of an event log. `sqlite.py` keeps it on one machine; a store for many machines keeps the same one.

Three promises hold for every method that writes: it returns after its commit, never before; it is atomic; and readers
see an event only once it is committed. A reader pulls from its own position. `Watch` is a hint that carries no data, so
a lost hint costs time and never an event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.errors import Refusal
from backend.events import Event, Finish, Position, Row, RunError, Snapshot, Usage

__all__ = [
    "SNAPSHOT_BYTES",
    "SNAPSHOT_ROWS",
    "EventLog",
    "LogUnavailable",
    "RunHandle",
    "RunLost",
    "SessionInfo",
    "Started",
    "Watch",
]

#: Rows of a snapshot and of a plain GET (chat-protocol: "the last 500").
SNAPSHOT_ROWS = 500
#: Text of a snapshot, as UTF-8: 500 rows of the longest message would be one frame of 32 MiB.
SNAPSHOT_BYTES = 1 << 20


class LogUnavailable(Exception):
    """The database does not answer, is full or cannot be written. Nothing was committed; trying again may help.

    Clients get `internal` (HTTP 503, retryable).
    """


class RunLost(Exception):
    """The writer no longer owns the run: it ended, was taken over, or its session was erased."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Whose a session is and how far its log reaches (`head.seq` is 0 for an empty one)."""

    session_id: str
    patient_id: str
    head: Position
    active_run_id: str | None


@dataclass(frozen=True, slots=True)
class RunHandle:
    """The right to write one run. `fence` grows with each owner: what an owner of the past writes is refused."""

    session_id: str
    run_id: str
    message_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome of `start_run` and `retry_run`.

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


class Watch(Protocol):
    """Waits for a session to grow. Register (`EventLog.watch`) first, then read, then wait, and no growth is missed."""

    async def wait(self) -> None:
        """Return once there may be something new since the last `wait` returned (or since registration)."""

    def close(self) -> None:
        """Stop watching; idempotent."""


class EventLog(Protocol):
    """One ordered log per session. Every method raises LogUnavailable when the store cannot do its work."""

    # Opening and closing ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Create or migrate the schema and end the runs that no living process owns as `interrupted`.

        Raises:
            UsageError: the database cannot be used at all (no permission, another process owns it, not a database).
        """

    async def close(self) -> None:
        """Commit what is under way and let go of the database. Idempotent."""

    async def check(self) -> None:
        """Return if the database answers (for /readyz)."""

    # Sessions ---------------------------------------------------------------------------------------------------------

    async def find_session(self, session_id: str) -> SessionInfo | None:
        """The session, or None when nobody has opened it."""

    async def open_session(self, session_id: str, patient_id: str, *, now: float) -> SessionInfo:
        """The session, created empty with a new epoch if need be.

        Raises:
            Refusal: `forbidden`, when it belongs to another patient.
        """

    async def delete_session(self, session_id: str) -> bool:
        """Erase the session and all its events; watchers are woken. False when there was none."""

    # Writing ----------------------------------------------------------------------------------------------------------

    async def start_run(
        self,
        session_id: str,
        patient_id: str,
        *,
        client_msg_id: str,
        content: str,
        now: float,
        refusal: Refusal | None = None,
    ) -> Started:
        """Append `UserMessage` and `RunStarted` in one transaction; opens the session if need be.

        Idempotent by (session_id, client_msg_id): the same text again gives the first outcome with `handle` None.
        With `refusal` nothing new is started: it is raised where a run would begin, and a duplicate is answered still.

        Raises:
            Refusal: `forbidden` (another patient's), `rejected` (the id was used for another text), `busy` (a run is
                active; a duplicate is answered before this is asked).
        """

    async def retry_run(
        self, session_id: str, *, run_id: str, client_msg_id: str, now: float, refusal: Refusal | None = None
    ) -> Started:
        """Append `RunStarted` for the user message of `run_id`, which must have ended otherwise than with `stop`.

        Idempotent by (session_id, client_msg_id) as `start_run` is; `refusal` as there.

        Raises:
            Refusal: `not_found` (no such run), `rejected` (it ended with `stop`, or the id was used otherwise), `busy`.
        """

    async def add_text(self, run: RunHandle, text: str) -> int:
        """Append `TextAdded`; returns its seq.

        Raises:
            RunLost: the run has ended or has another owner; stop writing.
        """

    async def end_run(
        self,
        run: RunHandle,
        *,
        finish: Finish,
        now: float,
        text: str = "",
        error: RunError | None = None,
        usage: Usage | None = None,
    ) -> int:
        """Append `MessageEnded`; returns its seq.

        Its content is all the text of the run and `text`, the last piece, which gets no event of its own. The run's
        `TextAdded` events may be compacted away.

        Raises:
            RunLost: the run has ended already or has another owner.
        """

    # Reading ----------------------------------------------------------------------------------------------------------

    async def read_after(self, session_id: str, seq: int, *, limit: int) -> Sequence[Event]:
        """Up to `limit` committed events with a seq above `seq`, in order; empty when there are none.

        A compacted stretch is missing; the `MessageEnded` behind it closes the gap by its `from_seq`.
        """

    async def snapshot(self, session_id: str) -> Snapshot | None:
        """The newest rows, the run under way and their position, read as one. None: no such session.

        At most SNAPSHOT_ROWS rows, and no more than SNAPSHOT_BYTES of text in all; but always the newest row. See
        `backend.session.newest`.
        """

    async def rows(self, session_id: str, *, before: int | None, limit: int) -> Sequence[Row]:
        """The last `limit` rows with a seq below `before` (None: the newest), in order; empty without a session."""

    def watch(self, session_id: str) -> Watch:
        """A hint for this session's growth or deletion."""
