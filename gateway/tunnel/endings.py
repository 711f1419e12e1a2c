"""Why a tunnel ends, the Close frame that each side gets, and how each side's connection is closed. Pure.

The side that did not fail gets a Close frame whose code says why. Where none can be sent, in the middle of a frame or
behind a Close frame that has passed, it gets a FIN alone.
"""

import dataclasses
import enum
import functools
from typing import NamedTuple

from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.common.web.frames import CloseCode
from moorline.gateway.tunnel.tcp_info import TcpInfo

__all__ = [
    "CLIENT",
    "NOT_READING",
    "ORDERLY",
    "UPSTREAM",
    "Outcome",
    "Reconnect",
    "Side",
    "Teardown",
    "cause_of",
    "close_frame_for",
    "teardown_for",
]


class Side(enum.StrEnum):
    CLIENT = "client"
    UPSTREAM = "upstream"

    @property
    def other(self) -> "Side":
        return UPSTREAM if self is CLIENT else CLIENT


CLIENT, UPSTREAM = Side
"""The same, which Python 3.11 looks up in the class at ten times the cost."""


class Teardown(enum.Enum):
    """How one side's TCP connection is closed."""

    FLUSH = enum.auto()
    """Send what is buffered, then FIN, and close."""
    LINGER = enum.auto()
    """The same, but go on reading until the peer ends: unread input turns the FIN into a reset, which overtakes the
    last bytes (RFC 1122 section 4.2.2.13)."""
    LINGER_IF_UNREAD = enum.auto()
    """LINGER where there is such input already, else FLUSH."""
    ABORT = enum.auto()
    """At once; what is buffered is discarded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reconnect:
    """When the clients of a gateway that restarts should come back: each at a random time within `within` seconds,
    which begin `after` seconds from now.

    The Close frame's reason says it, for a gateway sends no messages of its own in a socket of whatever protocol.
    """

    after: float
    within: float

    def __str__(self) -> str:
        return f"reconnect_after={self.after:.1f} reconnect_within={self.within:.1f}"


class Outcome(NamedTuple):
    """Which side ended a tunnel, None for the gateway itself, and why. A tuple, which is made at half the cost of a
    frozen dataclass."""

    side: Side | None
    reason: Reason
    reconnect: Reconnect | None = None
    """At a SHUTDOWN of many."""

    @property
    def ended_by(self) -> str:
        return self.side or "gateway"


ORDERLY = frozenset({Reason.CLOSED, Reason.SHUTDOWN, Reason.FORBIDDEN, Reason.EXPIRED})
"""Ends of which the kernel's view would tell nothing."""

NOT_READING = {Reason.PROXY_SEND_TIMEOUT: Side.UPSTREAM, Reason.SEND_TIMEOUT: Side.CLIENT}
"""The side that did not read, of ends by which one is found."""

# A connection that ended without a Close frame, of which the other side is told in the same way.
_LOST_BY = (Reason.FIN, Reason.RESET, Reason.UNREACHABLE)
# A side did not do what it had to: its program hangs, or nothing reaches its host.
_SILENCE = (Reason.HEARTBEAT_TIMEOUT, Reason.PROXY_SEND_TIMEOUT, Reason.SEND_TIMEOUT, Reason.CLOSE_TIMEOUT)
# By which a side refuses what the other one has sent (RFC 6455 section 7.4.1).
_REFUSING = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.TOO_BIG)
_WHO = {Side.CLIENT: Who.CLIENT, Side.UPSTREAM: Who.UPSTREAM}
_LOST = {
    Side.CLIENT: (CloseCode.GOING_AWAY, "client went away"),
    Side.UPSTREAM: (CloseCode.BAD_GATEWAY, "backend connection lost"),
}
# The codes that client and upstream get, whichever of them ended it.
_CODES: dict[Reason, tuple[CloseCode | None, CloseCode | None, str]] = {
    Reason.HEARTBEAT_TIMEOUT: (CloseCode.INTERNAL_ERROR, CloseCode.INTERNAL_ERROR, "heartbeat timeout"),
    Reason.PROXY_READ_TIMEOUT: (CloseCode.GOING_AWAY, CloseCode.GOING_AWAY, "proxy_read_timeout"),
    # The side that does not read is aborted: a Close frame would wait behind all the bytes that it does not take.
    Reason.PROXY_SEND_TIMEOUT: (CloseCode.TRY_AGAIN_LATER, None, "proxy_send_timeout"),
    Reason.SEND_TIMEOUT: (None, CloseCode.GOING_AWAY, "send_timeout"),
    Reason.MESSAGE_TIMEOUT: (CloseCode.TRY_AGAIN_LATER, CloseCode.GOING_AWAY, "message_timeout"),
    Reason.FORBIDDEN: (CloseCode.FORBIDDEN, CloseCode.GOING_AWAY, "forbidden"),
    Reason.EXPIRED: (CloseCode.EXPIRED, CloseCode.GOING_AWAY, "expired"),
    Reason.SHUTDOWN: (CloseCode.GOING_AWAY, CloseCode.GOING_AWAY, "gateway restarting"),
    Reason.LIMIT: (CloseCode.TRY_AGAIN_LATER, CloseCode.GOING_AWAY, "max_buffered"),
}
_TOO_LARGE = "frame larger than max_frame_size"
_TIMERS = {
    Reason.PROXY_READ_TIMEOUT,
    Reason.PROXY_SEND_TIMEOUT,
    Reason.SEND_TIMEOUT,
    Reason.HEARTBEAT_TIMEOUT,
    Reason.MESSAGE_TIMEOUT,
}


def cause_of(reason: Reason, culprit: Side | None, moment: Moment, tcp: TcpInfo | None, code: int) -> Cause:
    """What the end of a tunnel is put down to. `culprit`: the side that ended it or failed to do what it had to, None
    for the gateway; `tcp`: the kernel's view of its connection, where there is one; `code`: the Close frame's."""
    if culprit is None:
        who = Who.GATEWAY
    elif reason is Reason.CLOSED and code in _REFUSING:
        who, reason = _WHO[culprit.other], Reason.REFUSED_DATA
    elif reason is Reason.UNREACHABLE or (reason in _SILENCE and tcp is not None and tcp.is_unanswered):
        who = Who.NETWORK
    else:
        who = _WHO[culprit]
    return _cause(who, reason, moment)


@functools.cache
def _cause(who: Who, reason: Reason, moment: Moment) -> Cause:
    return Cause(who, reason, moment)


def close_frame_for(side: Side, outcome: Outcome) -> tuple[CloseCode, str] | None:
    """Code and reason of the Close frame for this side; None if it gets none."""
    reason = outcome.reason
    if reason in _LOST_BY:
        return _LOST[side.other] if outcome.side is side.other else None
    if reason is Reason.MAX_FRAME_SIZE:
        if outcome.side is side:
            return CloseCode.TOO_BIG, _TOO_LARGE
        # Of a client that is told to come back at once, as after a restart, the next answer would end like this one.
        return CloseCode.BAD_GATEWAY if side is CLIENT else CloseCode.GOING_AWAY, _TOO_LARGE
    if reason not in _CODES:
        return None
    to_client, to_upstream, text = _CODES[reason]
    if side is CLIENT and outcome.reconnect is not None:
        text = f"{text}; {outcome.reconnect}"
    code_or_none = to_client if side is CLIENT else to_upstream
    return None if code_or_none is None else (code_or_none, text)


def teardown_for(side: Side, reason: Reason, *, stalls: bool, close_frames: bool) -> Teardown:
    """How the connection of a side that has not ended by itself is closed."""
    if not close_frames:
        if reason in _TIMERS and (side is UPSTREAM or stalls):
            return Teardown.ABORT
        return Teardown.LINGER_IF_UNREAD if side is CLIENT else Teardown.FLUSH
    aborted = NOT_READING.get(reason)
    if reason is Reason.LIMIT and stalls:
        # What it does not take is what there is too much of.
        return Teardown.ABORT
    return Teardown.ABORT if side is aborted or reason is Reason.CLOSE_TIMEOUT else Teardown.LINGER
