"""The asyncio shell of a tunnel: two transports, backpressure both ways, one timer, and no task.

      client ---> End.data_received ---> Direction.receive_data ---> write ---> upstream
             <--- write <--- Direction.receive_data <--- End.data_received <---
                                         |
                              None: Relay.frames_received ---> Tunnel (machine.py) ---> data_to_send, teardowns

A byte takes the two calls of the first line, and the same ones back; events that are rare go through the machine.

What bounds it: what one side does not take is not read from the other, so that beside the kernel's buffers a direction
holds at most the one read that did not fit, 256 KiB; `Buffered` bounds the sum of all tunnels. A read that holds too
many frames for one turn is followed in several, and its side is not read from until the last (`Direction.backlog`). All
connections that have a backlog wait in one queue, of which an iteration of the event loop serves a few (`Turns`):
however many they are, they hold up all the others for 2 ms. The end of a connection is reported once its backlog has
passed. The timers are the machine's. An idle tunnel waits for one moment, with others (`Timers`).
"""

import asyncio
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple, cast

from moorline.gateway.cause import Cause, Reason, is_unreachable
from moorline.gateway.common.timers import coalesced
from moorline.gateway.common.unread import has_unread
from moorline.gateway.common.web.turns import Turns
from moorline.gateway.tunnel import kernel
from moorline.gateway.tunnel.buffered import Buffered
from moorline.gateway.tunnel.endings import CLIENT, ORDERLY, UPSTREAM, Outcome, Reconnect, Side, Teardown, cause_of
from moorline.gateway.tunnel.machine import Limits, Phase, Tunnel
from moorline.gateway.tunnel.state import TunnelState
from moorline.gateway.tunnel.tcp_info import TcpInfo
from moorline.gateway.tunnel.timers import Timers

__all__ = ["End", "Ended", "Relay", "Shared"]

# In Python 3.11 a member of an enum takes three times a call to be found in its class.
_OVER = Phase.OVER
_ABORT, _FLUSH, _LINGER_IF_UNREAD = Teardown.ABORT, Teardown.FLUSH, Teardown.LINGER_IF_UNREAD


class Ended(NamedTuple):
    """The figures of a tunnel that has ended. A tuple, since a frozen dataclass of so many fields takes three times as
    long to make.
    """

    outcome: Outcome
    cause: Cause
    order: Sequence[str]
    """The first events of the end; see `Tunnel.order`."""
    client_tcp: TcpInfo | None
    """The kernel's view of the client's connection when the tunnel ended; None where it had none, and of
    an orderly end, of which it would tell nothing."""
    upstream_tcp: TcpInfo | None
    code: int
    """Of the Close frame that ended it; 1006 where there was none, 1005 where it had none."""
    seconds: float
    from_client: int
    from_upstream: int
    frames_from_client: int
    frames_from_upstream: int
    client_rtt: float | None
    """Median seconds from the gateway's Ping to the Pong; None without any."""
    upstream_rtt: float | None


class End(asyncio.Protocol):
    """One side's TCP connection."""

    __slots__ = ("_ends", "_relay", "inbound", "receive", "side", "transport", "unsent", "write")

    def __init__(self, relay: "Relay", side: Side, transport: asyncio.Transport) -> None:
        self._relay: Relay | None = relay
        tunnel = relay.tunnel
        self.inbound = inbound = tunnel.client if side is CLIENT else tunnel.upstream
        # The FIN and the loss that wait for the backlog, in their order.
        self._ends: tuple[Callable[[], None], ...] = ()
        self.side = side
        self.receive: Callable[[bytes, float], bytes | None] = inbound.receive_data
        self.transport = transport
        self.write: Callable[[bytes], None] = _discard
        """The other end's, while the tunnel is open."""
        self.unsent: list[bytes] | None = None
        """While the other end stalls: what was written to it, from the write on that did not leave at once."""

    def data_received(self, data: bytes) -> None:
        # In locals, because a call of what an attribute holds takes longer.
        receive, write = self.receive, self.write
        passed = receive(data, monotonic())
        if passed is not None:
            write(passed)
            if self.unsent is not None:
                self.unsent.append(passed)
        elif self._relay is not None:
            self._relay.frames_received(self.side)
            if self.inbound.backlog and self.has_backlog:
                self._relay.yield_to_others(self)

    @property
    def has_backlog(self) -> bool:
        return self.inbound.backlog != b"" and self._relay is not None and self._relay.tunnel.relaying

    @property
    def is_ending(self) -> bool:
        """Whether this connection has ended, and its backlog has not passed yet."""
        return self._ends != ()

    def parse_slice(self) -> bool:
        """Pass on as much of the backlog as fits into one turn; whether there is more."""
        if self.has_backlog:
            self._pass_on(self.inbound.receive_backlog())
            if self.has_backlog:
                return True
        ends, self._ends = self._ends, ()
        for end in ends:
            end()
        if self._relay is not None:
            self._relay.resume_reading(self)
            self._relay.resume_discarding(self)
        return False

    def _pass_on(self, passed: bytes | None) -> None:
        if passed is not None:
            self.write(passed)
            if self.unsent is not None:
                self.unsent.append(passed)
        elif self._relay is not None:
            self._relay.frames_received(self.side)

    def _after_backlog(self, end: Callable[..., None], *arguments: object) -> None:
        if self._ends or (self.inbound.backlog and self.has_backlog):
            self._ends += (functools.partial(end, *arguments),)
        else:
            end(*arguments)

    def discard(self) -> None:
        """Pass on nothing that is received from now on."""
        if self._relay is not None:
            self.receive = self.receive_late

    def receive_late(self, data: bytes, now: float) -> bytes:
        """After the tunnel's end: nothing passes any more. A peer that goes on sending is read in turns: uvloop would
        take up to 8 MiB of each at once, only to discard them."""
        self.inbound.receive_late(data, now)
        if self._relay is not None:
            self._relay.yield_to_others(self)
        return b""

    def detach(self) -> None:
        """Report no event of the transport any more."""
        self._relay = None
        self.write, self.receive = _discard, self.inbound.receive_late

    def eof_received(self) -> bool:
        if (relay := self._relay) is not None:
            self._after_backlog(relay.eof_received, self.side)
        # The machine decides how to close; TLS knows no half-closed connection in asyncio.
        return self.transport.can_write_eof()

    def pause_writing(self) -> None:
        if self._relay is not None:
            self._relay.pause_writing(self.side)

    def end_over_limit(self) -> None:
        """This end holds bytes for longest of all, and there are too many."""
        if self._relay is not None:
            self._relay.end_over_limit()

    def resume_writing(self) -> None:
        if self._relay is not None:
            self._relay.resume_writing(self.side)

    def connection_lost(self, exc: Exception | None) -> None:
        relay = self._relay
        if relay is None:
            return
        if exc is not None and relay.tunnel.relaying and (unread := kernel.unread(self.transport)):
            if self.has_backlog:
                self.inbound.backlog += unread
            else:
                self.data_received(unread)
        if self.inbound.backlog and self.has_backlog:
            relay.stop_sending(self)
        reason = Reason.UNREACHABLE if exc is not None and is_unreachable(exc) else Reason.RESET
        self._after_backlog(self._lost, relay, reason)

    def _lost(self, relay: "Relay", reason: Reason) -> None:
        self._relay = None
        # Not its own method, with which it would stay until a search for cycles.
        self.receive = self.inbound.receive_late
        relay.connection_lost(self.side, reason)


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """What all relays of one gateway share."""

    turns: Turns
    """The queue of the connections that have a backlog."""
    timers: Timers
    buffered: Buffered[End]
    on_end: Callable[["Relay", Ended], None]
    """Called once both connections of a relay are gone."""
    on_round_trip: Callable[[Side, float], None] | None = None
    """Called with the seconds from each Ping of a relay's to its Pong."""


class Relay:
    """A tunnel at work, from `start` until `Shared.on_end` is called."""

    __slots__ = (
        "_began",
        "_client",
        "_due",
        "_fires_at",
        "_loop",
        "_shared",
        "_tcp",
        "_upstream",
        "tunnel",
    )

    def __init__(
        self,
        client: asyncio.Transport,
        upstream: asyncio.Transport,
        limits: Limits,
        shared: Shared,
        *,
        state: TunnelState | None = None,
    ) -> None:
        # `asyncio.get_running_loop` asks the kernel whether the process is the one that it was.
        self._loop = shared.turns.loop
        self._began = monotonic() if state is None else state.began
        self.tunnel = Tunnel(limits, self._began, os.urandom, shared.on_round_trip)
        if state is not None:
            self.tunnel.restore(state)
        self._client = End(self, CLIENT, client)
        self._upstream = End(self, UPSTREAM, upstream)
        # Of its timer: the deadline, and the moment at which it fires.
        self._due = self._fires_at = math.inf
        self._shared = shared
        self._tcp: dict[Side, TcpInfo | None] | None = None

    @property
    def client(self) -> asyncio.Protocol:
        """The protocol for the client's transport."""
        return self._client

    @property
    def upstream(self) -> asyncio.Protocol:
        """The protocol for the upstream's transport."""
        return self._upstream

    def start(self, *, head: bytes, from_client: bytes, from_upstream: bytes, client_stalls: bool) -> None:
        """Send `head` to the client and begin to relay. Both transports have their protocols.

        What each side sent before goes first. `client_stalls`: the client's transport was full before.
        """
        self._begin(client_stalls=client_stalls)
        self._client.transport.write(head)
        self._go_on(from_client, from_upstream)

    def resume(self, state: TunnelState, *, from_client: bytes, from_upstream: bytes) -> None:
        """Go on from `state`, which this relay was made with. The rest is that of `start`."""
        self._begin(client_stalls=False)
        for source, unsent in ((self._client, state.client.unsent), (self._upstream, state.upstream.unsent)):
            self._send(source.side.other, unsent)
        self._go_on(from_client, from_upstream)
        # Of a Ping, a message or a Close frame before the hand-over.
        self._arm()

    def detach(self) -> tuple[TunnelState, int, int] | None:
        """Stop here and now, for another process to go on: the state, and descriptors of the client's and the
        upstream's connection, which are the caller's to close. `on_end` is not called. None: it cannot go on elsewhere,
        since it is ending, has TLS, whose keys are this process's, or has unsent bytes from before it was a tunnel.
        """
        ends = (self._client, self._upstream)
        if not self.tunnel.relaying or any(end.is_ending for end in ends):
            return None
        if any(kernel.is_tls(end.transport) or end.transport.is_closing() for end in ends):
            return None
        unsent = {end.side.other: _tail(end.unsent, self._end_of(end.side.other).transport) for end in ends}
        to_client, to_upstream = unsent[CLIENT], unsent[UPSTREAM]
        if to_client is None or to_upstream is None:
            return None
        try:
            client = kernel.duplicate(self._client.transport)
        except OSError:
            return None
        try:
            upstream = kernel.duplicate(self._upstream.transport)
        except OSError:
            os.close(client)
            return None
        state = self.tunnel.state(self._began, lambda side: to_client if side is CLIENT else to_upstream)
        self._disarm()
        for end in ends:
            self._shared.buffered.remove(end)
            end.detach()
            # The duplicate keeps the connection: neither FIN nor reset is sent. What is buffered is in the state.
            end.transport.abort()
        return state, client, upstream

    def _begin(self, *, client_stalls: bool) -> None:
        for end, other in ((self._client, self._upstream), (self._upstream, self._client)):
            transport = end.transport
            if transport.is_closing():
                continue
            # Any byte that does not leave at once pauses the other side's reading. TCP pauses beyond its mark, TLS at
            # it: at 0 that would be with nothing to send, and for ever.
            transport.set_write_buffer_limits(int(kernel.is_tls(transport)), 0)
            other.write = transport.write
        if client_stalls:
            self.pause_writing(CLIENT)

    def _go_on(self, from_client: bytes, from_upstream: bytes) -> None:
        client, upstream = self._client, self._upstream
        for end, data in ((upstream, from_upstream), (client, from_client)):
            inbound = end.inbound
            if inbound.backlog:
                inbound.backlog += data
                self.yield_to_others(end)
            elif data:
                end.data_received(data)
        # The handshake may have paused them.
        self.resume_reading(client)
        self.resume_reading(upstream)
        # Whatever happened since the handshake has set its own timer; to compute this one costs forty calls.
        self._arm_at(self._began + self.tunnel.limits.first_timeout)

    def shut_down(self, reconnect: Reconnect | None = None) -> None:
        """End the tunnel, for the gateway is about to; its client is told when to come back."""
        self.tunnel.shut_down(monotonic(), reconnect=reconnect)
        self._transmit()

    def withdraw(self, *, expired: bool) -> None:
        """End the tunnel, for the client has no right to it any more, or not before it has new credentials."""
        self.tunnel.shut_down(monotonic(), Reason.EXPIRED if expired else Reason.FORBIDDEN)
        self._transmit()

    def end_over_limit(self) -> None:
        """End the tunnel, for all of them together hold too many bytes."""
        self.tunnel.shut_down(monotonic(), Reason.LIMIT)
        self._transmit()

    def abort(self) -> None:
        """End it now; what is buffered is discarded."""
        self.tunnel.shut_down(monotonic())
        for end in (self._client, self._upstream):
            self._tear_down(end, _ABORT)

    # Events of the two transports -------------------------------------------------------------------------------------

    def frames_received(self, side: Side) -> None:
        self.tunnel.frames_received(side, monotonic())
        self._transmit()

    def eof_received(self, side: Side) -> None:
        self.tunnel.receive_eof(side, monotonic())
        self._transmit()

    def connection_lost(self, side: Side, reason: Reason = Reason.RESET) -> None:
        self._shared.buffered.remove(self._end_of(side))
        self.tunnel.connection_lost(side, monotonic(), reason)
        if self.tunnel.phase is _OVER:
            self._end()
        else:
            self._transmit()

    def pause_writing(self, side: Side) -> None:
        self.tunnel.writing_paused(side, monotonic(), self._unsent(side))
        if self.tunnel.relaying:
            self._other(side).transport.pause_reading()
            self._other(side).unsent = []
        # Its timer is mostly shorter than the one that runs.
        self._arm()
        end = self._end_of(side)
        backlog = len(self.tunnel.outbound(side).backlog)
        for oldest in self._shared.buffered.add(end, end.transport.get_write_buffer_size() + backlog):
            # The transport that calls this is in the middle of a write.
            self._loop.call_soon(oldest.end_over_limit)

    def resume_writing(self, side: Side) -> None:
        self._shared.buffered.remove(self._end_of(side))
        self.tunnel.writing_resumed(side, monotonic())
        self._other(side).unsent = None
        self.resume_reading(self._other(side))
        self._arm()

    # Reading ----------------------------------------------------------------------------------------------------------

    def resume_reading(self, end: End) -> None:
        """Read from this side again, unless the other one stalls or there is a backlog."""
        if not end.inbound.backlog and self.tunnel.takes_from(end.side):
            end.transport.resume_reading()

    def resume_discarding(self, end: End) -> None:
        """The same after the end of the tunnel, where the peer's end is awaited."""
        if not self.tunnel.relaying and not end.transport.is_closing():
            end.transport.resume_reading()

    def yield_to_others(self, end: End) -> None:
        """Handle the other connections' events before the backlog of this one. uvloop would even read up to 32 times
        before it turned to another connection."""
        if not end.transport.is_closing():
            end.transport.pause_reading()
        self._shared.turns.add(end)

    def stop_sending(self, end: End) -> None:
        """This connection is lost, and what came from it has not passed yet."""
        self._other(end.side).write = _discard
        # Its descriptor is another connection's soon.
        self._note_tcp()

    # ------------------------------------------------------------------------------------------------------------------

    def _transmit(self) -> None:
        """Carry out what the machine decided, and set the timer."""
        tunnel = self.tunnel
        outcome = tunnel.outcome
        if outcome is not None and self._tcp is None and outcome.reason not in ORDERLY:
            # Before a connection is closed, and before a Close frame is sent that nothing acknowledges yet.
            self._note_tcp()
        for side, data in tunnel.data_to_send():
            self._send(side, data)
        for side, teardown in tunnel.teardowns():
            self._tear_down(self._end_of(side), teardown)
        self._arm()

    def _note_tcp(self) -> None:
        if self._tcp is None:
            self._tcp = {end.side: kernel.info(end.transport) for end in (self._client, self._upstream)}

    def _send(self, side: Side, data: bytes) -> None:
        end, source = self._client, self._upstream
        if side is UPSTREAM:
            end, source = source, end
        if not end.transport.is_closing():
            end.transport.write(data)
            if source.unsent is not None:
                source.unsent.append(data)

    def _tear_down(self, end: End, teardown: Teardown) -> None:
        client, upstream, transport = self._client, self._upstream, end.transport
        client.write = upstream.write = _discard
        client.discard()
        upstream.discard()
        if teardown is _ABORT:
            transport.abort()
        elif (
            teardown is _FLUSH
            or not transport.can_write_eof()
            or (teardown is _LINGER_IF_UNREAD and not has_unread(transport))
        ):
            transport.close()
        elif not transport.is_closing():
            # The peer may have reset in the meantime; `connection_lost` comes next then.
            try:  # noqa: SIM105 - `suppress` is four calls of each end
                transport.write_eof()
            except OSError:
                pass
            transport.resume_reading()

    def _arm(self) -> None:
        """Have the timer fire in time. One that fires too early is set again: cheaper than to set it at each byte."""
        if (due := self.tunnel.next_timeout()) is not None:
            self._arm_at(due)

    def _arm_at(self, due: float) -> None:
        # One that was long when it was set is not so any more, and has its moment all the same.
        if due == self._due:
            return
        now = monotonic()
        fires_at = coalesced(due, now)
        if self._fires_at > fires_at:
            self._disarm()
            self._due, self._fires_at = due, fires_at
            self._shared.timers.add(self, fires_at, now)

    def _disarm(self) -> None:
        if self._fires_at != math.inf:
            self._shared.timers.remove(self, self._fires_at)
            self._due = self._fires_at = math.inf

    def expire(self) -> None:
        """The time of its timer has come."""
        self._due = self._fires_at = math.inf
        self.tunnel.handle_timeout(monotonic(), self._unsent)
        self._transmit()

    def _unsent(self, side: Side) -> int:
        return kernel.unsent(self._end_of(side).transport)

    def _end(self) -> None:
        self._disarm()
        tunnel, tcp = self.tunnel, self._tcp or {}
        outcome = cast("Outcome", tunnel.outcome)
        culprit_tcp = tcp.get(tunnel.culprit) if tunnel.culprit is not None else None
        ended = Ended(
            outcome=outcome,
            cause=cause_of(outcome.reason, tunnel.culprit, tunnel.moment, culprit_tcp, tunnel.code),
            order=tunnel.order,
            client_tcp=tcp.get(CLIENT),
            upstream_tcp=tcp.get(UPSTREAM),
            code=tunnel.code,
            seconds=tunnel.ended_at - self._began,
            from_client=tunnel.client.size,
            from_upstream=tunnel.upstream.size,
            frames_from_client=tunnel.client.frames,
            frames_from_upstream=tunnel.upstream.frames,
            client_rtt=_median(tunnel.round_trips(CLIENT)),
            upstream_rtt=_median(tunnel.round_trips(UPSTREAM)),
        )
        self._shared.on_end(self, ended)

    def _end_of(self, side: Side) -> End:
        return self._client if side is CLIENT else self._upstream

    def _other(self, side: Side) -> End:
        return self._upstream if side is CLIENT else self._client


def _tail(written: Sequence[bytes] | None, transport: asyncio.Transport) -> bytes | None:
    """What of these bytes a transport has not sent yet; None where it has others as well."""
    size = transport.get_write_buffer_size()
    data = b"".join(written or ())
    return None if len(data) < size else data[len(data) - size :]


def _median(round_trips: Sequence[float]) -> float | None:
    """Without `statistics`, whose import takes as long as that of five modules of the gateway."""
    if not round_trips:
        return None
    middle, ordered = len(round_trips) // 2, sorted(round_trips)
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _discard(data: bytes) -> None:
    """Where bytes go that arrive after the end of a tunnel."""
