"""The frames that the state machine sends: Close frames and Pings, when, to which side, and at boundaries only."""

from typing import Any

import pytest

from moorline.gateway.cause import Reason
from moorline.gateway.tunnel.endings import Outcome, Side, Teardown
from moorline.gateway.tunnel.machine import Tunnel
from tests.support.tunnels import CLIENT, NOTHING, UPSTREAM, close_frames, opened, receive
from tests.support.websocket_frames import BINARY, PING, TEXT, close_frame, frame, parse

# Close frames ---------------------------------------------------------------------------------------------------------

TELLING = {"close_frames": True}
HALF = frame(TEXT, b"half of it")[:4]


@pytest.mark.parametrize("end", ["receive_eof", "connection_lost"])
@pytest.mark.parametrize(
    ("side", "told"),
    [(CLIENT, {UPSTREAM: (1001, "client went away")}), (UPSTREAM, {CLIENT: (1014, "backend connection lost")})],
    ids=["client", "backend"],
)
def test_the_remaining_side_gets_a_close_frame_that_names_the_loss(
    side: Side, told: dict[Side, tuple[int, str]], end: str
) -> None:
    tunnel = opened(**TELLING)
    getattr(tunnel, end)(side, 101)
    assert close_frames(tunnel) == told
    assert dict(tunnel.teardowns())[side.other] is Teardown.LINGER
    assert tunnel.code == told[side.other][0]


def test_proxy_read_timeout_is_sent_to_both() -> None:
    tunnel = opened(**TELLING)
    tunnel.handle_timeout(120, NOTHING)
    assert close_frames(tunnel) == {CLIENT: (1001, "proxy_read_timeout"), UPSTREAM: (1001, "proxy_read_timeout")}
    assert tunnel.teardowns() == [(CLIENT, Teardown.LINGER), (UPSTREAM, Teardown.LINGER)]


def test_proxy_send_timeout_is_sent_to_the_client() -> None:
    tunnel = opened(**TELLING)
    tunnel.writing_paused(UPSTREAM, 101, 500)
    tunnel.handle_timeout(111, lambda side: 9000)
    assert close_frames(tunnel) == {CLIENT: (1013, "proxy_send_timeout")}
    assert tunnel.teardowns() == [(CLIENT, Teardown.LINGER), (UPSTREAM, Teardown.ABORT)]


def test_send_timeout_is_sent_to_the_upstream() -> None:
    tunnel = opened(**TELLING)
    tunnel.writing_paused(CLIENT, 101, 500)
    tunnel.handle_timeout(109, lambda side: 9000)
    assert close_frames(tunnel) == {UPSTREAM: (1001, "send_timeout")}
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT), (UPSTREAM, Teardown.LINGER)]


def test_a_shutdown_is_sent_to_both() -> None:
    tunnel = opened(**TELLING)
    tunnel.shut_down(101)
    assert close_frames(tunnel) == {CLIENT: (1001, "gateway restarting"), UPSTREAM: (1001, "gateway restarting")}


@pytest.mark.parametrize(("side", "other_code", "code"), [(CLIENT, 1001, 1009), (UPSTREAM, 1014, 1014)])
def test_a_frame_over_the_limit_closes_its_sender_with_1009_and_the_log_has_the_clients_code(
    side: Side, other_code: int, code: int
) -> None:
    tunnel = opened(**TELLING)
    receive(tunnel, side, frame(BINARY, b"fits") + frame(BINARY, bytes(1001)), 101)
    (other, passed), *_ = sent = tunnel.data_to_send()
    assert (other, passed) == (side.other, frame(BINARY, b"fits"))
    told = {to: parse(data)[0].close[0] for to, data in sent[1:]}
    assert told == {side: 1009, side.other: other_code}
    assert tunnel.outcome == Outcome(side, Reason.MAX_FRAME_SIZE)
    assert (tunnel.code, tunnel.inbound(side).size) == (code, 6)


def test_no_close_frame_is_sent_within_a_frame() -> None:
    tunnel = opened(**TELLING)
    receive(tunnel, UPSTREAM, HALF, 101)
    tunnel.shut_down(102)
    assert close_frames(tunnel) == {UPSTREAM: (1001, "gateway restarting")}
    assert tunnel.teardowns() == [(CLIENT, Teardown.LINGER), (UPSTREAM, Teardown.LINGER)]


def test_no_close_frame_is_sent_in_a_stream_that_is_lost() -> None:
    tunnel = opened(**TELLING)
    receive(tunnel, UPSTREAM, b"\x08\x00", 101)
    tunnel.receive_eof(UPSTREAM, 102)
    assert close_frames(tunnel) == {}
    assert tunnel.code == 1006


@pytest.mark.parametrize("side", list(Side))
def test_no_close_frame_is_sent_behind_another(side: Side) -> None:
    tunnel = opened(**TELLING)
    receive(tunnel, side, close_frame(4001), 101)
    assert tunnel.data_to_send() == [(side.other, close_frame(4001))]
    tunnel.receive_eof(side, 102)
    assert tunnel.data_to_send() == []
    assert tunnel.outcome == Outcome(side, Reason.CLOSED)
    assert tunnel.code == 4001


def test_the_side_that_closed_first_ended_it_even_if_the_other_disconnects_first() -> None:
    tunnel = opened(**TELLING)
    receive(tunnel, CLIENT, close_frame(1000), 101)
    receive(tunnel, UPSTREAM, close_frame(1000), 102)
    tunnel.receive_eof(UPSTREAM, 103)
    assert tunnel.outcome == Outcome(CLIENT, Reason.CLOSED)
    assert len(tunnel.data_to_send()) == 2


def test_a_client_whose_close_is_not_answered_gets_1014_when_the_upstream_is_gone() -> None:
    tunnel = opened(**TELLING)
    receive(tunnel, CLIENT, close_frame(1000), 101)
    tunnel.data_to_send()
    tunnel.receive_eof(UPSTREAM, 102)
    assert close_frames(tunnel) == {CLIENT: (1014, "backend connection lost")}


def test_without_close_frames_there_is_no_limit_and_no_frame_is_sent() -> None:
    tunnel = opened()
    receive(tunnel, UPSTREAM, frame(BINARY, bytes(1001)), 101)
    tunnel.shut_down(102)
    assert tunnel.data_to_send() == []
    assert (tunnel.code, tunnel.upstream.frames) == (1006, 1)


# close_timeout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", list(Side))
def test_after_a_close_frame_both_sides_have_close_timeout_to_end(side: Side) -> None:
    tunnel = opened(**TELLING)
    receive(tunnel, side, close_frame(1000), 101)
    assert tunnel.next_timeout() == 104
    receive(tunnel, side, b"x", 103)
    tunnel.handle_timeout(104, NOTHING)
    assert tunnel.outcome == Outcome(None, Reason.CLOSE_TIMEOUT)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT), (UPSTREAM, Teardown.ABORT)]
    assert tunnel.code == 1000


def test_a_side_that_goes_on_after_its_close_frame_is_cut() -> None:
    tunnel = opened(**TELLING)
    tunnel.receive_eof(UPSTREAM, 101)
    tunnel.connection_lost(UPSTREAM, 101)
    tunnel.teardowns()
    tunnel.client.receive_late(b"x", 103)
    assert tunnel.next_timeout() == 104
    tunnel.handle_timeout(104, NOTHING)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT)]


def test_a_side_that_takes_nothing_at_the_end_is_cut() -> None:
    tunnel = opened(**TELLING)
    tunnel.writing_paused(CLIENT, 100, 500)
    tunnel.receive_eof(UPSTREAM, 101)
    tunnel.connection_lost(UPSTREAM, 101)
    tunnel.teardowns()
    tunnel.handle_timeout(104, lambda side: 9000)
    assert tunnel.teardowns() == [(CLIENT, Teardown.ABORT)]


def test_without_close_frames_a_close_restarts_the_idle_timer_only() -> None:
    tunnel = opened()
    receive(tunnel, CLIENT, close_frame(1000), 101)
    assert tunnel.next_timeout() == 121


# Heartbeats -----------------------------------------------------------------------------------------------------------


def beating(**changes: Any) -> Tunnel:
    """Silent sides get a Ping after 5 s and have 4 to answer."""
    return opened(**{**TELLING, "client_heartbeat": 5, "upstream_heartbeat": 5, **changes})


def pings(tunnel: Tunnel, now: float) -> dict[Side, bytes]:
    """The Pings that it sends at this time."""
    tunnel.handle_timeout(now, NOTHING)
    sent = dict(tunnel.data_to_send())
    assert all(parse(data)[0].opcode == PING for data in sent.values())
    return sent


def test_each_silent_side_gets_a_ping() -> None:
    tunnel = beating()
    assert tunnel.next_timeout() == 105
    assert set(pings(tunnel, 105)) == {CLIENT, UPSTREAM}


def test_a_side_that_sends_gets_no_ping() -> None:
    tunnel = beating()
    receive(tunnel, CLIENT, frame(TEXT), 103)
    assert set(pings(tunnel, 105)) == {UPSTREAM}


@pytest.mark.parametrize("side", list(Side))
def test_a_heartbeat_can_be_off(side: Side) -> None:
    tunnel = beating(**{"client_heartbeat" if side is CLIENT else "upstream_heartbeat": None})
    assert set(pings(tunnel, 105)) == {side.other}


def test_a_ping_restarts_the_idle_timer() -> None:
    tunnel = beating(proxy_read_timeout=6, upstream_heartbeat=None)
    pings(tunnel, 105)
    tunnel.client.receive_data(frame(TEXT), 105)
    assert tunnel.next_timeout() == 110
    tunnel.handle_timeout(106, NOTHING)
    assert tunnel.outcome is None


@pytest.mark.parametrize("side", list(Side))
def test_a_side_that_does_not_answer_is_dead_and_both_get_1011(side: Side) -> None:
    tunnel = beating()
    pings(tunnel, 105)
    receive(tunnel, side.other, frame(TEXT), 106)
    tunnel.handle_timeout(107, NOTHING)
    tunnel.handle_timeout(109, NOTHING)
    assert tunnel.outcome == Outcome(side, Reason.HEARTBEAT_TIMEOUT)
    assert close_frames(tunnel) == {CLIENT: (1011, "heartbeat timeout"), UPSTREAM: (1011, "heartbeat timeout")}
    assert dict(tunnel.teardowns()) == {CLIENT: Teardown.LINGER, UPSTREAM: Teardown.LINGER}


def test_a_ping_waits_for_the_end_of_the_frame() -> None:
    tunnel = beating(upstream_heartbeat=None)
    tunnel.upstream.receive_data(HALF, 104)
    assert pings(tunnel, 105) == {}
    rest = tunnel.upstream.receive_data(frame(TEXT, b"half of it")[4:] + frame(TEXT, b"next"), 106)
    assert rest is not None
    assert [each.opcode for each in parse(HALF + rest)] == [TEXT, PING, TEXT]


@pytest.mark.parametrize("stalled", list(Side))
def test_while_a_side_stalls_no_ping_is_sent_and_no_side_is_dead(stalled: Side) -> None:
    tunnel = beating(send_timeout=1000, proxy_send_timeout=1000, proxy_read_timeout=1000)
    pings(tunnel, 105)
    tunnel.writing_paused(stalled, 106, 500)
    for now in range(107, 200):
        assert pings(tunnel, now) == {}
    assert tunnel.outcome is None
    tunnel.writing_resumed(stalled, 200)
    assert pings(tunnel, 204) == {}
    assert set(pings(tunnel, 205)) == {CLIENT, UPSTREAM}


@pytest.mark.parametrize("side", list(Side))
def test_no_ping_is_sent_behind_a_close(side: Side) -> None:
    tunnel = beating(close_timeout=1000)
    receive(tunnel, side, close_frame(1000), 101)
    tunnel.data_to_send()
    assert pings(tunnel, 110) == {}


@pytest.mark.parametrize("side", list(Side))
def test_no_ping_is_sent_while_a_stream_is_lost(side: Side) -> None:
    tunnel = beating()
    receive(tunnel, side, b"\x08\x00", 101)
    assert pings(tunnel, 110) == {}
    assert tunnel.outcome is None
