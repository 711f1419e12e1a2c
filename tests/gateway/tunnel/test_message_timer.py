"""A client's message that does not come to an end, on the machine's clock."""

import pytest

from moorline.gateway.cause import Reason
from moorline.gateway.tunnel.endings import Outcome
from moorline.gateway.tunnel.machine import Phase, Tunnel
from tests.support.tunnels import CLIENT, NOTHING, UPSTREAM, close_frames, opened, receive
from tests.support.websocket_frames import BINARY, PING, frame

KEY = b"\x01\x02\x03\x04"
HALF = frame(BINARY, bytes(900), key=KEY)[:400]
FRAGMENT, CONTINUED = b"\x01\x81" + KEY + b"a", b"\x00\x81" + KEY + b"b"


def timed(**changes: object) -> Tunnel:
    """With a message_timeout of 60 s and other timers that are longer."""
    return opened(**{"close_frames": True, "message_timeout": 60, "proxy_read_timeout": 1000, **changes})


def pass_time(tunnel: Tunnel, until: float, data: bytes = b"") -> None:
    """Have each deadline come, and each second these bytes of the client."""
    for now in range(102, int(until) + 1):
        if data and tunnel.outcome is None:
            receive(tunnel, CLIENT, data, now)
        while tunnel.outcome is None and (due := tunnel.next_timeout()) is not None and due <= now:
            tunnel.handle_timeout(due, NOTHING)


def test_a_frame_that_is_not_complete_ends_between_one_and_two_timeouts_later() -> None:
    tunnel = timed()
    receive(tunnel, CLIENT, HALF, 101)
    pass_time(tunnel, 161)
    assert tunnel.phase is Phase.OPEN
    pass_time(tunnel, 222)
    assert tunnel.outcome == Outcome(CLIENT, Reason.MESSAGE_TIMEOUT)
    assert close_frames(tunnel) == {CLIENT: (1013, "message_timeout")}


@pytest.mark.parametrize("more", [CONTINUED, frame(PING, b"", key=KEY)], ids=["fragments", "Pings"])
def test_frames_that_keep_coming_do_not_put_off_the_end_of_a_message(more: bytes) -> None:
    tunnel = timed()
    receive(tunnel, CLIENT, FRAGMENT, 101)
    pass_time(tunnel, 225, more)
    assert tunnel.outcome == Outcome(CLIENT, Reason.MESSAGE_TIMEOUT)


def test_messages_that_are_complete_at_times_have_all_the_time_between_them() -> None:
    tunnel = timed()
    pass_time(tunnel, 900, frame(BINARY, b"x", key=KEY) + HALF + frame(BINARY, bytes(900), key=KEY)[400:])
    assert (tunnel.outcome, tunnel.phase) == (None, Phase.OPEN)


def test_a_message_that_comes_at_4_kib_a_second_goes_on() -> None:
    tunnel = timed(max_frame_size=1 << 30)
    receive(tunnel, CLIENT, frame(BINARY, bytes(1 << 21), key=KEY)[:1000], 101)
    for now in range(110, 450, 10):
        receive(tunnel, CLIENT, bytes(44 << 10), now)
        tunnel.handle_timeout(now, NOTHING)
    assert tunnel.outcome is None


def test_a_message_of_the_upstream_has_no_deadline() -> None:
    tunnel = timed()
    receive(tunnel, UPSTREAM, frame(BINARY, bytes(900))[:400], 101)
    pass_time(tunnel, 500)
    assert tunnel.outcome is None


def test_the_time_in_which_the_upstream_does_not_read_is_not_the_clients() -> None:
    tunnel = timed(proxy_send_timeout=10_000)
    receive(tunnel, CLIENT, HALF, 101)
    tunnel.writing_paused(UPSTREAM, 102, 500)
    for now in range(160, 400, 20):
        tunnel.handle_timeout(now, lambda side: 500)
    assert tunnel.phase is Phase.OPEN
    tunnel.writing_resumed(UPSTREAM, 400)
    pass_time(tunnel, 600)
    assert tunnel.outcome == Outcome(CLIENT, Reason.MESSAGE_TIMEOUT)


def test_without_close_frames_the_end_is_a_fin() -> None:
    tunnel = timed(close_frames=False)
    receive(tunnel, CLIENT, HALF, 101)
    pass_time(tunnel, 222)
    assert tunnel.outcome == Outcome(CLIENT, Reason.MESSAGE_TIMEOUT)
    assert close_frames(tunnel) == {}


def test_off_is_no_limit() -> None:
    tunnel = timed(message_timeout=None)
    receive(tunnel, CLIENT, HALF, 101)
    pass_time(tunnel, 900)
    assert tunnel.outcome is None
