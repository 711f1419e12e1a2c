"""Whole lives of tunnels by chance: two peers that talk, fall silent, and answer every Ping they get.

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
# What the peers' own Pings and Pongs say; it is not as long as the gateway's.
OWN = b"peer"


class Talker:
    """One side: it sends frames of its own, and a Pong for each Ping, in pieces of any size."""

    def __init__(self, side: Side, order: random.Random) -> None:
        self.side = side
        self.key = KEY if side is CLIENT else b""
        self._order = order
        self._waiting = b""
        self._received = b""
        self._answered = 0
        self.said: list[Frame] = []
        self.pings = 0

    def heard(self, *, own: bool) -> list[Frame]:
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
                self.said += parse(pong)
            self._waiting += pong
        self._answered = len(pings)

    def talk(self) -> None:
        size = self._order.choice((0, 1, 60, 125, 126, 400, 70_000))
        kind = self._order.choice((TEXT, BINARY, PING, PONG))
        made = frame(kind, OWN if kind in (PING, PONG) else self._order.randbytes(size), key=self.key)
        self.said += parse(made)
        self._waiting += made

    def send(self, size: int) -> bytes:
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return data

    @property
    def is_done(self) -> bool:
        return not self._waiting


class Life:
    """A tunnel between two of them."""

    def __init__(self, seed: int, **limits: Any) -> None:
        self.order = random.Random(seed)
        self.tunnel = opened(close_frames=True, max_frame_size=None, **limits)
        self.now = 100.0
        self.talkers = {side: Talker(side, self.order) for side in Side}

    def step(self) -> None:
        """Something happens, and then some time passes."""
        talker = self.talkers[self.order.choice(list(Side))]
        what = self.order.random()
        if what < 0.3:
            talker.talk()
        elif what < 0.9:
            self.pass_on(talker, self.order.choice((1, 2, 5, 50, 1000, 100_000)))
        talker.answer()
        self.wait(self.order.choice((0.0, 0.0, 0.1, 1.0)))

    def pass_on(self, talker: Talker, size: int) -> None:
        if data := talker.send(size):
            passed = self.tunnel.inbound(talker.side).receive_data(data, self.now)
            assert passed is not None
            self.talkers[talker.side.other].get(passed)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        due = self.tunnel.next_timeout()
        if due is not None and self.now >= due:
            self.tunnel.handle_timeout(self.now, NOTHING)
            for side, data in self.tunnel.data_to_send():
                self.talkers[side].get(data)

    def finish(self) -> None:
        """Let everybody say what is left, until no Ping is unanswered."""
        while not all(talker.is_done for talker in self.talkers.values()):
            for talker in self.talkers.values():
                self.pass_on(talker, 1 << 20)
                talker.answer()


@settings(deadline=None)
@given(st.integers(0, 1 << 32), st.sampled_from([0.5, 2.0, 10.0]))
def test_each_side_gets_what_the_other_sent_and_pings_between_frames(seed: int, interval: float) -> None:
    life = Life(seed, client_heartbeat=interval, upstream_heartbeat=interval, heartbeat_timeout=1000)
    for _ in range(150):
        life.step()
    life.finish()
    for side, talker in life.talkers.items():
        assert talker.heard(own=False) == life.talkers[side.other].said
        assert all(ping.masked is (side is UPSTREAM) for ping in talker.heard(own=True))
        way = life.tunnel.inbound(side.other)
        assert way.frames == len(life.talkers[side.other].said)


def test_there_are_pings_in_such_lives() -> None:
    life = Life(1, client_heartbeat=0.5, upstream_heartbeat=0.5, heartbeat_timeout=1000)
    for _ in range(500):
        life.step()
    life.finish()
    assert all(len(talker.heard(own=True)) > 20 for talker in life.talkers.values())
    assert all(life.tunnel.round_trips(side) for side in Side)


@pytest.mark.parametrize("seed", range(20))
def test_without_heartbeats_nothing_is_put_in(seed: int) -> None:
    life = Life(seed)
    assert isinstance(life.tunnel, Tunnel)
    for _ in range(200):
        life.step()
    life.finish()
    assert all(talker.heard(own=True) == [] for talker in life.talkers.values())
