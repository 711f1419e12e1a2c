"""The contract of an event log. `sqlite.py` keeps it on one machine, `postgres.py` for many; one suite tests both.

Three promises hold for every method that writes: it returns after its commit, never before; it is atomic; and readers
see an event only once it is committed. A reader pulls from its own position. A `Watch` only says when: its hints carry
no data, so a lost hint costs time and never an event.

A run has one owner, the process that was given its handle. Where many processes share a log, it speaks to the owner of
a run through `RunOwner`: a run was cancelled elsewhere, or another process died and left one behind.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from moorline.backend.errors import Refusal
from moorline.backend.events import Event, Finish, Position, Row, RunError, Snapshot, Usage

__all__ = [
    "SNAPSHOT_BYTES",
    "SNAPSHOT_ROWS",
    "EventLog",
    "Hint",
    "LogUnavailable",
    "RunHandle",
    "RunLost",
    "RunOwner",
    "SessionInfo",
    "Started",
    "Watch",
    "unwritten",
]

#: Rows of a snapshot and of a plain GET (chat-protocol: "the last 500").
SNAPSHOT_ROWS = 500
#: Text of a snapshot, as UTF-8: 500 rows of the longest message would be one frame of 32 MiB.
SNAPSHOT_BYTES = 1 << 20


class LogUnavailable(Exception):
    """The database does not answer, is full or cannot be written; trying again may help.

    Where the connection broke the command may have been committed all the same. So every command can be repeated: sends
    and retries by their `client_msg_id`, text by its place (`at`). Clients get `internal` (HTTP 503, retryable).
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


class Hint(enum.Enum):
    """What happened to a watched session. It may come late or in vain: ask the log before acting on it."""

    GROWN = "there may be new events"
    ERASED = "it may have been erased; there may be new events, too"


class Watch(Protocol):
    """Waits for a session to grow. Register (`EventLog.watch`) first, then read, then wait, and no growth is missed.

    Who reads at each hint, and asks `find_session` at ERASED, needs no other statement while nothing happens.
    """

    async def wait(self) -> Hint:
        """Return once something may have happened since the last `wait` returned (or since registration)."""

    def close(self) -> None:
        """Stop watching; idempotent."""


class RunOwner(Protocol):
    """What a process that carries out runs is told by its log, in the event loop. Neither call may raise or wait."""

    def stop_run(self, run_id: str) -> None:
        """A run of this process is to end as `cancelled`, or is lost: writing its end will tell. May come twice."""

    def adopt_run(self, started: Started) -> None:
        """A run that nobody carries out and that has no text yet is now this process's own: answer it, or end it."""


class EventLog(Protocol):
    """One ordered log per session. Every method raises LogUnavailable when the store cannot do its work."""

    # Opening and closing ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Create or migrate the schema, and end the runs that no living process owns as `interrupted`.

        Where many processes share the log this goes on while it is open: see `attach`.

        Raises:
            UsageError: the database cannot be used at all (no permission, another process owns it, not a database).
        """

    async def close(self) -> None:
        """Commit what is under way and let go of the database. Idempotent."""

    async def check(self) -> None:
        """Return if the database answers (for /readyz)."""

    def attach(self, owner: RunOwner) -> None:
        """Tell `owner` about the runs of this process. Comes before `open`; without it no run is taken over."""

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

    async def expire(self, before: float, *, limit: int = 100) -> Sequence[str]:
        """Erase sessions that nobody has written to since `before`, the oldest first; watchers are woken.

        Returns the ids of up to `limit` erased ones; call again while there are so many. One with an active run stays.
        """

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

    async def add_text(self, run: RunHandle, text: str, *, at: int | None = None) -> int:
        """Append `TextAdded`; returns its seq.

        `at` is the place of `text` in the answer, in characters. What stands there already, because an attempt that
        raised LogUnavailable was committed, is not written again.

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
        at: int | None = None,
        error: RunError | None = None,
        usage: Usage | None = None,
    ) -> int:
        """Append `MessageEnded`; returns its seq.

        Its content is all the text of the run and `text`, the last piece, which gets no event of its own; `at` as in
        `add_text`. The run's `TextAdded` events may be compacted away.

        Raises:
            RunLost: the run has ended already or has another owner.
        """

    async def cancel_run(self, session_id: str, run_id: str) -> None:
        """Have the owner of the active run, in whatever process, stop it (`RunOwner.stop_run`); otherwise nothing.

        Returns once the wish is kept: the run ends as `cancelled` soon, also when its owner dies before it hears of it.
        """

    # Reading ----------------------------------------------------------------------------------------------------------

    async def read_after(self, session_id: str, seq: int, *, limit: int, epoch: str | None = None) -> Sequence[Event]:
        """Up to `limit` committed events with a seq above `seq`, in order; empty when there are none.

        With `epoch` only those of the log called so: none when the session was erased, and perhaps opened again.
        A compacted stretch is missing; the `MessageEnded` behind it closes the gap by its `from_seq`.
        """

    async def snapshot(self, session_id: str) -> Snapshot | None:
        """The newest rows, the run under way and their position, read as one. None: no such session.

        At most SNAPSHOT_ROWS rows, and no more than SNAPSHOT_BYTES of text in all; but always the newest row. See
        `moorline.backend.session.newest`.
        """

    async def rows(self, session_id: str, *, before: int | None, limit: int) -> Sequence[Row]:
        """The last `limit` rows with a seq below `before` (None: the newest), in order; empty without a session."""

    def watch(self, session_id: str) -> Watch:
        """A hint for this session's growth or deletion."""


def unwritten(text: str, *, at: int | None, written: int) -> str:
    """What of `text`, whose place in an answer is `at`, stands behind the `written` characters of it.

    Raises:
        RunLost: the log holds less than was acknowledged; what belongs between is lost.
    """
    if at is None:
        return text
    if at > written:
        raise RunLost(f"{written} characters of {at} are left")
    return text[written - at :]
