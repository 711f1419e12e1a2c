"""What a socket of version 1 is sent: byte for byte what clients expect that were written before version 2. Pure."""

from moorline.backend.errors import CATALOGUE, ErrorCode, Refusal
from moorline.backend.events import Event, Finish, MessageEnded, RunStarted
from moorline.backend.protocol.codec import encode
from moorline.backend.protocol.models import V1Error, V1Message, V1Status

__all__ = ["Version1"]


class Version1:
    """One socket's side of it. See `moorline.backend.protocol.version.Version`."""

    number = 1

    def __init__(self) -> None:
        # It is told about the runs that began after it connected; a session has one at a time.
        self._run_id: str | None = None

    def event(self, event: Event) -> bytes | None:
        """See Version.event."""
        if isinstance(event, RunStarted):
            self._run_id = event.run_id
            return encode(V1Status())
        if isinstance(event, MessageEnded) and event.run_id == self._run_id:
            return encode(_end(event))
        return None

    def ack(self, client_msg_id: str, *, seq: int, run_id: str, duplicate: bool) -> bytes | None:
        """See Version.ack."""
        return None

    def refusal(self, refusal: Refusal, client_msg_id: object) -> bytes:
        """See Version.refusal."""
        return encode(V1Error(code=refusal.code, message=refusal.message))

    def deleted(self) -> bytes | None:
        """See Version.deleted."""
        return None

    def goaway(self, reconnect_after: float, reconnect_within: float | None = None) -> bytes | None:
        """See Version.goaway."""
        return None


def _end(event: MessageEnded) -> V1Message | V1Error:
    match event:
        case MessageEnded(finish=Finish.ERROR):
            code = event.error.code if event.error else ErrorCode.INTERNAL
            return V1Error(code=code, message=CATALOGUE[code].message)
        case MessageEnded(content="", finish=Finish.CANCELLED | Finish.INTERRUPTED):
            return V1Error(code=ErrorCode.INTERNAL, message=f"The answer was {event.finish}.")
        case _:
            return V1Message(content=event.content)
