"""One tunnel as a state machine: bytes, ends and the time go in; bytes, closings and one deadline come out. Pure.

The clock is nginx's (`ngx_http_upstream_process_upgraded`): any event on either side sets all timers anew.

| timer              | runs while                                        |
|--------------------|---------------------------------------------------|
| proxy_read_timeout | the backend may send, which it may not while the client stalls |
| proxy_send_timeout | the backend does not take what is sent to it       |
| send_timeout       | the client does not take what is sent to it        |

The end of one side is the end of the other, after the bytes that the first had sent. Nothing is injected: the other
side sees a FIN.
"""

import dataclasses
import enum

__all__ = ["Close", "Limits", "Outcome", "Reason", "Side", "Tunnel", "Way"]

# nginx's lingering_timeout and lingering_time: how long a client that does not end may go on sending into the void.
_LINGER_SILENCE = 5.0
_LINGER = 30.0
# While a side stalls, how often within its timeout to look whether it has taken some of what waits for it. The loop
# tells only of a buffer that is empty, and a slow reader is not a stalled one.
_LOOKS = 8


class Side(enum.Enum):
    CLIENT = "client"
    BACKEND = "backend"


class Reason(enum.StrEnum):
    """Why a tunnel ended. A timer is called by its setting."""

    CLOSED = "closed"
    RESET = "reset"
    PROXY_READ_TIMEOUT = "proxy_read_timeout"
    PROXY_SEND_TIMEOUT = "proxy_send_timeout"
    SEND_TIMEOUT = "send_timeout"
    SHUTDOWN = "shutdown"


class Close(enum.Enum):
    """How to let go of one side."""

    FLUSH = enum.auto()
    """Send what waits, then FIN, and be gone."""
    LINGER = enum.auto()
    """The same, but read on until the peer ends: input that nobody reads turns the FIN into a reset, which overtakes
    the last bytes."""
    ABORT = enum.auto()
    """Now, whatever waits."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Seconds; see the settings of the same names."""

    proxy_read_timeout: float
    proxy_send_timeout: float
    send_timeout: float


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """Who ended a tunnel, the gateway where it was neither side, and why."""

    side: Side | None
    reason: Reason

    @property
    def who(self) -> str:
        return self.side.value if self.side is not None else "gateway"


class Way:
    """What comes from one side. Apart from the tunnel, because every byte passes here and hardly anything else."""

    __slots__ = ("last", "open", "size")

    def __init__(self, now: float) -> None:
        self.last = now
        self.open = True
        self.size = 0

    def receive_data(self, data: bytes, now: float) -> bytes:
        """The bytes to send on to the other side at once."""
        self.last = now
        if not self.open:
            return b""
        self.size += len(data)
        return data


class _Stall:
    """A side that does not take what is sent to it."""

    __slots__ = ("limit", "next_look", "reason", "unsent")

    def __init__(self, reason: Reason, limit: float, now: float) -> None:
        self.reason = reason
        self.limit = limit
        self.unsent = 0
        self.next_look = now

    def look(self, now: float, unsent: int) -> bool:
        """Whether it has taken something since the last look."""
        progress = unsent < self.unsent
        self.unsent = unsent
        self.next_look = now + self.limit / _LOOKS
        return progress


class Tunnel:
    """Feed it with events; after each one carry out `closings` and wait until `next_timeout`, no longer."""

    __slots__ = ("_closings", "_event", "_gone", "_limits", "_linger_until", "_stalls", "backend", "client", "outcome")

    def __init__(self, limits: Limits, now: float) -> None:
        self.client = Way(now)
        self.backend = Way(now)
        self.outcome: Outcome | None = None
        self._limits = limits
        self._event = now
        self._stalls: dict[Side, _Stall] | None = None
        self._closings: list[tuple[Side, Close]] = []
        self._gone: frozenset[Side] = frozenset()
        self._linger_until: float | None = None

    @property
    def over(self) -> bool:
        """Both sides are gone."""
        return len(self._gone) == len(Side)

    def stalls(self, side: Side) -> bool:
        """Whether this side does not take what is sent to it."""
        return self._stalls is not None and side in self._stalls

    # Events -----------------------------------------------------------------------------------------------------------

    def receive_eof(self, side: Side, now: float) -> None:
        """A FIN. In a tunnel that is ending it is what the lingering waited for."""
        self._event = now
        if self.outcome is None:
            self._end(Outcome(side, Reason.CLOSED))
        else:
            # Not at once: a client may have ended its half and still be reading.
            self._closings.append((side, Close.FLUSH))

    def connection_lost(self, side: Side, now: float) -> None:
        """This side's TCP is gone, by a reset where nothing was to end."""
        self._event = now
        self._gone |= {side}
        self.writing_resumed(side, now)
        if self.outcome is None:
            self._end(Outcome(side, Reason.RESET))

    def writing_paused(self, side: Side, now: float, unsent: int) -> None:
        """This side does not take what is sent to it: do not read from the other until it does."""
        self._event = now
        if side is Side.CLIENT:
            stall = _Stall(Reason.SEND_TIMEOUT, self._limits.send_timeout, now)
        else:
            stall = _Stall(Reason.PROXY_SEND_TIMEOUT, self._limits.proxy_send_timeout, now)
        stall.look(now, unsent)
        self._stalls = {**(self._stalls or {}), side: stall}

    def writing_resumed(self, side: Side, now: float) -> None:
        """This side has taken everything."""
        self._event = now
        if self._stalls is not None:
            self._stalls.pop(side, None)
            self._stalls = self._stalls or None
        self._begin_lingering(now)

    def shut_down(self, now: float) -> None:
        """The gateway is about to end."""
        self._event = now
        if self.outcome is None:
            self._end(Outcome(None, Reason.SHUTDOWN))

    # What to do -------------------------------------------------------------------------------------------------------

    def closings(self) -> list[tuple[Side, Close]]:
        """The sides to let go of now, each once; all that comes from them from then on counts as time alone."""
        closings, self._closings = self._closings, []
        return closings

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, unless something happens before; it is then asked for again."""
        due = self._due()
        if due is None or self._stalls is None:
            return None if due is None else due[0]
        return min(due[0], *(stall.next_look for stall in self._stalls.values()))

    def handle_timeout(self, now: float, unsent: dict[Side, int]) -> None:
        """The deadline has come. `unsent` is how many bytes wait for each side."""
        for side, stall in (self._stalls or {}).items():
            if (now >= stall.next_look or self._is_due(now)) and stall.look(now, unsent[side]):
                self._event = now
        due = self._due()
        if due is None or now < due[0]:
            return
        self._event = now
        if self.outcome is None:
            self._end(Outcome(None, due[1]))
        else:
            # Whoever does not take his last bytes in time, or goes on talking to nobody, is cut.
            self._closings += [(side, Close.ABORT) for side in Side if side not in self._gone]

    # ------------------------------------------------------------------------------------------------------------------

    def _due(self) -> tuple[float, Reason] | None:
        """The next timer to expire, and its name."""
        stalls = self._stalls or {}
        timers = [(stall.limit, stall.reason) for stall in stalls.values()]
        last = max(self._event, self.client.last, self.backend.last)
        if self.outcome is None and not self.stalls(Side.CLIENT):
            timers.append((self._limits.proxy_read_timeout, Reason.PROXY_READ_TIMEOUT))
        if self.outcome is not None and self._linger_until is not None and Side.CLIENT not in self._gone:
            timers.append((min(_LINGER_SILENCE, self._linger_until - last), self.outcome.reason))
        if not timers:
            return None
        seconds, reason = min(timers)
        return last + seconds, reason

    def _is_due(self, now: float) -> bool:
        due = self._due()
        return due is not None and now >= due[0]

    def _end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.client.open = self.backend.open = False
        for side in Side:
            if side not in self._gone:
                self._closings.append((side, self._way_out(side, outcome)))
        self._begin_lingering(self._event)

    def _way_out(self, side: Side, outcome: Outcome) -> Close:
        if side is outcome.side:
            # It has ended: what waits for it is lost, as in nginx.
            return Close.ABORT
        by_timer = outcome.side is None and outcome.reason is not Reason.SHUTDOWN
        if by_timer and (side is Side.BACKEND or self.stalls(side)):
            return Close.ABORT
        return Close.LINGER if side is Side.CLIENT else Close.FLUSH

    def _begin_lingering(self, now: float) -> None:
        """Its time runs once the client has taken everything; until then it is `send_timeout` that bounds the end."""
        if self.outcome is not None and self._linger_until is None and not self.stalls(Side.CLIENT):
            self._linger_until = now + _LINGER
