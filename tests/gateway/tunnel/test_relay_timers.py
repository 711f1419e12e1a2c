"""Whatever happens to a tunnel: its timer fires in time for what is due next, and none is left behind its end.

The relay sets its timer only where something may be due earlier than before, since most events put everything off.
"""

import asyncio
import dataclasses
import heapq
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorline.gateway.common.web.turns import Turns
from moorline.gateway.tunnel.buffered import Buffered
from moorline.gateway.tunnel.endings import Side
from moorline.gateway.tunnel.machine import Limits, Phase
from moorline.gateway.tunnel.relay import End, Ended, Relay, Shared
from moorline.gateway.tunnel.state import TunnelState
from moorline.gateway.tunnel.timers import Timers
from tests.gateway.tunnel.test_relay import Wire
from tests.support.tunnels import CLIENT, NGINX, UPSTREAM
from tests.support.websocket_frames import PING, TEXT, close_frame, frame

# Up to a quarter of a second, and the millisecond by which the event loop rounds.
COALESCED = 0.252
# Beyond all limits of a tunnel whose peers say nothing more.
LONG = 1000.0


class Loop:
    """A loop whose time stands still until the test lets it go on."""

    def __init__(self) -> None:
        self.now = 1000.1
        self._timers: list[Handle] = []
        self._soon: list[Callable[[], object]] = []

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> "Handle":
        handle = Handle(self.now + seconds, len(self._timers), lambda: callback(*arguments))
        heapq.heappush(self._timers, handle)
        return handle

    def call_soon(self, callback: Callable[[], object]) -> None:
        self._soon.append(callback)

    def next(self) -> float | None:
        """When the next timer fires."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        return self._timers[0].at if self._timers else None

    def turn(self) -> None:
        """Call all that is due now."""
        while self._soon or ((at := self.next()) is not None and at <= self.now):
            if self._soon:
                self._soon.pop(0)()
            else:
                heapq.heappop(self._timers).call()


@dataclasses.dataclass(order=True)
class Handle:
    at: float
    number: int
    call: Callable[[], object] = dataclasses.field(compare=False)
    cancelled: bool = dataclasses.field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class Rig:
    """A relay whose transports end as they are told to, one turn later."""

    def __init__(self, loop: Loop, limits: Limits, sock: socket.socket) -> None:
        self.loop, self.limits, self.sock = loop, limits, sock
        self.ended: list[Ended] = []
        as_loop = cast("asyncio.AbstractEventLoop", loop)
        turns, timers, buffered = Turns(as_loop), Timers(as_loop), Buffered[End](1 << 30)
        self.shared = Shared(turns, timers, buffered, lambda _, ended: self.ended.append(ended))
        self.make(None)
        self.relay.start(head=b"", from_client=b"", from_upstream=b"", client_stalls=False)

    def make(self, state: TunnelState | None) -> None:
        self.wires = {CLIENT: Wire(self.sock), UPSTREAM: Wire(self.sock)}
        self.relay = Relay(self.wires[CLIENT], self.wires[UPSTREAM], self.limits, self.shared, state=state)
        self.lost: set[Side] = set()
        self.fins: set[Side] = set()
        self.stalled: set[Side] = set()

    def protocol(self, side: Side) -> asyncio.Protocol:
        return self.relay.client if side is CLIENT else self.relay.upstream

    def is_open(self, side: Side) -> bool:
        return side not in self.lost and not self.wires[side].is_closing()

    # What happens to it -----------------------------------------------------------------------------------------------

    def wait(self, _: Side, seconds: float) -> None:
        self.loop.now += seconds

    def bytes_come(self, side: Side, seconds: float) -> None:
        """A Ping, a message, or a part of one."""
        key = b"mask" if side is CLIENT else b""
        message = frame(TEXT, b"x" * 200, key=key)
        data = (frame(PING, key=key), message, message[:150])[round(seconds) % 3]
        if self.is_open(side):
            self.protocol(side).data_received(data)

    def close(self, side: Side, _: float) -> None:
        if self.is_open(side):
            self.protocol(side).data_received(close_frame(1000, key=b"mask" if side is CLIENT else b""))

    def stall(self, side: Side, _: float) -> None:
        if self.is_open(side) and side not in self.stalled:
            self.stalled.add(side)
            self.protocol(side).pause_writing()

    def take(self, side: Side, _: float) -> None:
        if side in self.stalled and side not in self.lost:
            self.stalled.discard(side)
            self.protocol(side).resume_writing()

    def fin(self, side: Side, _: float) -> None:
        if side not in self.lost | self.fins:
            self.fins.add(side)
            self.protocol(side).eof_received()

    def lose(self, side: Side, _: float) -> None:
        if side not in self.lost:
            self.lost.add(side)
            self.protocol(side).connection_lost(ConnectionResetError())

    def shut_down(self, _side: Side, _: float) -> None:
        self.relay.shut_down()

    def hand_over(self, _: Side, seconds: float) -> None:
        if not self.stalled and (taken := self.relay.detach()) is not None:
            state, *descriptors = taken
            for descriptor in descriptors:
                os.close(descriptor)
            assert self.loop.next() is None, "the tunnel is another process's"
            self.loop.now += seconds
            self.make(state)
            self.relay.resume(state, from_client=b"", from_upstream=b"")

    # ------------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the loop turn, and the transports end that are to."""
        self.loop.turn()
        for side in Side:
            if not self.is_open(side):
                self.lose(side, 0)
        self.loop.turn()

    def check(self) -> None:
        """The promise of this file."""
        fires = self.loop.next()
        if self.relay.tunnel.phase is Phase.OVER:
            assert len(self.ended) == 1
            assert fires is None
        elif (due := self.relay.tunnel.next_timeout()) is not None:
            assert fires is not None
            assert fires <= max(due, self.loop.now) + COALESCED


EVENTS = (
    Rig.wait, Rig.wait, Rig.bytes_come, Rig.bytes_come, Rig.close, Rig.stall, Rig.take, Rig.fin, Rig.lose,
    Rig.shut_down, Rig.hand_over, Rig.hand_over,
)  # fmt: skip
STEPS = st.tuples(st.sampled_from(EVENTS), st.sampled_from(Side), st.sampled_from([0.0, 0.05, 1.0, 2.0, 9.9, 10.0]))
LIMITS = st.builds(
    dataclasses.replace,
    st.just(NGINX),
    proxy_read_timeout=st.sampled_from([60.0, 20.0, 0.3]),
    send_timeout=st.sampled_from([0.2, 12.0, 60.0]),
    client_heartbeat=st.sampled_from([None, 0.5, 20.0]),
    upstream_heartbeat=st.sampled_from([None, 20.0]),
    heartbeat_timeout=st.sampled_from([0.1, 20.0]),
    close_frames=st.sampled_from([True, False]),
    close_timeout=st.sampled_from([3.0, 20.0, 0.0]),
    message_timeout=st.sampled_from([None, 0.5, 11.0]),
)


@settings(deadline=None, max_examples=500)
@given(LIMITS, st.lists(STEPS, max_size=30))
def test_its_timer_fires_in_time_and_none_is_left(limits: Limits, steps: list[tuple[Any, Side, float]]) -> None:
    with socket.socket() as sock, pytest.MonkeyPatch.context() as patch:
        loop = Loop()
        patch.setattr("moorline.gateway.tunnel.relay.monotonic", lambda: loop.now)
        rig = Rig(loop, limits, sock)
        for happens, side, seconds in steps:
            happens(rig, side, seconds)
            rig.settle()
            rig.check()
        until = loop.now + LONG
        while (at := loop.next()) is not None and at < until:
            loop.now = max(at, loop.now)
            rig.settle()
            rig.check()
        # Its peers say nothing more, and take nothing.
        assert rig.relay.tunnel.phase is Phase.OVER
