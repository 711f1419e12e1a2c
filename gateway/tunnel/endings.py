"""Why a tunnel ends, what each side is told, and how it is let go. Pure.

The other side of the one that failed gets a Close frame with a code that says why. Where none can be sent, in the
middle of a frame or behind a Close that has passed, a FIN alone has to do.
"""

import dataclasses
import enum

from moorline.gateway.tunnel.frames import CloseCode

__all__ = ["Close", "Outcome", "Reason", "Side", "farewell", "way_out"]


class Side(enum.Enum):
    CLIENT = "client"
    BACKEND = "backend"

    @property
    def other(self) -> "Side":
        return Side.BACKEND if self is Side.CLIENT else Side.CLIENT


class Reason(enum.StrEnum):
    """Why a tunnel ended. A timer is called by its setting."""

    CLOSED = "closed"
    """With a Close frame of the peer's."""
    FIN = "fin"
    RESET = "reset"
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"
    MAX_FRAME_SIZE = "max_frame_size"
    PROXY_READ_TIMEOUT = "proxy_read_timeout"
    PROXY_SEND_TIMEOUT = "proxy_send_timeout"
    SEND_TIMEOUT = "send_timeout"
    CLOSE_TIMEOUT = "close_timeout"
    SHUTDOWN = "shutdown"


class Close(enum.Enum):
    """How to let go of one side."""

    FLUSH = enum.auto()
    """Send what waits, then FIN, and be gone."""
    LINGER = enum.auto()
    """The same, but read on until the peer ends: input that nobody reads turns the FIN into a reset, which overtakes
    the last bytes."""
    LINGER_IF_UNREAD = enum.auto()
    """LINGER where there is such input already, else FLUSH."""
    ABORT = enum.auto()
    """Now, whatever waits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Who ended a tunnel, the gateway where it was neither side, and why."""

    side: Side | None
    reason: Reason

    @property
    def who(self) -> str:
        return self.side.value if self.side is not None else "gateway"


_LOST = {
    Side.CLIENT: (CloseCode.GOING_AWAY, "client went away"),
    Side.BACKEND: (CloseCode.BAD_GATEWAY, "backend connection lost"),
}
# What the client and the backend are told, whoever ended it.
_TOLD: dict[Reason, tuple[CloseCode | None, CloseCode | None, str]] = {
    Reason.HEARTBEAT_TIMEOUT: (CloseCode.INTERNAL_ERROR, CloseCode.INTERNAL_ERROR, "heartbeat timeout"),
    Reason.PROXY_READ_TIMEOUT: (CloseCode.GOING_AWAY, CloseCode.GOING_AWAY, "proxy_read_timeout"),
    # The side that does not read is cut: what is said to it would wait behind all that it does not take.
    Reason.PROXY_SEND_TIMEOUT: (CloseCode.TRY_AGAIN_LATER, None, "proxy_send_timeout"),
    Reason.SEND_TIMEOUT: (None, CloseCode.GOING_AWAY, "send_timeout"),
    Reason.SHUTDOWN: (CloseCode.GOING_AWAY, CloseCode.GOING_AWAY, "gateway restarting"),
}
_TIMERS = {Reason.PROXY_READ_TIMEOUT, Reason.PROXY_SEND_TIMEOUT, Reason.SEND_TIMEOUT, Reason.HEARTBEAT_TIMEOUT}


def farewell(side: Side, outcome: Outcome) -> tuple[CloseCode, str] | None:
    """Code and reason of the Close frame for this side; None: there is nothing to say, or nobody to say it to."""
    reason = outcome.reason
    if reason in (Reason.FIN, Reason.RESET):
        return _LOST[side.other] if outcome.side is side.other else None
    if reason is Reason.MAX_FRAME_SIZE:
        code = CloseCode.TOO_BIG if outcome.side is side else CloseCode.GOING_AWAY
        return code, "frame larger than max_frame_size"
    if reason not in _TOLD:
        return None
    to_client, to_backend, text = _TOLD[reason]
    code_or_none = to_client if side is Side.CLIENT else to_backend
    return None if code_or_none is None else (code_or_none, text)


def way_out(side: Side, reason: Reason, *, stalls: bool, close_frames: bool) -> Close:
    """How to let go of a side that has not ended by itself."""
    if not close_frames:
        if reason in _TIMERS and (side is Side.BACKEND or stalls):
            return Close.ABORT
        return Close.LINGER_IF_UNREAD if side is Side.CLIENT else Close.FLUSH
    cut = {Reason.PROXY_SEND_TIMEOUT: Side.BACKEND, Reason.SEND_TIMEOUT: Side.CLIENT}.get(reason)
    return Close.ABORT if side is cut or reason is Reason.CLOSE_TIMEOUT else Close.LINGER
