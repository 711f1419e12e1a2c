"""The asyncio shell of a tunnel: two transports, backpressure both ways, one timer, and no task.

A byte's way is `data_received` of one end to `write` of the other; everything else happens once in a while and goes
through the tunnel's machine. What the other side does not take is not read: beside the kernel's buffers, a direction
holds at most the one read that did not fit, 256 KiB.
"""

import asyncio
import contextlib
import dataclasses
import os
import statistics
from collections.abc import Callable, Sequence
from time import monotonic
from typing import cast

from moorline.gateway.tunnel import kernel
from moorline.gateway.tunnel.endings import Close, Outcome, Side
from moorline.gateway.tunnel.limits import Limits
from moorline.gateway.tunnel.machine import Tunnel

__all__ = ["Ended", "Relay"]

# uvloop counts in whole milliseconds, and a timer that fires before its time has to fire again.
_LATE = 0.001
# A read of so many bytes may hold so many frames that it took milliseconds to follow them, and uvloop reads up to 32
# times before it looks at anybody else.
_LARGE_READ = 64 << 10
_MANY_FRAMES = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """What there is to say about a tunnel at its end."""

    outcome: Outcome
    code: int
    """Of the Close frame that ended it; 1006 where there was none, 1005 where it had none."""
    seconds: float
    from_client: int
    from_backend: int
    frames_from_client: int
    frames_from_backend: int
    client_rtt: float | None
    """Median seconds from the gateway's Ping to the Pong; None without any."""
    backend_rtt: float | None


class _End(asyncio.Protocol):
    """One side's TCP."""

    __slots__ = ("_relay", "frames", "receive", "side", "transport", "write")

    def __init__(self, relay: "Relay", side: Side, transport: asyncio.Transport) -> None:
        tunnel = relay.tunnel
        self._relay: Relay | None = relay
        self.side = side
        self.receive: Callable[[bytes, float], bytes | None] = tunnel.way(side).receive_data
        self.transport = transport
        self.write: Callable[[bytes], None] = _discard
        """The other end's, while the tunnel is open."""
        self.frames = 0
        """What had come by the end of the last large read."""

    def data_received(self, data: bytes) -> None:
        # In locals, because a call of what an attribute holds takes longer.
        receive, write = self.receive, self.write
        passed = receive(data, monotonic())
        if passed is not None:
            write(passed)
        elif self._relay is not None:
            self._relay.frames_received(self.side)
        if len(data) >= _LARGE_READ and self._relay is not None:
            self._relay.much_received(self)

    def eof_received(self) -> bool:
        if self._relay is not None:
            self._relay.eof_received(self.side)
        # The machine says how to close.
        return True

    def pause_writing(self) -> None:
        if self._relay is not None:
            self._relay.pause_writing(self.side)

    def resume_writing(self) -> None:
        if self._relay is not None:
            self._relay.resume_writing(self.side)

    def connection_lost(self, exc: Exception | None) -> None:
        relay = self._relay
        if relay is None:
            return
        if exc is not None and relay.tunnel.outcome is None and (unread := kernel.unread(self.transport)):
            self.data_received(unread)
        self._relay = None
        relay.connection_lost(self.side)


class Relay:
    """A tunnel at work, from `start` until `on_end` is called."""

    __slots__ = ("_backend", "_began", "_client", "_due", "_loop", "_on_end", "_timer", "tunnel")

    def __init__(
        self,
        client: asyncio.Transport,
        backend: asyncio.Transport,
        limits: Limits,
        on_end: Callable[["Relay", Ended], None],
        on_round_trip: Callable[[Side, float], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = monotonic()
        self.tunnel = Tunnel(limits, self._began, randbytes=os.urandom, on_round_trip=on_round_trip)
        self._client = _End(self, Side.CLIENT, client)
        self._backend = _End(self, Side.BACKEND, backend)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._on_end = on_end

    @property
    def client(self) -> asyncio.Protocol:
        """The protocol for the client's transport."""
        return self._client

    @property
    def backend(self) -> asyncio.Protocol:
        """The protocol for the backend's transport."""
        return self._backend

    def start(
        self, *, head: bytes, from_client: bytes, from_backend: bytes, client_stalls: bool, backend_ended: bool
    ) -> None:
        """Send `head` to the client and begin to relay. Both transports have their protocols.

        What each side sent before goes first. `client_stalls`: the client's transport was full before; `backend_ended`:
        it has been heard of the backend's FIN.
        """
        client, backend = self._client, self._backend
        for end in (client, backend):
            # Any byte that does not leave at once pauses the other side's reading.
            end.transport.set_write_buffer_limits(high=0)
        if client_stalls:
            self.pause_writing(Side.CLIENT)
        client.transport.write(head)
        client.write, backend.write = backend.transport.write, client.transport.write
        if from_backend:
            backend.data_received(from_backend)
        if from_client:
            client.data_received(from_client)
        if backend_ended:
            self.tunnel.receive_eof(Side.BACKEND, monotonic())
        else:
            self._read_on()
        self._transmit()

    def shut_down(self) -> None:
        """End the tunnel, for the gateway is about to."""
        self.tunnel.shut_down(monotonic())
        self._transmit()

    def abort(self) -> None:
        """End it now, whatever waits."""
        self.tunnel.shut_down(monotonic())
        for end in (self._client, self._backend):
            self._close(end, Close.ABORT)

    # Events of the two transports -------------------------------------------------------------------------------------

    def frames_received(self, side: Side) -> None:
        self.tunnel.frames_received(side, monotonic())
        self._transmit()

    def much_received(self, end: _End) -> None:
        """Read no more from a side that floods us with small frames until everybody else has had a turn."""
        frames = self.tunnel.way(end.side).frames
        if frames - end.frames >= _MANY_FRAMES:
            end.transport.pause_reading()
            self._loop.call_soon(self._had_its_rest, end)
        end.frames = frames

    def _had_its_rest(self, end: _End) -> None:
        if not self.tunnel.stalls(self._other(end.side).side):
            end.transport.resume_reading()

    def eof_received(self, side: Side) -> None:
        self.tunnel.receive_eof(side, monotonic())
        self._transmit()

    def connection_lost(self, side: Side) -> None:
        self.tunnel.connection_lost(side, monotonic())
        self._transmit()
        if self.tunnel.over:
            self._end()

    def pause_writing(self, side: Side) -> None:
        self.tunnel.writing_paused(side, monotonic(), self._unsent(side))
        if self.tunnel.outcome is None:
            self._other(side).transport.pause_reading()
        # Its timer is mostly shorter than the one that runs.
        self._arm()

    def resume_writing(self, side: Side) -> None:
        self.tunnel.writing_resumed(side, monotonic())
        if self.tunnel.outcome is None:
            self._other(side).transport.resume_reading()
        self._arm()

    # ------------------------------------------------------------------------------------------------------------------

    def _transmit(self) -> None:
        """Carry out what the machine decided, then wait no longer than it says."""
        for side, data in self.tunnel.data_to_send():
            transport = self._end_of(side).transport
            if not transport.is_closing():
                transport.write(data)
        for side, close in self.tunnel.closings():
            self._close(self._end_of(side), close)
        self._arm()

    def _close(self, end: _End, close: Close) -> None:
        for each in (self._client, self._backend):
            each.write, each.receive = _discard, self.tunnel.way(each.side).receive_late
        transport = end.transport
        if close is Close.ABORT:
            transport.abort()
        elif (
            close is Close.FLUSH
            or not transport.can_write_eof()
            or (close is Close.LINGER_IF_UNREAD and not kernel.has_unread(transport))
        ):
            transport.close()
        elif not transport.is_closing():
            # The peer may have reset in the meantime; `connection_lost` is on its way then.
            with contextlib.suppress(OSError):
                transport.write_eof()
            transport.resume_reading()

    def _read_on(self) -> None:
        """Read from both sides again, unless the other stalls: the handshake may have stopped it."""
        for side in Side:
            if not self.tunnel.stalls(side):
                self._other(side).transport.resume_reading()

    def _arm(self) -> None:
        """Have the timer fire in time. One that fires too early looks again: cheaper than setting it at each byte."""
        due = self.tunnel.next_timeout()
        if due is None:
            return
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_later(max(0.0, due - monotonic()) + _LATE, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        self.tunnel.handle_timeout(monotonic(), self._unsent)
        self._transmit()

    def _unsent(self, side: Side) -> int:
        return kernel.unsent(self._end_of(side).transport)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tunnel = self.tunnel
        ended = Ended(
            outcome=cast("Outcome", tunnel.outcome),
            code=tunnel.code,
            seconds=tunnel.ended_at - self._began,
            from_client=tunnel.client.size,
            from_backend=tunnel.backend.size,
            frames_from_client=tunnel.client.frames,
            frames_from_backend=tunnel.backend.frames,
            client_rtt=_median(tunnel.round_trips(Side.CLIENT)),
            backend_rtt=_median(tunnel.round_trips(Side.BACKEND)),
        )
        self._on_end(self, ended)

    def _end_of(self, side: Side) -> _End:
        return self._client if side is Side.CLIENT else self._backend

    def _other(self, side: Side) -> _End:
        return self._backend if side is Side.CLIENT else self._client


def _median(round_trips: Sequence[float]) -> float | None:
    return statistics.median(round_trips) if round_trips else None


def _discard(data: bytes) -> None:
    """Where a tunnel that is ending sends what still comes."""
