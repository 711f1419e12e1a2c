"""Heartbeats on one hop: when to send a Ping, whether its Pong has come, when the peer is dead. Pure.

Any byte is a sign of life, and while a peer is silent every `interval` has its Ping. A peer that says nothing within
`timeout` after it is dead, unless the Ping has not reached it: over a slow line it takes its time behind what was sent
before, and as long as that gets less, there is somebody.
"""

import array
import enum
import math
from collections.abc import Callable

from moorline.gateway.tunnel.frames import Opcode, Scanner, control

__all__ = ["Beat", "Heartbeat"]

# What is due within this part of the interval is done at once, so that both sides' Pings and the verdicts on the last
# ones are one event and not four.
_EARLY = 1 / 64
# For the median of a socket that lives for days: its latest, 4 bytes each.
_ROUND_TRIPS = 64
# A Ping is called by a random number of its tunnel and its own.
_NONCE = 4
_NUMBER = 4


class Beat(enum.Enum):
    """What the time that has come asks for."""

    NOTHING = enum.auto()
    PING = enum.auto()
    DEAD = enum.auto()


class Heartbeat:
    """The Pings to one side: `way` is what comes from it, and `carrier` what goes to it."""

    __slots__ = (
        "_ahead",
        "_answered",
        "_carrier",
        "_interval",
        "_look_at",
        "_masked",
        "_nonce",
        "_observe",
        "_passed",
        "_randbytes",
        "_seen_at",
        "_sent",
        "_sent_at",
        "_since",
        "_timeout",
        "_wanted",
        "_way",
        "round_trips",
    )

    def __init__(
        self,
        way: Scanner,
        carrier: Scanner,
        *,
        interval: float,
        timeout: float,
        masked: bool,
        randbytes: Callable[[int], bytes],
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self._way = way
        self._carrier = carrier
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
        self._seen_at = way.last
        self._wanted = False
        self._look_at = 0.0
        self._ahead: int | None = None
        self._passed = 0
        self._since = way.last

    # The deadline -----------------------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When to call `handle_timeout`; any byte may put it off."""
        if self._wanted or self._waits():
            # A Pong, which sets no timer, may make the next Ping due before the look.
            return min(self._look_at, self._seen_at + self._interval)
        return self._heard() + self._interval

    def handle_timeout(self, now: float, unsent: Callable[[], int]) -> Beat:
        """`unsent` tells how many bytes the peer has not taken yet, those in the kernel included.

        At PING call `ping` and send what it returns, or call `want` and have `ping` called at the next boundary.
        """
        if self._wanted:
            self._seen_at = now
            self._look_at = now + self._timeout / 2
        elif not self._waits():
            if now >= self._heard() + self._interval * (1 - _EARLY):
                return Beat.PING
        else:
            self._seen_at = now
            if now >= self._look_at:
                return self._look(now, unsent())
        return Beat.NOTHING

    def rest(self, now: float) -> None:
        """Up to now the peer could not be heard, or could not hear: it begins anew."""
        self._since = now

    # Ping and Pong ----------------------------------------------------------------------------------------------------

    def want(self, now: float) -> None:
        """No Ping can be sent at the moment; it will be."""
        self._wanted = True
        self._seen_at = now
        self._look_at = now + self._timeout / 2

    def ping(self, now: float, unsent: int | None = None) -> bytes:
        """The next Ping, which is sent now, behind `unsent` bytes."""
        # Not to be taken for the Pong of anybody else's Ping: a gateway behind this one, say.
        self._nonce = self._nonce or self._randbytes(_NONCE)
        self._sent += 1
        self._sent_at = self._seen_at = now
        self._wanted = False
        # Without a first look there is one half-way.
        self._look_at = now + (self._timeout if unsent is not None else self._timeout / 2)
        self._ahead, self._passed = unsent, self._carrier.size
        self._way.awaits = self.pong
        payload = self._nonce + self._sent.to_bytes(_NUMBER, "big")
        return control(Opcode.PING, payload, self._randbytes(4) if self._masked else None)

    def pong(self, payload: bytes, now: float) -> bool:
        """Whether this answers a Ping of this gateway; it need not be the latest."""
        number = int.from_bytes(payload[_NONCE:], "big")
        if payload[:_NONCE] != self._nonce or len(payload) != _NONCE + _NUMBER:
            return False
        if not self._answered < number <= self._sent:
            return False
        self._answered = number
        if number == self._sent:
            self._way.awaits = None
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

    def _look(self, now: float, unsent: int) -> Beat:
        """Whether the Ping is still on its way."""
        ahead = unsent - (self._carrier.size - self._passed)
        due = now >= self._sent_at + self._timeout
        if due and (ahead <= 0 or (self._ahead is not None and ahead >= self._ahead)):
            return Beat.DEAD
        self._ahead = ahead
        self._look_at = now + self._timeout / 2 if due else self._sent_at + self._timeout
        return Beat.NOTHING

    def _heard(self) -> float:
        return max(self._way.last, self._since)

    def _waits(self) -> bool:
        """Nothing has come since the last Ping."""
        return self._heard() < self._sent_at
