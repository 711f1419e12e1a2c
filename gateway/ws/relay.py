"""The asyncio shell of a tunnel: two transports, backpressure both ways, one timer, and no task.

A byte's way is `data_received` of one end to `write` of the other; everything else happens once in a while and goes
through the tunnel's machine. What the other side does not take is not read: beside the kernel's buffers, a direction
holds at most the one read that did not fit, 256 KiB.
"""

import asyncio
import contextlib
import dataclasses
import os
import socket
from collections.abc import Callable
from typing import cast

from gateway.ws.tunnel import Close, Limits, Outcome, Side, Tunnel

__all__ = ["Ended", "Relay"]

# What both loops read at once.
_ONE_READ = 256 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """What there is to say about a tunnel at its end."""

    outcome: Outcome
    seconds: float
    from_client: int
    from_backend: int


class _End(asyncio.Protocol):
    """One side's TCP."""

    __slots__ = ("_clock", "_receive", "_relay", "_side", "transport", "write")

    def __init__(self, relay: "Relay", side: Side, transport: asyncio.Transport) -> None:
        tunnel = relay.tunnel
        self._relay: Relay | None = relay
        self._side = side
        self._clock = relay.clock
        self._receive = (tunnel.client if side is Side.CLIENT else tunnel.backend).receive_data
        self.transport = transport
        self.write: Callable[[bytes], None] = _discard
        """The other end's, while the tunnel is open."""

    def data_received(self, data: bytes) -> None:
        self.write(self._receive(data, self._clock()))

    def eof_received(self) -> bool:
        if self._relay is not None:
            self._relay.eof_received(self._side)
        # The machine says how to close.
        return True

    def pause_writing(self) -> None:
        if self._relay is not None:
            self._relay.pause_writing(self._side)

    def resume_writing(self) -> None:
        if self._relay is not None:
            self._relay.resume_writing(self._side)

    def connection_lost(self, exc: Exception | None) -> None:
        relay, self._relay = self._relay, None
        if relay is None:
            return
        if exc is not None and relay.tunnel.outcome is None and (unread := _unread(self.transport)):
            self.data_received(unread)
        relay.connection_lost(self._side)


class Relay:
    """A tunnel at work, from `start` until `on_end` is called."""

    __slots__ = ("_backend", "_began", "_client", "_loop", "_on_end", "_timer", "clock", "tunnel")

    def __init__(
        self,
        client: asyncio.Transport,
        backend: asyncio.Transport,
        limits: Limits,
        on_end: Callable[["Relay", Ended], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.clock = self._loop.time
        self._began = self.clock()
        self.tunnel = Tunnel(limits, self._began)
        self._client = _End(self, Side.CLIENT, client)
        self._backend = _End(self, Side.BACKEND, backend)
        self._timer: asyncio.TimerHandle | None = None
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
            self.tunnel.receive_eof(Side.BACKEND, self.clock())
        else:
            self._read_on()
        self._transmit()

    def shut_down(self) -> None:
        """End the tunnel, for the gateway is about to."""
        self.tunnel.shut_down(self.clock())
        self._transmit()

    def abort(self) -> None:
        """End it now, whatever waits."""
        self.tunnel.shut_down(self.clock())
        for end in (self._client, self._backend):
            self._close(end, Close.ABORT)

    # Events of the two transports -------------------------------------------------------------------------------------

    def eof_received(self, side: Side) -> None:
        self.tunnel.receive_eof(side, self.clock())
        self._transmit()

    def connection_lost(self, side: Side) -> None:
        self.tunnel.connection_lost(side, self.clock())
        self._transmit()
        if self.tunnel.over:
            self._end()

    def pause_writing(self, side: Side) -> None:
        self.tunnel.writing_paused(side, self.clock(), self._end_of(side).transport.get_write_buffer_size())
        if self.tunnel.outcome is None:
            self._other(side).transport.pause_reading()
        # Its timer is mostly shorter than the one that runs.
        self._arm()

    def resume_writing(self, side: Side) -> None:
        self.tunnel.writing_resumed(side, self.clock())
        if self.tunnel.outcome is None:
            self._other(side).transport.resume_reading()
        self._arm()

    # ------------------------------------------------------------------------------------------------------------------

    def _transmit(self) -> None:
        """Carry out what the machine decided, then wait no longer than it says."""
        for side, close in self.tunnel.closings():
            self._close(self._end_of(side), close)
        self._arm()

    def _close(self, end: _End, close: Close) -> None:
        self._client.write = self._backend.write = _discard
        transport = end.transport
        if close is Close.ABORT:
            transport.abort()
        elif close is Close.FLUSH or not transport.can_write_eof():
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
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        unsent = {side: self._end_of(side).transport.get_write_buffer_size() for side in Side}
        self.tunnel.handle_timeout(self.clock(), unsent)
        self._transmit()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        outcome = cast("Outcome", self.tunnel.outcome)
        self._on_end(
            self,
            Ended(outcome, self.clock() - self._began, self.tunnel.client.size, self.tunnel.backend.size),
        )

    def _end_of(self, side: Side) -> _End:
        return self._client if side is Side.CLIENT else self._backend

    def _other(self, side: Side) -> _End:
        return self._backend if side is Side.CLIENT else self._client


def _unread(transport: asyncio.Transport) -> bytes:
    """What a side had sent before its reset. A write that fails makes the loop forget to read it; a peer that says why
    it leaves and leaves while it is written to, is the common case. The loop closes the socket after `connection_lost`.
    """
    try:
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as copy:
            return copy.recv(_ONE_READ, socket.MSG_DONTWAIT)
    except OSError:
        return b""


def _discard(data: bytes) -> None:
    """Where a tunnel that is ending sends what still comes."""
