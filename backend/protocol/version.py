"""What differs between the versions of the protocol on a socket. Pure."""

from typing import Protocol

from moorline.backend.errors import Refusal
from moorline.backend.events import Event

__all__ = ["Version"]


class Version(Protocol):
    """The server's frames in one version; None where it has no such message."""

    @property
    def number(self) -> int:
        """1 or 2."""

    def event(self, event: Event) -> bytes | None:
        """An event of the session's log. All of them are passed here, in order."""

    def ack(self, client_msg_id: str, *, seq: int, run_id: str, duplicate: bool) -> bytes | None:
        """A command was committed."""

    def refusal(self, refusal: Refusal, client_msg_id: object) -> bytes:
        """A command was refused, or a frame; `client_msg_id` as the client sent it, if it did."""

    def deleted(self) -> bytes | None:
        """The session was erased."""

    def goaway(self, reconnect_after: float, reconnect_within: float | None = None) -> bytes | None:
        """The server is about to restart."""
