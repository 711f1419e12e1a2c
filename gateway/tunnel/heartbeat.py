"""Heartbeats on one hop: when to send a Ping, whether its Pong has come, when the peer is dead. Pure.

Any byte received shows that the peer is alive; while it is silent it gets a Ping every `interval`. A peer that sends
nothing within `timeout` after a Ping is dead, unless the Ping has not reached it: on a slow connection it waits behind
the bytes sent before it, and a peer that acknowledges some of those is alive.

    silent for `interval`    -> a Ping goes out, or is deferred to the next frame boundary
    half of `timeout` later  -> how many bytes are still before the Ping? (where that was not known when it was sent)
    `timeout` later          -> dead, unless these have become fewer; then again every half of `timeout`
"""

import array
import enum
import math
from collections.abc import Callable

from moorline.gateway.common.web.frames import Opcode, control
from moorline.gateway.tunnel.direction import Direction
from moorline.gateway.tunnel.state import HeartbeatState

__all__ = ["Beat", "Heartbeat"]

# What is due within this part of the interval is done at once, so that both sides' Pings and the checks of the last
# ones are one event and not four.
_EARLY = 1 / 64
# For the median of a socket that is open for days: its latest, 4 bytes each.
_ROUND_TRIPS = 64
# The payload of a Ping is a random number of its tunnel and the Ping's own.
_NONCE = 4
_NUMBER = 4


class Beat(enum.Enum):
    """What to do at a deadline."""

    NOTHING = enum.auto()
    PING = enum.auto()
    DEAD = enum.auto()


class Heartbeat:
    """The Pings to one side: `inbound` comes from it, `outbound` goes to it."""

    __slots__ = (
        "_ahead",
        "_answered",
        "_check_at",
        "_checked_at",
        "_deferred",
        "_inbound",
        "_interval",
        "_masked",
        "_nonce",
        "_observe",
        "_outbound",
        "_passed",
        "_randbytes",
        "_restarted",
        "_sent",
        "_sent_at",
        "_timeout",
        "round_trips",
    )

    def __init__(
        self,
        inbound: Direction,
        outbound: Direction,
        *,
        interval: float,
        timeout: float,
        masked: bool,
        randbytes: Callable[[int], bytes],
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self._inbound = inbound
        self._outbound = outbound
        self._interval = interval
        self._timeout = timeout
        self._masked = masked
        self._randbytes = randbytes
        self._observe = observe
        self.round_trips = array.array("f")
        """Seconds; the latest ones."""
        self._nonce = b""
        self._sent = self._answered = 0
        self._sent_at = -math.inf
        self._checked_at = self._restarted = inbound.last
        self._check_at = 0.0
        self._deferred = False
        # Bytes before the Ping that the peer has not acknowledged; None while that is not known.
        self._ahead: int | None = None
        self._passed = 0

    # The deadline -----------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When to call `handle_timeout`; any byte may put it off."""
        if self._deferred or self._is_unanswered():
            # A Pong, which sets no timer, may make the next Ping due before the check.
            return min(self._check_at, self._checked_at + self._interval)
        return self._last_sign_of_life() + self._interval

    def handle_timeout(self, now: float, unsent: Callable[[], int]) -> Beat:
        """`unsent` tells how many bytes the peer has not taken yet, those in the kernel included.

        At PING call `ping` and send what it returns, or call `defer` and have `ping` called at the next boundary.
        """
        if self._deferred:
            self._checked_at = now
            self._check_at = now + self._timeout / 2
        elif not self._is_unanswered():
            if now >= self._last_sign_of_life() + self._interval * (1 - _EARLY):
                return Beat.PING
        else:
            self._checked_at = now
            if now >= self._check_at:
                return self._check(now, unsent())
        return Beat.NOTHING

    def restart(self, now: float) -> None:
        """Count the silence from now: until now the peer was not read from, or could not be sent to."""
        self._restarted = now

    def state(self) -> HeartbeatState:
        return HeartbeatState(
            nonce=self._nonce,
            sent=self._sent,
            answered=self._answered,
            sent_at=self._sent_at,
            checked_at=self._checked_at,
            restarted=self._restarted,
            check_at=self._check_at,
            deferred=self._deferred,
            ahead=self._ahead,
            passed=self._passed,
            round_trips=tuple(self.round_trips),
        )

    def restore(self, state: HeartbeatState) -> None:
        """Go on where another process stopped: with the Pong that is due, and the Ping that waits for a boundary."""
        self._nonce, self._sent, self._answered, self._sent_at = state.nonce, state.sent, state.answered, state.sent_at
        self._checked_at, self._restarted, self._check_at = state.checked_at, state.restarted, state.check_at
        self._deferred, self._ahead, self._passed = state.deferred, state.ahead, state.passed
        self.round_trips.extend(state.round_trips)
        if self._answered < self._sent:
            self._inbound.awaits = self.pong
        if self._deferred and self._outbound.close_code is None:
            self._outbound.pending = self.ping

    # Ping and Pong ----------------------------------------------------------------------------------------------------

    def defer(self, now: float) -> None:
        """No Ping can be sent at the moment; `ping` will be called when one can."""
        self._deferred = True
        self._checked_at = now
        self._check_at = now + self._timeout / 2

    def ping(self, now: float, unsent: int | None = None) -> bytes:
        """The next Ping, which is sent now, behind `unsent` bytes."""
        # Random, so that the Pong to a Ping of another hop, a second gateway for example, is not mistaken for its Pong.
        self._nonce = self._nonce or self._randbytes(_NONCE)
        self._sent += 1
        self._sent_at = self._checked_at = now
        self._deferred = False
        # Without a first figure there is a check half-way.
        self._check_at = now + (self._timeout if unsent is not None else self._timeout / 2)
        self._ahead, self._passed = unsent, self._outbound.size
        self._inbound.awaits = self.pong
        payload = self._nonce + self._sent.to_bytes(_NUMBER, "big")
        return control(Opcode.PING, payload, self._randbytes(4) if self._masked else None)

    def pong(self, payload: bytes, now: float) -> bool:
        """Whether this answers a Ping of this gateway. It need not be the latest, but each is answered once."""
        number = int.from_bytes(payload[_NONCE:], "big")
        if payload[:_NONCE] != self._nonce or len(payload) != _NONCE + _NUMBER:
            return False
        if not self._answered < number <= self._sent:
            return False
        self._answered = number
        if number == self._sent:
            self._inbound.awaits = None
            self._record(now - self._sent_at)
        return True

    # ------------------------------------------------------------------------------------------------------------------

    def _record(self, seconds: float) -> None:
        if len(self.round_trips) < _ROUND_TRIPS:
            self.round_trips.append(seconds)
        else:
            self.round_trips[self._sent % _ROUND_TRIPS] = seconds
        if self._observe is not None:
            self._observe(seconds)

    def _check(self, now: float, unsent: int) -> Beat:
        """Whether the Ping has not arrived yet."""
        ahead = unsent - (self._outbound.size - self._passed)
        due = now >= self._sent_at + self._timeout
        if due and (ahead <= 0 or (self._ahead is not None and ahead >= self._ahead)):
            return Beat.DEAD
        self._ahead = ahead
        self._check_at = now + self._timeout / 2 if due else self._sent_at + self._timeout
        return Beat.NOTHING

    def _last_sign_of_life(self) -> float:
        return max(self._inbound.last, self._restarted)

    def _is_unanswered(self) -> bool:
        """Nothing has come since the last Ping."""
        return self._last_sign_of_life() < self._sent_at
