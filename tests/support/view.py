"""What a client shows of a session's events: the reference for snapshots, rows and pages of all stores."""

from dataclasses import dataclass, replace

from moorline.backend.events import (
    Event,
    MessageEnded,
    PartAdded,
    PartialAnswer,
    Row,
    RunStarted,
    TextAdded,
    UserMessage,
)
from moorline.backend.parts import Status
from moorline.backend.session import row_of

__all__ = ["Gap", "View", "fold"]


class Gap(Exception):
    """Events are missing between what was folded and the next one."""


@dataclass(frozen=True, slots=True)
class View:
    """What a client shows after all events up to `seq`."""

    seq: int = 0
    rows: tuple[Row, ...] = ()
    run: PartialAnswer | None = None


def fold(view: View, event: Event) -> View:
    """The view after `event`. One that the view holds already changes nothing.

    Raises:
        Gap: `event` does not follow; read again from `view.seq`.
    """
    if event.seq <= view.seq:
        return view
    first = event.from_seq if isinstance(event, MessageEnded) else event.seq
    if first > view.seq + 1:
        raise Gap(f"seq {first} follows {view.seq}")
    match event:
        case UserMessage() as user:
            return replace(view, seq=user.seq, rows=(*view.rows, row_of(user)))
        case RunStarted():
            return replace(view, seq=event.seq, run=PartialAnswer(event.run_id, event.message_id, ""))
        case TextAdded() | PartAdded():
            run = view.run or PartialAnswer(event.run_id, event.message_id, "")
            return replace(view, seq=event.seq, run=_grown(run, event))
        case MessageEnded() as ended:
            return View(ended.seq, (*view.rows, row_of(ended)))


def _grown(run: PartialAnswer, event: TextAdded | PartAdded) -> PartialAnswer:
    if isinstance(event, TextAdded):
        return replace(run, text=run.text + event.text, status="")
    if isinstance(event.part, Status):
        return replace(run, status=event.part.text)
    return replace(run, parts=(*run.parts, event.part))
