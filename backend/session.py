"""A session's rules: what its events stand for in what a client shows, and which command is legal now. Pure.

Every store checks commands by `check_send` and `check_retry`, so that all of them refuse the same ones. A snapshot is
what a client would show that has read all events.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.events import (
    Finish,
    MessageEnded,
    PartialAnswer,
    Position,
    Row,
    UserMessage,
)
from moorline.backend.parts import Part, Status, kept

__all__ = [
    "REPLAY_LIMIT",
    "PriorCommand",
    "can_replay",
    "check_owner",
    "check_retry",
    "check_send",
    "newest",
    "partial_answer",
    "row_of",
]


#: A reader further behind gets a snapshot: it is smaller than what it stands for.
REPLAY_LIMIT = 5000


def partial_answer(run_id: str, message_id: str, text: str, parts: Sequence[Part | None]) -> PartialAnswer:
    """The run under way as a client shows it: its `text`, and its parts in order, None for each piece of text."""
    last = next((part for part in reversed(parts) if part is None or isinstance(part, Status)), None)
    return PartialAnswer(run_id, message_id, text, kept(parts), last.text if isinstance(last, Status) else "")


def row_of(event: UserMessage | MessageEnded) -> Row:
    """The row that an event adds."""
    if isinstance(event, UserMessage):
        return Row(
            event.message_id,
            "user",
            event.content,
            event.seq,
            event.at,
            run_id=event.run_id,
            client_msg_id=event.client_msg_id,
            author=event.author,
        )
    return Row(
        event.message_id,
        "assistant",
        event.content,
        event.seq,
        event.at,
        run_id=event.run_id,
        finish=event.finish,
        error=event.error,
        parts=event.parts,
    )


def can_replay(head: Position, cursor: Position) -> bool:
    """Whether a reader at `cursor` of a log that ends at `head` gets the events after it; otherwise a snapshot."""
    return cursor.epoch == head.epoch and 0 <= cursor.seq <= head.seq <= cursor.seq + REPLAY_LIMIT


def newest(rows: Iterable[Row], *, count: int, size: int) -> tuple[tuple[Row, ...], bool]:
    """Of `rows`, which come newest first, up to `count` and up to `size` bytes, oldest first; are there more?

    The newest is always among them. `rows` is read no further than needed, so that a store need not load all.
    """
    kept: list[Row] = []
    for row in rows:
        size -= row.size
        if kept and (len(kept) == count or size < 0):
            return tuple(reversed(kept)), True
        kept.append(row)
    return tuple(reversed(kept)), False


# Which command is legal now -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PriorCommand:
    """A command that was committed under a `client_msg_id`: a send of `content`, or a retry of `retry_of`."""

    run_id: str
    user_seq: int
    content: str
    retry_of: str | None


def check_owner(owner: str, patient_id: str) -> None:
    """Raises Refusal `forbidden` unless the session belongs to `patient_id`."""
    if owner != patient_id:
        raise Refusal(ErrorCode.FORBIDDEN)


def check_send(
    content: str, *, prior: PriorCommand | None, active_run_id: str | None, refusal: Refusal | None = None
) -> PriorCommand | None:
    """None: a run may begin. A PriorCommand: the same command was committed before, answer with it.

    Raises:
        Refusal: `rejected`, `busy`, or `refusal` where nothing new may begin.
    """
    if prior is not None:
        if prior.retry_of is not None or prior.content != content:
            raise Refusal(ErrorCode.REJECTED)
        return prior
    if active_run_id is not None:
        raise Refusal(ErrorCode.BUSY)
    if refusal is not None:
        raise refusal
    return None


def check_retry(
    run_id: str,
    *,
    prior: PriorCommand | None,
    exists: bool,
    finish: Finish | None,
    active_run_id: str | None,
    refusal: Refusal | None = None,
) -> PriorCommand | None:
    """As `check_send`, for a retry of `run_id`, which `exists` in this session and ended with `finish` (None: active).

    Raises:
        Refusal: `rejected`, `not_found`, `busy`, or `refusal` where nothing new may begin.
    """
    if prior is not None:
        if prior.retry_of != run_id:
            raise Refusal(ErrorCode.REJECTED)
        return prior
    if not exists:
        raise Refusal(ErrorCode.NOT_FOUND)
    if finish is Finish.STOP:
        raise Refusal(ErrorCode.REJECTED, "This answer is complete.")
    if active_run_id is not None:
        raise Refusal(ErrorCode.BUSY)
    if refusal is not None:
        raise refusal
    return None
