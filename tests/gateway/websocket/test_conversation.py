"""Random conversations: two peers that send, fall silent, and answer every Ping that they get.

Each side has to get exactly what the other one sent, in its order, and beside it nothing but whole Pings of the
gateway's between two frames; and no Pong that answers one of those.
"""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorline.gateway.tunnel.endings import Side
from moorline.gateway.tunnel.machine import Tunnel
from tests.support.tunnels import CLIENT, NOTHING, UPSTREAM, opened
from tests.support.websocket_frames import BINARY, PING, PONG, TEXT, Frame, frame, parse

KEY = b"\x11\x22\x33\x44"
# The payload of the peers' own Pings and Pongs; it is shorter than the gateway's.
OWN = b"peer"


class Sender:
    """One side: it sends frames of its own, and a Pong for each Ping, in pieces of any size."""

    def __init__(self, side: Side, order: random.Random) -> None:
        self.side = side
        self.key = KEY if side is CLIENT else b""
        self._order = order
        self._waiting = b""
        self._received = b""
        self._answered = 0
        self.sent: list[Frame] = []
        self.pings = 0

    def received(self, *, own: bool) -> list[Frame]:
        """What has come so far of the other peer's frames, or of the gateway's Pings."""
        whole = parse(self._received)
        gateways = [each for each in whole if each.opcode == PING and len(each.payload) == 8]
        return gateways if own else [each for each in whole if each not in gateways]

    def get(self, data: bytes) -> None:
        self._received += data

    def answer(self) -> None:
        """Every Ping that has come whole."""
        try:
            pings = [each for each in parse(self._received) if each.opcode == PING]
        except EOFError:
            return
        for ping in pings[self._answered :]:
            pong = frame(PONG, ping.payload, key=self.key)
            if len(ping.payload) != 8:
                self.sent += parse(pong)
            self._waiting += pong
        self._answered = len(pings)

    def add_frame(self) -> None:
        size = self._order.choice((0, 1, 60, 125, 126, 400, 70_000))
        kind = self._order.choice((TEXT, BINARY, PING, PONG))
        made = frame(kind, OWN if kind in (PING, PONG) else self._order.randbytes(size), key=self.key)
        self.sent += parse(made)
        self._waiting += made

    def send(self, size: int) -> bytes:
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return data

    @property
    def is_done(self) -> bool:
        return not self._waiting


class Conversation:
    """A tunnel between two of them."""

    def __init__(self, seed: int, **limits: Any) -> None:
        self.order = random.Random(seed)
        self.tunnel = opened(close_frames=True, max_frame_size=None, **limits)
        self.now = 100.0
        self.peers = {side: Sender(side, self.order) for side in Side}

    def step(self) -> None:
        """Something happens, and then some time passes."""
        peer = self.peers[self.order.choice(list(Side))]
        what = self.order.random()
        if what < 0.3:
            peer.add_frame()
        elif what < 0.9:
            self.pass_on(peer, self.order.choice((1, 2, 5, 50, 1000, 100_000)))
        peer.answer()
        self.wait(self.order.choice((0.0, 0.0, 0.1, 1.0)))

    def pass_on(self, peer: Sender, size: int) -> None:
        if data := peer.send(size):
            passed = self.tunnel.inbound(peer.side).receive_data(data, self.now)
            assert passed is not None
            self.peers[peer.side.other].get(passed)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = self.tunnel.next_timeout()
        if due is not None and self.now >= due:
            self.tunnel.handle_timeout(self.now, NOTHING)
            for side, data in self.tunnel.data_to_send():
                self.peers[side].get(data)

    def finish(self) -> None:
        """Send all that is left, until no Ping is unanswered."""
        while not all(peer.is_done for peer in self.peers.values()):
            for peer in self.peers.values():
                self.pass_on(peer, 1 << 20)
                peer.answer()


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([0.5, 2.0, 10.0]))
def test_each_side_gets_what_the_other_sent_and_pings_between_frames(seed: int, interval: float) -> None:
    conversation = Conversation(seed, client_heartbeat=interval, upstream_heartbeat=interval, heartbeat_timeout=1000)
    for _ in range(150):
        conversation.step()
    conversation.finish()
    for side, peer in conversation.peers.items():
        assert peer.received(own=False) == conversation.peers[side.other].sent
        assert all(ping.masked is (side is UPSTREAM) for ping in peer.received(own=True))
        way = conversation.tunnel.inbound(side.other)
        assert way.frames == len(conversation.peers[side.other].sent)


def test_there_are_pings_in_such_conversations() -> None:
    conversation = Conversation(1, client_heartbeat=0.5, upstream_heartbeat=0.5, heartbeat_timeout=1000)
    for _ in range(500):
        conversation.step()
    conversation.finish()
    assert all(len(peer.received(own=True)) > 20 for peer in conversation.peers.values())
    assert all(conversation.tunnel.round_trips(side) for side in Side)


@pytest.mark.parametrize("seed", range(20))
def test_without_heartbeats_no_frame_is_inserted(seed: int) -> None:
    conversation = Conversation(seed)
    assert isinstance(conversation.tunnel, Tunnel)
    for _ in range(200):
        conversation.step()
    conversation.finish()
    assert all(peer.received(own=True) == [] for peer in conversation.peers.values())
