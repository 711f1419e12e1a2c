"""Who ended a socket or failed a request, in which phase and why, and the short code that stands for it. Pure.

`UR-idle`: the upstream (U) reset (R) the connection while no frame was under way. The form is that of HAProxy's
termination states, which name the side and the phase; the second letter is the reason. `explain` has a sentence and the
next step for each code.
"""

import dataclasses
import enum
import errno
import functools
from collections.abc import Mapping

__all__ = ["Cause", "Moment", "Reason", "Who", "is_unreachable"]

# The kernel's errors that are no reset: no acknowledgement came in time, or a router said that there is no route.
_NO_ROUTE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})


class Who(enum.StrEnum):
    """Whose act, failure or limit it was."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    GATEWAY = "gateway"
    NETWORK = "network"
    """The packets of a peer do not arrive, or ours are not acknowledged: its host or a hop on the way is gone."""


class Moment(enum.StrEnum):
    """How far the exchange was."""

    REQUEST = "request"
    """The gateway reads or checks the request; nothing was sent to an upstream."""
    CONNECT = "connect"
    """The connection to the upstream is being established."""
    HELD = "held"
    """The request waits, since no upstream can be reached (`connect_retry`)."""
    RESPONSE = "response"
    """The request was sent, and the headers of the upstream's response are awaited; for a socket, its 101."""
    BODY = "body"
    """The headers of the response have passed, and its body in part."""
    IDLE = "idle"
    """The socket is open, and no frame is under way."""
    MID_FRAME = "mid-frame"
    """The socket is open, and a frame has passed in part."""
    STALLED = "stalled"
    """The socket is open, and a side does not take what is sent to it."""
    CLOSING = "closing"
    """A Close frame has passed."""


class Reason(enum.StrEnum):
    """Why a tunnel ended or a request failed. A time limit is called by its setting."""

    CLOSED = "closed"
    """A Close frame of one side passed first."""
    REFUSED_DATA = "refused_data"
    """The other side closed the socket because of what this one sent: close code 1002, 1007 or 1009."""
    FIN = "fin"
    RESET = "reset"
    UNREACHABLE = "unreachable"
    """The kernel gave the connection up: nothing was acknowledged in time, or a router knows no route."""
    HEARTBEAT_TIMEOUT = "heartbeat_timeout"
    MAX_FRAME_SIZE = "max_frame_size"
    MESSAGE_TIMEOUT = "message_timeout"
    PROXY_READ_TIMEOUT = "proxy_read_timeout"
    PROXY_SEND_TIMEOUT = "proxy_send_timeout"
    SEND_TIMEOUT = "send_timeout"
    CLOSE_TIMEOUT = "close_timeout"
    SHUTDOWN = "shutdown"
    FORBIDDEN = "forbidden"
    """The authorize hook refuses the socket now."""
    EXPIRED = "expired"
    """The right to the socket has ended by its time."""
    REFUSED = "refused"
    """Nothing listens at the upstream's address."""
    UNKNOWN_NAME = "unknown_name"
    PROXY_CONNECT_TIMEOUT = "proxy_connect_timeout"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    CLIENT_BODY_TIMEOUT = "client_body_timeout"
    INVALID = "invalid"
    """What came is not valid, or cannot be passed on."""
    LIMIT = "limit"
    REJECTED = "rejected"
    """The upstream answered a handshake with a status other than 101."""
    INTERNAL = "internal"


_WHO: Mapping[Who, str] = {who: who.name[0] for who in Who}
_REASONS: Mapping[Reason, str] = {
    Reason.CLOSED: "C",
    Reason.REFUSED_DATA: "V",
    Reason.FIN: "F",
    Reason.RESET: "R",
    Reason.UNREACHABLE: "U",
    Reason.HEARTBEAT_TIMEOUT: "H",
    Reason.MAX_FRAME_SIZE: "S",
    Reason.MESSAGE_TIMEOUT: "M",
    # One letter for both: which side does not read is the first letter.
    Reason.PROXY_SEND_TIMEOUT: "W",
    Reason.SEND_TIMEOUT: "W",
    Reason.PROXY_READ_TIMEOUT: "T",
    Reason.CLOSE_TIMEOUT: "L",
    Reason.SHUTDOWN: "D",
    Reason.FORBIDDEN: "A",
    Reason.EXPIRED: "E",
    Reason.REFUSED: "X",
    Reason.UNKNOWN_NAME: "N",
    # One letter for waits that had an end: how far the exchange was tells which limit it is.
    Reason.PROXY_CONNECT_TIMEOUT: "T",
    Reason.HANDSHAKE_TIMEOUT: "T",
    Reason.CLIENT_BODY_TIMEOUT: "T",
    Reason.INVALID: "P",
    Reason.LIMIT: "Q",
    Reason.REJECTED: "J",
    Reason.INTERNAL: "I",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """What ended a socket or failed a request."""

    who: Who
    reason: Reason
    moment: Moment

    @property
    def code(self) -> str:
        """`UR-idle`"""
        return _code(self.who, self.reason, self.moment)


@functools.cache
def _code(who: Who, reason: Reason, moment: Moment) -> str:
    return f"{_WHO[who]}{_REASONS[reason]}-{moment}"


def is_unreachable(error: BaseException | None) -> bool:
    """Whether a connection ended because nothing reaches the peer; see `Reason.UNREACHABLE`."""
    return isinstance(error, OSError) and error.errno in _NO_ROUTE
