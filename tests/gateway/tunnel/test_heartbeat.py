"""When a Ping is due, which Pong answers it, and which peer is dead."""

import math

import pytest

from moorline.gateway.tunnel.direction import Direction
from moorline.gateway.tunnel.heartbeat import Beat, Heartbeat
from tests.support.websocket_frames import PONG, TEXT, frame, parse

INTERVAL, TIMEOUT = 20.0, 8.0


def nothing() -> int:
    """Every byte has been taken."""
    return 0


class Peer:
    """A peer since 100, and its heartbeat."""

    def __init__(self, *, masked: bool = False) -> None:
        self.inbound, self.outbound = Direction(100), Direction(100)
        self.observed: list[float] = []
        self.beat = Heartbeat(
            self.inbound,
            self.outbound,
            interval=INTERVAL,
            timeout=TIMEOUT,
            masked=masked,
            randbytes=lambda size: bytes(range(1, size + 1)),
            observe=self.observed.append,
        )

    def sends(self, data: bytes, now: float) -> bytes | None:
        return self.inbound.receive_data(data, now)

    def answers(self, ping: bytes, now: float) -> bytes | None:
        return self.sends(frame(PONG, parse(ping)[0].payload), now)


@pytest.fixture
def peer() -> Peer:
    return Peer()


# When -----------------------------------------------------------------------------------------------------------------


def test_a_ping_is_due_after_silence(peer: Peer) -> None:
    assert peer.beat.next_timeout() == 120
    assert peer.beat.handle_timeout(119.6, nothing) is Beat.NOTHING
    assert peer.beat.handle_timeout(120, nothing) is Beat.PING


def test_any_byte_defers_the_ping(peer: Peer) -> None:
    peer.sends(b"\x81", 115)
    assert peer.beat.next_timeout() == 135
    assert peer.beat.handle_timeout(120, nothing) is Beat.NOTHING


def test_after_a_restart_the_interval_begins_again(peer: Peer) -> None:
    peer.beat.restart(119)
    assert peer.beat.next_timeout() == 139


def test_after_a_pong_the_next_is_due_an_interval_later(peer: Peer) -> None:
    peer.answers(peer.beat.ping(120), 121)
    assert peer.beat.next_timeout() == 141


def test_a_deferred_ping_is_due_once(peer: Peer) -> None:
    peer.beat.defer(120)
    assert [peer.beat.handle_timeout(now, nothing) for now in (124, 128, 132, 200)] == [Beat.NOTHING] * 4
    peer.beat.ping(200)
    assert peer.beat.next_timeout() == 204


# Ping and Pong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
def test_a_ping_is_masked_only_where_it_has_to_be(*, masked: bool) -> None:
    (ping,) = parse(Peer(masked=masked).beat.ping(120))
    assert (ping.first, ping.masked, len(ping.payload)) == (0x89, masked, 8)


def test_its_pong_is_removed_and_timed(peer: Peer) -> None:
    assert peer.answers(peer.beat.ping(120), 120.25) == b""
    assert list(peer.beat.round_trips) == peer.observed == [0.25]


def test_a_pong_is_removed_once(peer: Peer) -> None:
    ping = peer.beat.ping(120)
    peer.answers(ping, 121)
    again = frame(PONG, parse(ping)[0].payload)
    assert peer.sends(again, 122) == again


def test_a_late_pong_is_removed_after_the_next_ping(peer: Peer) -> None:
    first, second = peer.beat.ping(120), peer.beat.ping(150)
    assert peer.answers(first, 151) == b""
    assert peer.answers(second, 152) == b""
    assert peer.observed == [2.0]


def test_a_replayed_pong_is_not_removed_while_a_later_one_is_due(peer: Peer) -> None:
    first, second = peer.beat.ping(120), peer.beat.ping(150)
    assert peer.answers(first, 151) == b""
    assert peer.answers(first, 152) == frame(PONG, parse(first)[0].payload)
    assert peer.answers(second, 153) == b""


def test_one_pong_for_the_latest_answers_all(peer: Peer) -> None:
    first, second = peer.beat.ping(120), peer.beat.ping(150)
    assert peer.answers(second, 151) == b""
    assert peer.answers(first, 152) != b""


@pytest.mark.parametrize("payload", [b"", b"\x01\x02\x03\x04", b"\x01\x02\x03\x04\0\0\0\x02", b"\0\0\0\0\0\0\0\x01"])
def test_pongs_to_other_pings_pass(peer: Peer, payload: bytes) -> None:
    peer.beat.ping(120)
    pong = frame(PONG, payload)
    assert peer.sends(pong, 121) == pong


def test_only_the_latest_round_trips_are_kept(peer: Peer) -> None:
    for number in range(200):
        peer.answers(peer.beat.ping(1000 * number), 1000 * number + number)
    assert sorted(peer.beat.round_trips) == list(range(136, 200))
    assert len(peer.observed) == 200


# Dead -----------------------------------------------------------------------------------------------------------------


def lives_until(peer: Peer, unsent: list[int]) -> float:
    """When it is dead, with so many bytes unsent at each check."""
    for waiting in unsent:
        now = peer.beat.next_timeout()
        if peer.beat.handle_timeout(now, lambda: waiting) is Beat.DEAD:  # noqa: B023 - called at once
            return now
    return math.inf


def test_a_peer_that_is_silent_after_a_ping_is_dead(peer: Peer) -> None:
    peer.beat.ping(120)
    assert lives_until(peer, [0, 0]) == 128


def test_a_peer_that_sends_a_byte_after_a_ping_is_alive(peer: Peer) -> None:
    peer.beat.ping(120)
    peer.sends(frame(TEXT, b"busy"), 127)
    assert peer.beat.handle_timeout(128, nothing) is Beat.NOTHING
    assert peer.beat.next_timeout() == 147


def test_a_byte_at_the_time_of_the_ping_shows_that_the_peer_is_alive(peer: Peer) -> None:
    peer.beat.ping(120)
    peer.sends(frame(TEXT, b"busy"), 120)
    assert peer.beat.next_timeout() == 140


def test_a_pong_before_the_check_does_not_delay_the_next_ping(peer: Peer) -> None:
    quick = Heartbeat(peer.inbound, peer.outbound, interval=1, timeout=8, masked=False, randbytes=bytes)
    peer.answers(quick.ping(101), 101.5)
    assert quick.next_timeout() == 102.5
    quick.ping(102.5)
    assert quick.next_timeout() == 103.5
    assert quick.handle_timeout(103.5, nothing) is Beat.NOTHING
    assert quick.next_timeout() == 104.5


@pytest.mark.parametrize(("before", "after"), [(None, [5000, 5000]), (5000, [5000])], ids=["unknown", "known"])
def test_a_peer_that_takes_no_bytes_sent_before_the_ping_is_dead(
    peer: Peer, before: int | None, after: list[int]
) -> None:
    peer.beat.ping(120, before)
    assert lives_until(peer, after) == 128


@pytest.mark.parametrize(
    ("before", "after"), [(None, [5000, 4000, 3000, 3000]), (5000, [4000, 3000, 3000])], ids=["unknown", "known"]
)
def test_a_peer_that_takes_bytes_sent_before_the_ping_is_alive(
    peer: Peer, before: int | None, after: list[int]
) -> None:
    peer.beat.ping(120, before)
    assert lives_until(peer, after) == 136


def test_bytes_sent_after_the_ping_do_not_keep_a_peer_alive(peer: Peer) -> None:
    peer.beat.ping(120, 5000)
    peer.outbound.receive_data(bytes(9000), 121)
    # The Ping is among what has been taken.
    assert lives_until(peer, [9000]) == 128


def test_after_a_restart_the_ping_is_sent_again_before_the_peer_is_dead(peer: Peer) -> None:
    peer.beat.ping(120)
    peer.beat.restart(127)
    assert peer.beat.handle_timeout(128, nothing) is Beat.NOTHING
    assert peer.beat.next_timeout() == 147
