"""One tunnel as a state machine: bytes, ends and the time go in; bytes, teardowns and one deadline come out. Pure.

            a Close frame passes
     OPEN ------------------------> CLOSING
       |                               |
       | FIN, reset, a timer, a frame over the limit, shutdown
       v                               v
     ENDING (LINGERING without close_frames) ---------------> OVER
                                       both connections are gone

Bytes pass in OPEN and CLOSING; what arrives later is discarded. Each timer runs in the phases that name it in
`Tunnel._TIMERS`:

    message_timeout     OPEN                       the client does not complete a message
    heartbeats          OPEN                       a Ping to each silent side; no Pong in time: heartbeat_timeout
    proxy_read_timeout  OPEN, CLOSING              nothing happens; off while the client stalls, since nginx then does
                                                   not read from the upstream either
    proxy_send_timeout  OPEN, CLOSING, LINGERING   the upstream takes nothing of what is sent to it
    send_timeout        OPEN, CLOSING, LINGERING   the client takes nothing of what is sent to it
    close_timeout       CLOSING, ENDING            from the first Close frame to both FINs
    lingering           LINGERING                  the client does not end: 5 s of silence, 30 s in all, as in nginx;
                                                   the upstream's connection closes once it has taken everything

The clock is nginx's (`ngx_http_upstream_process_upgraded`): any event on either side restarts all timers but
close_timeout. Heartbeats stop while either side stalls: one side is not read from, so that its Pong cannot arrive, and
the other is bounded by its send timer.

Nothing but a timer bounds an unfinished frame or message. It costs no memory: bytes pass as they come. A side that is
silent in the middle of one is found by its heartbeat, without heartbeats by proxy_read_timeout; a client that sends the
rest of it byte by byte, for ever, by message_timeout.

An event costs a few comparisons, and a tunnel has no timer of its own: `next_timeout` is the earliest deadline, and a
byte, which may put it off, does not call it.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

from moorline.gateway.cause import Moment, Reason
from moorline.gateway.common.web.frames import CloseCode, close
from moorline.gateway.settings import Settings
from moorline.gateway.tunnel.direction import Direction
from moorline.gateway.tunnel.endings import (
    CLIENT,
    NOT_READING,
    UPSTREAM,
    Outcome,
    Reconnect,
    Side,
    Teardown,
    close_frame_for,
    teardown_for,
)
from moorline.gateway.tunnel.heartbeat import Beat, Heartbeat
from moorline.gateway.tunnel.message_timer import MessageTimer
from moorline.gateway.tunnel.state import TunnelState

__all__ = ["Limits", "Phase", "Tunnel"]

# nginx's lingering_timeout and lingering_time.
_LINGER_SILENCE = 5.0
_LINGER = 30.0
# When to check, within the timeout, whether some of what is buffered was taken: the loop reports only a buffer that is
# empty, and a slow reader does not stall. Soon after the beginning and after each progress, because the kernel takes a
# little more when the gateway has stopped writing; then at growing intervals. Progress counts from the check.
_FIRST_CHECK = 1 / 64
_LONGEST_WAIT = 1 / 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What bounds a tunnel; see the settings of the same names."""

    proxy_read_timeout: float
    proxy_send_timeout: float
    send_timeout: float
    client_heartbeat: float | None
    upstream_heartbeat: float | None
    heartbeat_timeout: float
    close_frames: bool
    close_timeout: float
    max_frame_size: int | None
    message_timeout: float | None
    first_timeout: float = dataclasses.field(init=False, repr=False)
    """The first timer of a tunnel in which nothing happens."""

    def __post_init__(self) -> None:
        timers = (self.proxy_read_timeout, self.client_heartbeat, self.upstream_heartbeat, self.message_timeout)
        object.__setattr__(self, "first_timeout", min(timer for timer in timers if timer is not None))

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        given = (field.name for field in dataclasses.fields(cls) if field.init)
        return cls(**{name: getattr(settings, name) for name in given})


class Phase(enum.Enum):
    """See the picture above."""

    # `Enum` hashes in Python, and each event of an end looks its phase up.
    __hash__ = object.__hash__

    OPEN = enum.auto()
    CLOSING = enum.auto()
    """A Close frame has passed, and its answer may."""
    ENDING = enum.auto()
    """Each remaining side has got a Close frame, or a FIN where none could be sent, and has `close_timeout` to end."""
    LINGERING = enum.auto()
    """The same without Close frames: the end is nginx's."""
    OVER = enum.auto()


# In Python 3.11 a member is looked up in its class by a call, and the events of a tunnel's end name fifty.
_OPEN, _CLOSING, _ENDING, _LINGERING, _OVER = Phase
_CLOSED, _FIN, _CLOSE_TIMEOUT = Reason.CLOSED, Reason.FIN, Reason.CLOSE_TIMEOUT
_ABORT, _FLUSH = Teardown.ABORT, Teardown.FLUSH
_IDLE, _ABNORMAL = Moment.IDLE, CloseCode.ABNORMAL
_SIDES = (CLIENT, UPSTREAM)
# Each call of `frozenset` would make one.
_NONE: frozenset[Side] = frozenset()
# Behind a Close frame they are its consequence.
_CONNECTION_ENDS = frozenset({Reason.FIN, Reason.RESET, Reason.UNREACHABLE})
# Of an end, those that are kept in their order: two sides' Close frames and FINs, or what came instead of them.
_EVENTS = 4


@functools.cache
def _event(side: Side | None, reason: Reason) -> str:
    """`upstream:reset`"""
    return f"{side or 'gateway'}:{reason}"


_NEXT: Mapping[Phase, frozenset[Phase]] = {
    Phase.OPEN: frozenset({Phase.CLOSING, Phase.ENDING, Phase.LINGERING}),
    Phase.CLOSING: frozenset({Phase.ENDING, Phase.LINGERING}),
    Phase.ENDING: frozenset({Phase.OVER}),
    Phase.LINGERING: frozenset({Phase.OVER}),
    Phase.OVER: frozenset(),
}


class _Stall:
    """A side that does not take what is sent to it."""

    __slots__ = ("_unsent", "_wait", "limit", "next_check", "reason")

    def __init__(self, reason: Reason, limit: float, now: float, unsent: int) -> None:
        self.reason = reason
        self.limit = limit
        self._unsent = unsent
        self._wait = limit * _FIRST_CHECK
        self.next_check = now + self._wait

    def progressed(self, now: float, unsent: int) -> bool:
        """Whether it has taken something since the last check."""
        progress = unsent < self._unsent
        self._wait = self.limit * _FIRST_CHECK if progress else min(2 * self._wait, self.limit * _LONGEST_WAIT)
        self.next_check = now + self._wait
        self._unsent = unsent
        return progress


class Tunnel:
    """Feed it with events; after each one send `data_to_send`, carry out `teardowns`, and wait until `next_timeout`, no
    longer. The bytes themselves go through `client` and `upstream`, which are what comes from each side."""

    __slots__ = (
        "_close_by", "_closer", "_event", "_gone", "_linger_until", "_made_heartbeats", "_message_timer",
        "_on_round_trip", "_outputs", "_randbytes", "_stalls", "_teardowns", "client", "code", "culprit", "ended_at",
        "limits", "moment", "order", "outcome", "phase", "upstream",
    )  # fmt: skip

    def __init__(
        self,
        limits: Limits,
        now: float,
        randbytes: Callable[[int], bytes],
        on_round_trip: Callable[[Side, float], None] | None = None,
    ) -> None:
        max_payload = limits.max_frame_size if limits.close_frames else None
        # Not by its name: in Python 3.11 a keyword takes a call of a class three times as long.
        self.client = Direction(now, max_payload)
        self.upstream = Direction(now, max_payload)
        self.phase = _OPEN
        self.outcome: Outcome | None = None
        """Known from ENDING on."""
        self.ended_at = now
        """When the outcome was known."""
        self.code: int = _ABNORMAL
        """Of the Close frame that ended it."""
        self.culprit: Side | None = None
        """The side that ended it or failed to do what it had to; None for the gateway."""
        self.moment = _IDLE
        """How far it was when it ended."""
        self.order: tuple[str, ...] = ()
        """The first events of its end, `_EVENTS` at most, as they came: `upstream:reset`, `gateway:send_timeout`."""
        self.limits = limits
        self._randbytes = randbytes
        self._event = now
        self._on_round_trip = on_round_trip
        self._made_heartbeats: tuple[tuple[Side, Heartbeat], ...] | None = None
        timeout = limits.message_timeout
        self._message_timer = None if timeout is None else MessageTimer(self.client, timeout, now)
        self._stalls: dict[Side, _Stall] | None = None
        self._outputs: list[tuple[Side, bytes]] = []
        self._teardowns: list[tuple[Side, Teardown]] = []
        self._gone = _NONE
        self._closer: Side | None = None
        self._close_by: float | None = None
        self._linger_until: float | None = None

    @property
    def relaying(self) -> bool:
        """Whether bytes pass."""
        return self.phase is _OPEN or self.phase is _CLOSING

    def inbound(self, side: Side) -> Direction:
        """What comes from this side."""
        return self.client if side is CLIENT else self.upstream

    def outbound(self, side: Side) -> Direction:
        """What goes to this side."""
        return self.inbound(side.other)

    def stalls(self, side: Side) -> bool:
        """Whether this side does not take what is sent to it."""
        return self._stalls is not None and side in self._stalls

    def takes_from(self, side: Side) -> bool:
        """Whether what comes from this side passes, and the other one takes it."""
        stalls = self._stalls
        return (self.phase is _OPEN or self.phase is _CLOSING) and (stalls is None or side.other not in stalls)

    def round_trips(self, side: Side) -> Sequence[float]:
        """Seconds from a Ping of the gateway to its Pong; the latest ones."""
        if self._made_heartbeats is None:
            return ()
        return next((heartbeat.round_trips for each, heartbeat in self._made_heartbeats if each is side), ())

    # From one process to another ------------------------------------------------------------------------------------

    def state(self, began: float, unsent: Callable[[Side], bytes]) -> TunnelState:
        """All of it, while bytes pass; `unsent` to each side. Nothing may be left of `data_to_send`."""
        assert self.relaying, "a tunnel that is ending ends here"
        heartbeats = {side: heartbeat.state() for side, heartbeat in self._heartbeats}
        return TunnelState(
            began=began,
            event=self._event,
            client=self.client.state(unsent(UPSTREAM)),
            upstream=self.upstream.state(unsent(CLIENT)),
            closer=None if self._closer is None else self._closer.value,
            close_by=self._close_by,
            code=self.code,
            order=self.order,
            client_heartbeat=heartbeats.get(CLIENT),
            upstream_heartbeat=heartbeats.get(UPSTREAM),
            message_timer=None if self._message_timer is None else self._message_timer.state(),
        )

    def restore(self, state: TunnelState) -> None:
        """Go on where another process stopped, with the limits of this one. Heartbeats and timers that it had not
        begin now. Whether a side stalls shows when what is unsent is sent."""
        self._event, self._close_by, self.code, self.order = state.event, state.close_by, state.code, state.order
        self.client.restore(state.client)
        self.upstream.restore(state.upstream)
        for side, heartbeat in self._heartbeats:
            known = state.client_heartbeat if side is CLIENT else state.upstream_heartbeat
            if known is not None:
                heartbeat.restore(known)
        if self._message_timer is not None and state.message_timer is not None:
            self._message_timer.restore(state.message_timer)
        if state.closer is not None:
            self._closer, self.phase = Side(state.closer), _CLOSING

    # Events -----------------------------------------------------------------------------------------------------------

    def frames_received(self, side: Side, now: float) -> None:
        """`receive_data` of what comes from this side returned None."""
        self._event = now
        inbound = self.inbound(side)
        self._outputs.append((side.other, inbound.take()))
        if inbound.close_code is not None:
            self._note(side, _CLOSED)
        if inbound.close_code is not None and self.phase is _OPEN:
            self._closer, self.code = side, inbound.close_code
            self._enter(_CLOSING)
        if inbound.too_large:
            self._end(Outcome(side, Reason.MAX_FRAME_SIZE))

    def receive_eof(self, side: Side, now: float) -> None:
        """A FIN. In ENDING and LINGERING it is what the teardown waits for."""
        self._event = now
        self._note(side, _FIN)
        if self.relaying:
            self._end(Outcome(side, _FIN), ended=side)
        else:
            # Not aborted: a client may have ended its half and still be reading.
            self._teardowns.append((side, _FLUSH))

    def connection_lost(self, side: Side, now: float, reason: Reason = Reason.RESET) -> None:
        """This side's connection is gone: by a reset or for this reason, unless it was being closed."""
        self._event = now
        self._gone |= {side}
        self.writing_resumed(side, now)
        if self.relaying:
            self._end(Outcome(side, reason))
        elif len(self._gone) == len(_SIDES):
            self._enter(_OVER)

    def writing_paused(self, side: Side, now: float, unsent: int) -> None:
        """This side does not take what is sent to it: do not read from the other until it does."""
        self._event = now
        if side is CLIENT:
            stall = _Stall(Reason.SEND_TIMEOUT, self.limits.send_timeout, now, unsent)
        else:
            stall = _Stall(Reason.PROXY_SEND_TIMEOUT, self.limits.proxy_send_timeout, now, unsent)
        self._stalls = {**(self._stalls or {}), side: stall}

    def writing_resumed(self, side: Side, now: float) -> None:
        """This side has taken everything."""
        self._event = now
        if self._stalls is not None:
            self._stalls.pop(side, None)
            self._stalls = self._stalls or None
            if self._stalls is None:
                for _, heartbeat in self._heartbeats:
                    heartbeat.restart(now)
        self._begin_lingering(now)

    def shut_down(self, now: float, reason: Reason = Reason.SHUTDOWN, *, reconnect: Reconnect | None = None) -> None:
        """The gateway is about to end, or ends this tunnel for another `reason`."""
        self._event = now
        if self.relaying:
            self._end(Outcome(None, reason, reconnect))

    # What to do -------------------------------------------------------------------------------------------------------

    def data_to_send(self) -> list[tuple[Side, bytes]]:
        """What to send to which side, before anything else and before `teardowns`."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def teardowns(self) -> list[tuple[Side, Teardown]]:
        """The connections to close now. From then on pass what is received to `receive_late`."""
        teardowns, self._teardowns = self._teardowns, []
        return teardowns

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, unless something happens before; ask again then."""
        # Past `_due`: the events of an orderly end are five of the six that ask in the life of a short socket.
        if self.phase is _ENDING:
            return self._close_by
        if self.phase is _CLOSING and self._stalls is None and self._close_by is not None:
            return min(self._close_by, self._last_event() + self.limits.proxy_read_timeout)
        due = self._due()
        if due is None:
            return None
        checks = [stall.next_check for stall in self._bounded_stalls()]
        pings = [heartbeat.next_timeout() for _, heartbeat in self._heartbeats] if self._beating else []
        if self._message_timer is not None and self.phase is _OPEN:
            checks.append(self._message_timer.next_check)
        return min([due[0], *checks, *pings])

    def handle_timeout(self, now: float, unsent: Callable[[Side], int]) -> None:
        """The deadline has come. `unsent` tells how many bytes a side has not taken yet, the kernel's included."""
        for side, stall in (self._stalls or {}).items():
            if (now >= stall.next_check or self._is_due(now)) and stall.progressed(now, unsent(side)):
                self._event = now
        for side, heartbeat in self._heartbeats:
            if self._beating:
                self._beat(side, heartbeat, now, functools.partial(unsent, side))
        if self._message_timer is not None and self.phase is _OPEN:
            self._check_message(self._message_timer, now)
        due = self._due()
        if due is None or now < due[0]:
            return
        self._event = now
        if self.relaying:
            self._end(Outcome(None, due[1]))
        else:
            self._teardowns += [(side, _ABORT) for side in Side if side not in self._gone]

    # Heartbeats -------------------------------------------------------------------------------------------------------

    @property
    def _heartbeats(self) -> tuple[tuple[Side, Heartbeat], ...]:
        """Of each side that has one. They are made when a timer or a stall asks for them, which a handshake need not
        pay for: until then a silent side is due at its last byte and the interval, as `Limits.first_timeout` has it."""
        if self._made_heartbeats is None:
            self._made_heartbeats = tuple(self._make_heartbeats())
        return self._made_heartbeats

    def _make_heartbeats(self) -> Iterator[tuple[Side, Heartbeat]]:
        client, upstream, limits, observe = self.client, self.upstream, self.limits, self._on_round_trip
        for side, interval, inbound, outbound in (
            (CLIENT, limits.client_heartbeat, client, upstream),
            (UPSTREAM, limits.upstream_heartbeat, upstream, client),
        ):
            if interval is not None:
                yield (
                    side,
                    Heartbeat(
                        inbound,
                        outbound,
                        interval=interval,
                        timeout=limits.heartbeat_timeout,
                        masked=side is UPSTREAM,
                        randbytes=self._randbytes,
                        observe=None if observe is None else functools.partial(observe, side),
                    ),
                )

    @property
    def _beating(self) -> bool:
        """Whether Pings can be sent and their Pongs recognized. In CLOSING a peer need not answer (RFC 6455 section
        5.5.2)."""
        return self.phase is _OPEN and self._stalls is None and not (self.client.lost or self.upstream.lost)

    def _beat(self, side: Side, heartbeat: Heartbeat, now: float, unsent: Callable[[], int]) -> None:
        verdict = heartbeat.handle_timeout(now, unsent)
        if verdict is Beat.DEAD:
            self._event = now
            self._end(Outcome(side, Reason.HEARTBEAT_TIMEOUT))
        elif verdict is Beat.PING:
            outbound = self.outbound(side)
            if outbound.at_boundary:
                self._event = now
                self._outputs.append((side, heartbeat.ping(now, unsent())))
            else:
                heartbeat.defer(now)
                outbound.pending = heartbeat.ping

    def _check_message(self, timer: MessageTimer, now: float) -> None:
        if self.stalls(UPSTREAM):
            # The client is not read from.
            timer.restart(now)
        elif now >= timer.next_check and timer.expired(now):
            self._event = now
            self._end(Outcome(CLIENT, Reason.MESSAGE_TIMEOUT))

    # The end ----------------------------------------------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        assert phase in _NEXT[self.phase], f"from {self.phase} to {phase}"
        self.phase = phase
        if self.limits.close_frames and self._close_by is None:
            self._close_by = self._event + self.limits.close_timeout

    def _end(self, outcome: Outcome, *, ended: Side | None = None) -> None:
        self._note(outcome.side, outcome.reason)
        self.outcome, self.moment, self.culprit = outcome, self._moment(), self._culprit(outcome)
        if self._closer is not None and outcome.reason in _CONNECTION_ENDS:
            # The side that sent the first Close frame, not the one that closed its connection first.
            self.outcome, self.culprit = Outcome(self._closer, _CLOSED), self._closer
        self.ended_at = self._event
        self._enter(_ENDING if self.limits.close_frames else _LINGERING)
        for side in _SIDES if outcome.side is not UPSTREAM else reversed(_SIDES):
            if side in self._gone:
                continue
            teardown = teardown_for(
                side, outcome.reason, stalls=self.stalls(side), close_frames=self.limits.close_frames
            )
            if side is ended:
                # What is buffered for it is lost, as in nginx.
                teardown = _ABORT
            elif teardown is not _ABORT:
                self._queue_close(side, outcome)
            self._teardowns.append((side, teardown))
        self._begin_lingering(self._event)

    def _note(self, side: Side | None, reason: Reason) -> None:
        event, order = _event(side, reason), self.order
        if event not in order and len(order) < _EVENTS:
            self.order = (*order, event)

    def _moment(self) -> Moment:
        if self.phase is _CLOSING:
            return Moment.CLOSING
        if self._stalls is not None:
            return Moment.STALLED
        whole = self.client.at_boundary and self.upstream.at_boundary
        return _IDLE if whole else Moment.MID_FRAME

    def _culprit(self, outcome: Outcome) -> Side | None:
        if outcome.reason is not _CLOSE_TIMEOUT:
            return NOT_READING.get(outcome.reason, outcome.side)
        # The side whose Close frame is missing; with both, the server closes the connection first (RFC 6455 section
        # 7.1.1).
        return CLIENT if self.client.close_code is None else UPSTREAM

    def _queue_close(self, side: Side, outcome: Outcome) -> None:
        """Send this side the Close frame that says why, if a frame can be sent."""
        frame, outbound = close_frame_for(side, outcome), self.outbound(side)
        if frame is None or self.phase is _LINGERING:
            return
        if not outbound.at_boundary or outbound.close_code is not None:
            return
        code, reason = frame
        self._outputs.append((side, close(code, reason, self._randbytes(4) if side is UPSTREAM else None)))
        if self.code == _ABNORMAL or (side is CLIENT and self._closer is None):
            # The one that the log has beside what the browser shows.
            self.code = code

    def _begin_lingering(self, now: float) -> None:
        """Its time runs once the client has taken everything; until then `send_timeout` bounds the end."""
        if self.phase is _LINGERING and self._linger_until is None and not self.stalls(CLIENT):
            self._linger_until = now + _LINGER

    # Timers -----------------------------------------------------------------------------------------------------------

    def _due(self) -> tuple[float, Reason] | None:
        """The next timer to expire, and its name."""
        return min([deadline for timer in self._TIMERS[self.phase] for deadline in timer(self)], default=None)

    def _is_due(self, now: float) -> bool:
        due = self._due()
        return due is not None and now >= due[0]

    def _bounded_stalls(self) -> Sequence[_Stall]:
        """Those that a send timer runs for: in ENDING it is `close_timeout` for all."""
        return () if self._stalls is None or self.phase is _ENDING else tuple(self._stalls.values())

    def _read_timer(self) -> Sequence[tuple[float, Reason]]:
        if self.stalls(CLIENT):
            return ()
        return ((self._last_event() + self.limits.proxy_read_timeout, Reason.PROXY_READ_TIMEOUT),)

    def _send_timers(self) -> Sequence[tuple[float, Reason]]:
        if self._stalls is None:
            return ()
        # In LINGERING bytes go nowhere, and do not keep a side that takes nothing.
        last = self._last_event() if self.relaying else self._event
        return [(last + stall.limit, stall.reason) for stall in self._bounded_stalls()]

    def _close_timer(self) -> Sequence[tuple[float, Reason]]:
        return () if self._close_by is None else ((self._close_by, _CLOSE_TIMEOUT),)

    def _linger_timer(self) -> Sequence[tuple[float, Reason]]:
        if self._linger_until is None or CLIENT in self._gone:
            return ()
        silent = max(self._event, self.client.last) + _LINGER_SILENCE
        return ((min(silent, self._linger_until), _CLOSE_TIMEOUT),)

    def _last_event(self) -> float:
        return max(self._event, self.client.last, self.upstream.last)

    _TIMERS: ClassVar[Mapping[Phase, Sequence[Callable[["Tunnel"], Sequence[tuple[float, Reason]]]]]] = {
        _OPEN: (_send_timers, _read_timer),
        _CLOSING: (_close_timer, _send_timers, _read_timer),
        _ENDING: (_close_timer,),
        _LINGERING: (_send_timers, _linger_timer),
        _OVER: (),
    }
