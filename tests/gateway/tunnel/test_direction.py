"""One direction: it must never change a byte, hold one back without need, or insert a frame within another."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.gateway.common.web import frames
from moorline.gateway.common.web.frames import CloseCode, Opcode
from moorline.gateway.tunnel.direction import Direction
from tests.support.websocket_frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close_frame,
    frame,
    parse,
)

KEY = b"\x01\x02\x03\x04"
OURS, INJECTED = b"our ping", frame(PING, b"injected")


def feed(direction: Direction, *chunks: bytes) -> bytes:
    """What it passes on of all chunks."""
    return b"".join(_passed(direction, chunk) for chunk in chunks)


def _passed(direction: Direction, chunk: bytes) -> bytes:
    passed = direction.receive_data(chunk, 1.0)
    output = direction.take() if passed is None else passed
    while direction.backlog:
        passed = direction.receive_backlog()
        output += direction.take() if passed is None else passed
    return output


def pieces(stream: bytes, sizes: list[int]) -> list[bytes]:
    """The stream cut into pieces of these sizes, over and over."""
    chunks: list[bytes] = []
    at = 0
    while at < len(stream):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(stream[at : at + size])
        at += size
    return chunks


keys = st.just(b"") | st.binary(min_size=4, max_size=4)
payloads = st.binary(max_size=140) | st.integers(0, 700).map(bytes)
data_frames = st.builds(
    frame, st.sampled_from([0, 1, 2, 3, 7]), payloads, key=keys, fin=st.booleans(), rsv=st.integers(0, 7)
)
control_frames = st.builds(frame, st.sampled_from([PING, PONG, 11, 15]), st.binary(max_size=125), key=keys)
streams = st.lists(data_frames | control_frames, max_size=12)
cuts = st.lists(st.integers(1, 40) | st.integers(1, 1000), min_size=1, max_size=8)


# Nothing changes ------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=400), cuts)
def test_any_bytes_in_any_pieces_pass_unchanged_and_at_once(stream: bytes, sizes: list[int]) -> None:
    direction = Direction(0)
    for chunk in pieces(stream, sizes):
        assert _passed(direction, chunk) == chunk
    assert direction.size == len(stream)


@given(streams, cuts)
def test_frames_in_any_pieces_are_counted_and_their_ends_known(stream: list[bytes], sizes: list[int]) -> None:
    direction, at, ends = Direction(0), 0, {0}
    for each in stream:
        ends.add(max(ends) + len(each))
    for chunk in pieces(b"".join(stream), sizes):
        assert _passed(direction, chunk) == chunk
        at += len(chunk)
        assert direction.at_boundary == (at in ends)
    assert direction.frames == len(stream)
    assert not direction.lost


@given(streams, cuts, st.integers(0, 10))
def test_a_frame_is_inserted_at_the_first_boundary(stream: list[bytes], sizes: list[int], wanted_at: int) -> None:
    direction, output, asked_at = Direction(0), b"", -1
    for number, chunk in enumerate(pieces(b"".join(stream), sizes)):
        if number == wanted_at and not direction.at_boundary:
            direction.pending, asked_at = lambda now: INJECTED, len(output)
        output += _passed(direction, chunk)
    if asked_at < 0:
        assert output == b"".join(stream)
        return
    ends = [len(b"".join(stream[:count])) for count in range(len(stream) + 1)]
    place = min(end for end in ends if end > asked_at)
    assert output == b"".join(stream)[:place] + INJECTED + b"".join(stream)[place:]


@given(streams, streams, keys, cuts)
def test_the_pong_to_the_gateways_ping_is_removed_at_any_place(
    before: list[bytes], after: list[bytes], key: bytes, sizes: list[int]
) -> None:
    direction = Direction(0)
    direction.awaits = lambda payload, now: payload == OURS
    ours = frame(PONG, OURS, key=key)
    passed = feed(direction, *pieces(b"".join([*before, ours, *after]), sizes))
    expected = b"".join([*before, *after])
    assert passed == expected
    assert (direction.size, direction.frames) == (len(expected), len(before) + len(after))


@given(streams, cuts)
def test_while_a_pong_is_awaited_only_pongs_are_held(stream: list[bytes], sizes: list[int]) -> None:
    direction, sent, passed = Direction(0), b"", b""
    direction.awaits = lambda payload, now: False
    ends = [len(b"".join(stream[:count])) for count in range(len(stream) + 1)]
    for chunk in pieces(b"".join(stream), sizes):
        sent += chunk
        passed += _passed(direction, chunk)
        begun = max(end for end in ends if end <= len(sent))
        holds = sent[begun : begun + 1] == bytes((0x80 | PONG,))
        assert passed == sent[: begun if holds else len(sent)]
        assert not holds or direction.at_boundary


@pytest.mark.parametrize("size", [999, 65_535, 65_536, 1 << 20])
def test_frames_with_long_lengths_are_followed(size: int) -> None:
    direction = Direction(0)
    stream = (frame(BINARY, bytes(size), key=KEY) + frame(BINARY, bytes(size))) * 2
    assert feed(direction, *pieces(stream, [1, 8, size, 3])) == stream
    assert (direction.frames, direction.at_boundary) == (4, True)


def test_many_small_frames_in_one_read_are_all_counted() -> None:
    order = random.Random(1)
    stream = [frame(TEXT, order.randbytes(order.randrange(126)), key=order.choice([b"", KEY])) for _ in range(5000)] + [
        frame(BINARY, bytes(300))
    ]
    direction = Direction(0)
    assert feed(direction, b"".join(stream), b"") == b"".join(stream)
    assert (direction.frames, direction.at_boundary) == (5001, True)


def test_frames_beyond_one_turn_wait_in_the_backlog() -> None:
    direction, each = Direction(0), frame(PING, key=KEY)
    stream = each * 2500
    assert direction.receive_data(stream, 1) is None
    assert (direction.take(), direction.backlog) == (stream[: 1024 * 6], stream[1024 * 6 :])
    assert (direction.frames, direction.size, direction.at_boundary) == (1024, 1024 * 6, True)
    assert direction.receive_backlog() is None
    assert direction.take() == stream[1024 * 6 : 2048 * 6]
    assert direction.receive_backlog() == stream[2048 * 6 :]
    assert (direction.backlog, direction.frames, direction.size) == (b"", 2500, len(stream))


def test_a_frame_can_be_inserted_before_the_backlog() -> None:
    direction, each = Direction(0), frame(PING)
    direction.receive_data(each[:1], 0)
    direction.pending = lambda now: INJECTED
    assert feed(direction, each[1:] + each * 2000) == each[1:] + INJECTED + each * 2000


@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
def test_an_unfinished_frame_passes_as_it_comes_and_nothing_of_it_is_kept(key: bytes) -> None:
    direction = Direction(0)
    header = frame(BINARY, bytes(1 << 20), key=key)[: 10 + len(key)]
    assert direction.receive_data(header, 0) == header
    for _ in range(16):
        piece = bytes(64 << 10)
        assert direction.receive_data(piece, 1) is piece or direction.at_boundary
    assert direction.at_boundary


# Streams that break rules ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        frame(PING, bytes(126)),
        frame(CLOSE, bytes(70_000)),
        frame(PING, b"half", fin=False),
        b"\x82\x7f" + (1 << 63).to_bytes(8, "big"),
    ],
    ids=["long ping", "longer close", "fragmented ping", "negative length"],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_stream_that_no_extension_could_explain_is_lost_and_still_passes(broken: bytes, size: int) -> None:
    direction = Direction(0, max_payload=1 << 20)
    stream = frame(TEXT, b"well") + broken + frame(TEXT, b"after")
    assert feed(direction, *pieces(stream, [size])) == stream
    assert direction.lost
    assert not direction.at_boundary
    assert direction.frames == 1


@pytest.mark.parametrize(
    "odd",
    [frame(TEXT, b"x", rsv=7), frame(5, b"x"), frame(11, b"x"), frame(TEXT, b"\xff"), frame(CONTINUATION, b"x")],
    ids=["rsv", "reserved", "reserved control", "bad utf-8", "nothing to continue"],
)
@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
def test_a_stream_with_odd_frames_is_followed(odd: bytes, key: bytes) -> None:
    direction = Direction(0)
    stream = odd + frame(TEXT, b"after", key=key)
    assert feed(direction, stream) == stream
    assert (direction.frames, direction.at_boundary, direction.lost) == (2, True, False)


# Close ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("last", [b"", b"last"], ids=["alone", "behind a message"])
def test_the_code_of_a_close_is_read_as_it_passes(key: bytes, size: int, last: bytes) -> None:
    direction = Direction(0)
    stream = (frame(TEXT, last, key=key) if last else b"") + close_frame(4001, "bye", key=key)
    assert feed(direction, *pieces(stream, [size])) == stream
    assert (direction.close_code, direction.at_boundary, direction.frames) == (4001, True, 2 if last else 1)


@pytest.mark.parametrize("payload", [b"", b"\x03"])
def test_a_close_without_a_code_has_1005(payload: bytes) -> None:
    direction = Direction(0)
    feed(direction, frame(CLOSE, payload, key=KEY))
    assert direction.close_code == CloseCode.NO_STATUS


def test_the_first_close_counts() -> None:
    direction = Direction(0)
    feed(direction, close_frame(1000) + close_frame(1011))
    assert direction.close_code == 1000


def test_no_frame_is_inserted_behind_a_close() -> None:
    direction = Direction(0)
    direction.receive_data(close_frame(1000)[:1], 0)
    direction.pending = lambda now: INJECTED
    assert feed(direction, close_frame(1000)[1:], frame(TEXT, b"late")) == close_frame(1000)[1:] + frame(TEXT, b"late")


# Pongs to Pings of others ---------------------------------------------------------------------------------------------


def test_a_pong_that_began_before_our_ping_is_not_held() -> None:
    direction = Direction(0)
    pong = frame(PONG, OURS)
    direction.receive_data(pong[:1], 0)
    direction.awaits = lambda payload, now: True
    assert feed(direction, *pieces(pong[1:], [1])) == pong[1:]


def test_a_frame_can_be_inserted_before_a_pong_that_is_held() -> None:
    direction = Direction(0)
    direction.awaits = lambda payload, now: False
    pong = frame(PONG, b"theirs")
    assert feed(direction, frame(TEXT, b"a") + pong[:4]) == frame(TEXT, b"a")
    assert direction.at_boundary
    direction.pending = lambda now: INJECTED
    assert feed(direction, pong[4:]) == INJECTED + pong


def test_a_pong_too_long_to_be_one_is_not_held() -> None:
    direction = Direction(0)
    direction.awaits = lambda payload, now: True
    pong = frame(PONG, bytes(126))
    assert feed(direction, pong[:2]) == pong[:2]
    assert direction.lost


# A limit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 5000])
@pytest.mark.parametrize("limit", [50, 125, 126, 1000])
@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
def test_a_frame_over_the_limit_does_not_pass_and_one_at_the_limit_does(size: int, limit: int, key: bytes) -> None:
    direction = Direction(0, max_payload=limit)
    fits = frame(BINARY, bytes(limit), key=key)
    assert feed(direction, *pieces(fits, [size])) == fits
    over, passed = frame(BINARY, bytes(limit + 1), key=key), b""
    chunks = iter(pieces(over, [size]))
    while not direction.too_large:
        passed += _passed(direction, next(chunks))
    # Only as much of its head as came before its length was known.
    assert passed == over[: len(passed)]
    assert len(passed) < 14
    assert direction.at_boundary == (not passed)
    assert direction.size == len(fits) + len(passed)


def test_frames_before_one_over_the_limit_in_the_same_read_pass() -> None:
    direction = Direction(0, max_payload=200)
    assert feed(direction, frame(TEXT, b"a") + frame(TEXT, bytes(201))) == frame(TEXT, b"a")


# Frames of the gateway ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=125), st.none() | st.binary(min_size=4, max_size=4))
def test_a_control_frame_reads_as_it_was_meant(payload: bytes, key: bytes | None) -> None:
    made = frames.control(Opcode.PING, payload, key)
    assert parse(made) == [Frame(0x80 | PING, key is not None, payload)]


def test_a_close_frame_has_its_code_and_reason() -> None:
    (made,) = parse(frames.close(CloseCode.BAD_GATEWAY, "why", KEY))
    assert (made.opcode, made.masked, made.close) == (CLOSE, True, (1014, "why"))
