"""One tunnel as a state machine: bytes, ends and the time go in; bytes, closings and one deadline come out. Pure.

The clock is nginx's (`ngx_http_upstream_process_upgraded`): any event on either side sets all timers anew.

| timer              | runs while                                        |
|--------------------|---------------------------------------------------|
| proxy_read_timeout | the backend may send, which it may not while the client stalls |
| proxy_send_timeout | the backend does not take what is sent to it       |
| send_timeout       | the client does not take what is sent to it        |

The end of one side is the end of the other, after the bytes that the first had sent. Frames of the gateway's own, Ping
and Close, go in between two frames of the peers and nowhere else. While either side stalls, both heartbeats rest: one
side is not read from, so that it cannot be heard, and the other is on its send timer's clock already.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

from moorline.gateway.tunnel.endings import Close, Outcome, Reason, Side, farewell, way_out
from moorline.gateway.tunnel.frames import CloseCode, Scanner, close
from moorline.gateway.tunnel.heartbeat import Beat, Heartbeat
from moorline.gateway.tunnel.limits import Limits
from moorline.gateway.tunnel.stall import Stall

__all__ = ["Tunnel"]

# nginx's lingering_timeout and lingering_time: how long a client that does not end may go on sending into the void.
_LINGER_SILENCE = 5.0
_LINGER = 30.0


class Tunnel:
    """Feed it with events; after each one send `data_to_send`, carry out `closings`, and wait until `next_timeout`, no
    longer. The bytes themselves go through `client` and `backend`, which are what comes from each side."""

    __slots__ = (
        "_beats", "_close_by", "_closer", "_closings", "_event", "_gone", "_limits", "_linger_until", "_outputs",
        "_randbytes", "_stalls", "backend", "client", "code", "ended_at", "outcome",
    )  # fmt: skip

    def __init__(
        self,
        limits: Limits,
        now: float,
        *,
        randbytes: Callable[[int], bytes],
        on_round_trip: Callable[[Side, float], None] | None = None,
    ) -> None:
        max_payload = limits.max_frame_size if limits.close_frames else None
        self.client = Scanner(now, max_payload=max_payload)
        self.backend = Scanner(now, max_payload=max_payload)
        self.outcome: Outcome | None = None
        self.ended_at = now
        """When there was an outcome."""
        self.code: int = CloseCode.ABNORMAL
        """Of the Close frame that ended it."""
        self._limits = limits
        self._randbytes = randbytes
        self._event = now
        self._beats = tuple(self._heartbeats(on_round_trip))
        self._stalls: dict[Side, Stall] | None = None
        self._outputs: list[tuple[Side, bytes]] = []
        self._closings: list[tuple[Side, Close]] = []
        self._gone: frozenset[Side] = frozenset()
        self._closer: Side | None = None
        self._close_by: float | None = None
        self._linger_until: float | None = None

    @property
    def over(self) -> bool:
        """Both sides are gone."""
        return len(self._gone) == len(Side)

    def way(self, side: Side) -> Scanner:
        """What comes from this side."""
        return self.client if side is Side.CLIENT else self.backend

    def stalls(self, side: Side) -> bool:
        """Whether this side does not take what is sent to it."""
        return self._stalls is not None and side in self._stalls

    def round_trips(self, side: Side) -> Sequence[float]:
        """Seconds from a Ping of the gateway to its Pong; the latest ones."""
        return next((beat.round_trips for beating, beat in self._beats if beating is side), ())

    # Events -----------------------------------------------------------------------------------------------------------

    def frames_received(self, side: Side, now: float) -> None:
        """The bytes from this side had something in them that is more than bytes to pass on."""
        self._event = now
        way = self.way(side)
        self._outputs.append((side.other, way.take()))
        if way.close_code is not None and self._closer is None:
            self._closer, self.code = side, way.close_code
            self._close_soon(now)
        if way.too_large:
            self._end(Outcome(side, Reason.MAX_FRAME_SIZE))

    def receive_eof(self, side: Side, now: float) -> None:
        """A FIN. In a tunnel that is ending it is what the lingering waited for."""
        self._event = now
        if self.outcome is None:
            self._end(self._loss(side, Reason.FIN), ended=side)
        else:
            # Not at once: a client may have ended its half and still be reading.
            self._closings.append((side, Close.FLUSH))

    def connection_lost(self, side: Side, now: float) -> None:
        """This side's TCP is gone, by a reset where nothing was to end."""
        self._event = now
        self._gone |= {side}
        self.writing_resumed(side, now)
        if self.outcome is None:
            self._end(self._loss(side, Reason.RESET))

    def writing_paused(self, side: Side, now: float, unsent: int) -> None:
        """This side does not take what is sent to it: do not read from the other until it does."""
        self._event = now
        if side is Side.CLIENT:
            stall = Stall(Reason.SEND_TIMEOUT, self._limits.send_timeout, now)
        else:
            stall = Stall(Reason.PROXY_SEND_TIMEOUT, self._limits.proxy_send_timeout, now)
        stall.look(now, unsent)
        self._stalls = {**(self._stalls or {}), side: stall}

    def writing_resumed(self, side: Side, now: float) -> None:
        """This side has taken everything."""
        self._event = now
        if self._stalls is not None:
            self._stalls.pop(side, None)
            self._stalls = self._stalls or None
        if self._stalls is None:
            for _, beat in self._beats:
                beat.rest(now)
        self._begin_lingering(now)

    def shut_down(self, now: float) -> None:
        """The gateway is about to end."""
        self._event = now
        if self.outcome is None:
            self._end(Outcome(None, Reason.SHUTDOWN))

    # What to do -------------------------------------------------------------------------------------------------------

    def data_to_send(self) -> list[tuple[Side, bytes]]:
        """What to send to whom, before anything else and before `closings`."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def closings(self) -> list[tuple[Side, Close]]:
        """The sides to let go of now, each once; all that comes from them from then on counts as time alone."""
        closings, self._closings = self._closings, []
        return closings

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout`, unless something happens before; it is then asked for again."""
        due = self._due()
        if due is None:
            return None
        looks = [stall.next_look for stall in (self._stalls or {}).values()]
        beats = [beat.next_timeout() for _, beat in self._beats] if self._beating else []
        return min([due[0], *looks, *beats])

    def handle_timeout(self, now: float, unsent: Callable[[Side], int]) -> None:
        """The deadline has come. `unsent` tells how many bytes a side has not taken yet, the kernel's included."""
        for side, stall in (self._stalls or {}).items():
            if (now >= stall.next_look or self._is_due(now)) and stall.look(now, unsent(side)):
                self._event = now
        for side, beat in self._beats:
            if self._beating:
                self._beat(side, beat, now, functools.partial(unsent, side))
        due = self._due()
        if due is None or now < due[0]:
            return
        self._event = now
        if self.outcome is None:
            self._end(Outcome(None, due[1]))
        else:
            # Whoever does not take his last bytes in time, or goes on talking to nobody, is cut.
            self._closings += [(side, Close.ABORT) for side in Side if side not in self._gone]

    # Heartbeats -------------------------------------------------------------------------------------------------------

    def _heartbeats(self, observe: Callable[[Side, float], None] | None) -> Iterator[tuple[Side, Heartbeat]]:
        limits = self._limits
        for side, interval in ((Side.CLIENT, limits.client_heartbeat), (Side.BACKEND, limits.upstream_heartbeat)):
            if interval is not None:
                yield (
                    side,
                    Heartbeat(
                        self.way(side),
                        self.way(side.other),
                        interval=interval,
                        timeout=limits.heartbeat_timeout,
                        masked=side is Side.BACKEND,
                        randbytes=self._randbytes,
                        observe=None if observe is None else functools.partial(observe, side),
                    ),
                )

    @property
    def _beating(self) -> bool:
        """Whether Pings can be sent and their Pongs told from others. Whoever has sent a Close answers no Ping."""
        lost = self.client.lost or self.backend.lost
        return self.outcome is None and self._stalls is None and self._closer is None and not lost

    def _beat(self, side: Side, beat: Heartbeat, now: float, unsent: Callable[[], int]) -> None:
        verdict = beat.handle_timeout(now, unsent)
        if verdict is Beat.DEAD:
            self._event = now
            self._end(Outcome(side, Reason.HEARTBEAT_TIMEOUT))
        elif verdict is Beat.PING:
            carrier = self.way(side.other)
            if carrier.at_boundary:
                self._event = now
                self._outputs.append((side, beat.ping(now, unsent())))
            else:
                beat.want(now)
                carrier.pending = beat.ping

    # The end ----------------------------------------------------------------------------------------------------------

    def _loss(self, side: Side, reason: Reason) -> Outcome:
        """How a side's TCP ended: with a Close frame before it is as it should be."""
        return Outcome(side, reason if self.way(side).close_code is None else Reason.CLOSED)

    def _end(self, cause: Outcome, *, ended: Side | None = None) -> None:
        self.outcome = cause
        if self._closer is not None and cause.reason in (Reason.CLOSED, Reason.FIN, Reason.RESET):
            # Whoever said so first, not whoever hung up first.
            self.outcome = Outcome(self._closer, Reason.CLOSED)
        self.ended_at = self._event
        self._close_soon(self._event)
        for side in Side if cause.side is not Side.BACKEND else reversed(Side):
            if side in self._gone:
                continue
            how = way_out(side, cause.reason, stalls=self.stalls(side), close_frames=self._limits.close_frames)
            if side is ended:
                # What waits for it is lost, as in nginx.
                how = Close.ABORT
            elif how is not Close.ABORT:
                self._say(side, cause)
            self._closings.append((side, how))
        self._begin_lingering(self._event)

    def _say(self, side: Side, cause: Outcome) -> None:
        """Tell this side why, where a frame can be sent."""
        told, carrier = farewell(side, cause), self.way(side.other)
        if told is None or not self._limits.close_frames or not carrier.at_boundary or carrier.close_code is not None:
            return
        code, reason = told
        self._outputs.append((side, close(code, reason, self._randbytes(4) if side is Side.BACKEND else None)))
        if self.code == CloseCode.ABNORMAL:
            self.code = code

    def _close_soon(self, now: float) -> None:
        if self._limits.close_frames and self._close_by is None:
            self._close_by = now + self._limits.close_timeout

    def _begin_lingering(self, now: float) -> None:
        """Its time runs once the client has taken everything; until then it is `send_timeout` that bounds the end."""
        if self.outcome is not None and self._linger_until is None and not self.stalls(Side.CLIENT):
            self._linger_until = now + _LINGER

    # ------------------------------------------------------------------------------------------------------------------

    def _due(self) -> tuple[float, Reason] | None:
        """The next timer to expire, and its name."""
        if self.over:
            return None
        timers = [] if self._close_by is None else [(self._close_by, Reason.CLOSE_TIMEOUT)]
        if self.outcome is None:
            last = max(self._event, self.client.last, self.backend.last)
            timers += [(last + stall.limit, stall.reason) for stall in (self._stalls or {}).values()]
            if not self.stalls(Side.CLIENT):
                timers.append((last + self._limits.proxy_read_timeout, Reason.PROXY_READ_TIMEOUT))
        elif not timers:
            # Bytes to nobody do not put off the cut of a side that takes nothing.
            timers += [(self._event + stall.limit, stall.reason) for stall in (self._stalls or {}).values()]
            if self._linger_until is not None and Side.CLIENT not in self._gone:
                silent = max(self._event, self.client.last) + _LINGER_SILENCE
                timers.append((min(silent, self._linger_until), self.outcome.reason))
        return min(timers, default=None)

    def _is_due(self, now: float) -> bool:
        due = self._due()
        return due is not None and now >= due[0]
