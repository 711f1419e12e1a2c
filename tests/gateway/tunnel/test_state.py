"""A tunnel that goes from one process to another: what passes before and after is what was sent."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorline.gateway.tunnel.machine import Phase, Tunnel
from moorline.gateway.tunnel.state import TunnelState, Unreadable, decode, encode
from tests.gateway.tunnel.test_direction import pieces, streams
from tests.support.tunnels import CLIENT, NOTHING, UPSTREAM, opened
from tests.support.websocket_frames import PING, PONG, TEXT, close_frame, frame, parse

BEATING = {"client_heartbeat": 5.0, "upstream_heartbeat": 5.0, "close_frames": True, "message_timeout": 30.0}


def moved(tunnel: Tunnel, **limits: object) -> Tunnel:
    """The same tunnel in another process, which begins at 500."""
    sent = encode(tunnel.state(100, lambda side: b""))
    there = opened(**{**BEATING, **limits})
    there.restore(decode(TunnelState, sent))
    return there


def passed(tunnel: Tunnel, data: bytes) -> bytes:
    """What of these bytes from the client passes."""
    out = tunnel.client.receive_data(data, 101)
    output = b"" if out is None else out
    while out is None or tunnel.client.backlog:
        if out is None:
            tunnel.frames_received(CLIENT, 101)
            output += b"".join(each for side, each in tunnel.data_to_send() if side is UPSTREAM)
        if not tunnel.client.backlog:
            return output
        out = tunnel.client.receive_backlog()
        output += out or b""
    return output


@settings(deadline=None, max_examples=50)  # It moves at each read, which may be one byte.
@given(st.lists(streams, min_size=1, max_size=3), st.lists(st.integers(1, 150), min_size=1, max_size=4))
def test_a_tunnel_that_moves_between_any_two_reads_passes_what_was_sent(
    parts: list[list[bytes]], sizes: list[int]
) -> None:
    stream = b"".join(b"".join(part) for part in parts)
    tunnel, output = opened(**BEATING), b""
    for chunk in pieces(stream, sizes):
        tunnel = moved(tunnel)
        output += passed(tunnel, chunk)
    assert output == stream
    assert tunnel.client.size == len(stream)


@given(st.integers(1, 40))
def test_a_ping_that_waits_for_a_boundary_is_sent_by_the_next_process(cut: int) -> None:
    tunnel, whole = opened(**BEATING), frame(TEXT, b"x" * 40, key=b"mask")
    output = passed(tunnel, whole[:cut])
    tunnel.handle_timeout(120, NOTHING)
    tunnel.data_to_send()
    output += passed(moved(tunnel), whole[cut:])
    data, ping = parse(output)
    assert (data.opcode, ping.opcode) == (TEXT, PING)


def test_the_next_process_removes_the_pong_that_answers_the_last_ones_ping() -> None:
    tunnel = opened(**BEATING)
    tunnel.handle_timeout(120, NOTHING)
    (ping,) = (parse(data)[0] for side, data in tunnel.data_to_send() if side is CLIENT)
    pong = frame(PONG, ping.payload, key=b"mask")
    there = moved(tunnel)
    assert passed(there, pong[:5]) == b""
    assert passed(moved(there), pong[5:] + frame(TEXT, b"next")) == frame(TEXT, b"next")


def test_a_closing_tunnel_keeps_its_deadline_and_who_closed_it() -> None:
    tunnel = opened(**BEATING)
    passed(tunnel, close_frame(4000, "bye", key=b"mask"))
    there = moved(tunnel)
    assert (there.phase, there.code, there.next_timeout()) == (Phase.CLOSING, 4000, tunnel.next_timeout())


def test_the_timers_run_on() -> None:
    tunnel = opened(**BEATING)
    passed(tunnel, frame(TEXT, b"half of it", key=b"mask")[:7])
    assert moved(tunnel).next_timeout() == tunnel.next_timeout()


def test_the_limits_are_those_of_the_next_process() -> None:
    there = moved(opened(**BEATING), client_heartbeat=None, upstream_heartbeat=None, proxy_read_timeout=7)
    assert there.next_timeout() == 107


def broken() -> Iterator[bytes]:
    good = json.loads(encode(opened(**BEATING).state(100, lambda side: b"")))
    yield b"{"
    yield b"[]"
    yield json.dumps({**good, "version": good["version"] + 1}).encode()
    yield json.dumps({**good, "version": good["version"] - 1}).encode()
    yield json.dumps({**good, "code": "1006"}).encode()
    yield json.dumps({**good, "code": True}).encode()
    yield json.dumps({**good, "more": 1}).encode()
    yield json.dumps({**good, "client": {**good["client"], "held": "?"}}).encode()


@pytest.mark.parametrize("data", tuple(broken()))
def test_bytes_that_are_no_state_are_refused_as_a_whole(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(TunnelState, data)
