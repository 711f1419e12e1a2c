"""Events, rows and refusals as version 2 and HTTP show them. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

from moorline.backend.errors import CATALOGUE, Refusal
from moorline.backend.eventlog.base import ListCursor, SessionSummary
from moorline.backend.events import (
    Event,
    MessageEnded,
    PartAdded,
    PartialAnswer,
    Row,
    RunError,
    RunStarted,
    Snapshot,
    TextAdded,
    Usage,
    UserMessage,
)
from moorline.backend.parts import Data, Part, Source, Status
from moorline.backend.protocol.codec import encode, encode_delta
from moorline.backend.protocol.http import shown_cursor
from moorline.backend.protocol.models import (
    Ack,
    DeletedEvent,
    DeltaEvent,
    ErrorMessage,
    GoAway,
    MessageError,
    MessageEvent,
    MessageRow,
    MessageUsage,
    PartEvent,
    RunningAnswer,
    SessionPage,
    SessionRow,
    SnapshotEvent,
    StatusEvent,
    UserEvent,
    is_id,
)

__all__ = ["Version2", "event_model", "row_model", "session_page", "snapshot_model"]


class Version2:
    """See `moorline.backend.protocol.version.Version`."""

    number = 2

    def event(self, event: Event) -> bytes:
        """See Version.event."""
        return encode_delta(event) if isinstance(event, TextAdded) else encode(event_model(event))

    def ack(self, client_msg_id: str, *, seq: int, run_id: str, duplicate: bool) -> bytes:
        """See Version.ack."""
        return encode(Ack(client_msg_id=client_msg_id, seq=seq, run_id=run_id, duplicate=duplicate))

    def refusal(self, refusal: Refusal, client_msg_id: object) -> bytes:
        """See Version.refusal."""
        return encode(
            ErrorMessage(
                code=refusal.code,
                message=refusal.message,
                retryable=CATALOGUE[refusal.code].retryable,
                retry_after=refusal.retry_after,
                client_msg_id=client_msg_id if is_id(client_msg_id) else None,
            )
        )

    def deleted(self) -> bytes:
        """See Version.deleted."""
        return encode(DeletedEvent())

    def goaway(self, reconnect_after: float, reconnect_within: float | None = None) -> bytes:
        """See Version.goaway."""
        return encode(GoAway(reconnect_after=reconnect_after, reconnect_within=reconnect_within))


def event_model(event: Event) -> UserEvent | StatusEvent | DeltaEvent | PartEvent | MessageEvent:
    """An event of the log, on the socket and in long polling."""
    match event:
        case UserMessage():
            return UserEvent(
                seq=event.seq,
                message_id=event.message_id,
                client_msg_id=event.client_msg_id,
                content=event.content,
                at=_time(event.at),
                author=event.author,
            )
        case RunStarted():
            return StatusEvent(seq=event.seq, run_id=event.run_id)
        case TextAdded():
            return DeltaEvent(seq=event.seq, run_id=event.run_id, message_id=event.message_id, text=event.text)
        case PartAdded():
            return PartEvent(seq=event.seq, run_id=event.run_id, message_id=event.message_id, part=event.part)
        case MessageEnded():
            return MessageEvent(
                seq=event.seq,
                from_seq=event.from_seq,
                run_id=event.run_id,
                message_id=event.message_id,
                content=event.content,
                parts=_parts(event.parts),
                finish=event.finish,
                error=_error(event.error),
                usage=_usage(event.usage),
                at=_time(event.at),
            )


def row_model(row: Row) -> MessageRow:
    """A row of a snapshot or of a GET."""
    return MessageRow(
        message_id=row.message_id,
        role=row.role,
        content=row.content,
        seq=row.seq,
        at=_time(row.at),
        run_id=row.run_id,
        client_msg_id=row.client_msg_id,
        finish=row.finish,
        error=_error(row.error),
        parts=_parts(row.parts),
        author=row.author,
    )


def session_page(found: Sequence[SessionSummary], *, limit: int) -> SessionPage:
    """A page of a patient's sessions; a full one may not be the last."""
    rows = [SessionRow(session_id=each.session_id, at=_time(each.at), first_words=each.first_words) for each in found]
    last = ListCursor(found[-1].at, found[-1].session_id) if len(found) == limit else None
    return SessionPage(sessions=rows, next=last and shown_cursor(last))


def snapshot_model(snapshot: Snapshot, database: str) -> SnapshotEvent:
    """All that a client shows; `database` is the log's identity."""
    return SnapshotEvent(
        messages=[row_model(row) for row in snapshot.rows],
        earlier=snapshot.earlier,
        run=_running(snapshot.run),
        database=database,
        through_seq=snapshot.position.seq,
    )


def _error(error: RunError | None) -> MessageError | None:
    return (
        None
        if error is None
        else MessageError(code=error.code, retryable=error.retryable, retry_after=error.retry_after)
    )


def _usage(usage: Usage | None) -> MessageUsage | None:
    return None if usage is None else MessageUsage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)


def _running(run: PartialAnswer | None) -> RunningAnswer | None:
    if run is None:
        return None
    parts, status = _parts(run.parts), run.status or None
    return RunningAnswer(run_id=run.run_id, message_id=run.message_id, text=run.text, parts=parts, status=status)


def _parts(parts: tuple[Part, ...]) -> list[Source | Data] | None:
    return [part for part in parts if not isinstance(part, Status)] or None


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
