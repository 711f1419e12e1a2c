"""The scanner. What it must never do: change a byte, hold one back, or call a place a boundary that is none."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moorline.gateway.tunnel import frames
from moorline.gateway.tunnel.frames import CloseCode, Opcode, Scanner

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


def feed(scanner: Scanner, *chunks: bytes) -> bytes:
    """What it passes on of all of them."""
    return b"".join(_passed(scanner, chunk) for chunk in chunks)


def _passed(scanner: Scanner, chunk: bytes) -> bytes:
    passed = scanner.receive_data(chunk, 1.0)
    return scanner.take() if passed is None else passed


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
def test_any_bytes_in_any_pieces_pass_as_they_are_and_at_once(stream: bytes, sizes: list[int]) -> None:
    scanner = Scanner(0)
    for chunk in pieces(stream, sizes):
        assert _passed(scanner, chunk) == chunk
    assert scanner.size == len(stream)


@given(streams, cuts)
def test_frames_in_any_pieces_are_counted_and_their_ends_known(stream: list[bytes], sizes: list[int]) -> None:
    scanner, at, ends = Scanner(0), 0, {0}
    for each in stream:
        ends.add(max(ends) + len(each))
    for chunk in pieces(b"".join(stream), sizes):
        assert _passed(scanner, chunk) == chunk
        at += len(chunk)
        assert scanner.at_boundary == (at in ends)
    assert scanner.frames == len(stream)
    assert not scanner.lost


@given(streams, cuts, st.integers(0, 10))
def test_what_is_put_in_stands_at_the_first_boundary(stream: list[bytes], sizes: list[int], wanted_at: int) -> None:
    scanner, output, asked_at = Scanner(0), b"", -1
    for number, chunk in enumerate(pieces(b"".join(stream), sizes)):
        if number == wanted_at and not scanner.at_boundary:
            scanner.pending, asked_at = lambda now: INJECTED, len(output)
        output += _passed(scanner, chunk)
    if asked_at < 0:
        assert output == b"".join(stream)
        return
    ends = [len(b"".join(stream[:count])) for count in range(len(stream) + 1)]
    place = min(end for end in ends if end > asked_at)
    assert output == b"".join(stream)[:place] + INJECTED + b"".join(stream)[place:]


@given(streams, streams, keys, cuts)
def test_our_pong_is_swallowed_wherever_it_stands(
    before: list[bytes], after: list[bytes], key: bytes, sizes: list[int]
) -> None:
    scanner = Scanner(0)
    scanner.awaits = lambda payload, now: payload == OURS
    ours = frame(PONG, OURS, key=key)
    passed = feed(scanner, *pieces(b"".join([*before, ours, *after]), sizes))
    expected = b"".join([*before, *after])
    assert passed == expected
    assert (scanner.size, scanner.frames) == (len(expected), len(before) + len(after))


@given(streams, cuts)
def test_while_a_pong_is_awaited_only_pongs_are_held(stream: list[bytes], sizes: list[int]) -> None:
    scanner, sent, passed = Scanner(0), b"", b""
    scanner.awaits = lambda payload, now: False
    ends = [len(b"".join(stream[:count])) for count in range(len(stream) + 1)]
    for chunk in pieces(b"".join(stream), sizes):
        sent += chunk
        passed += _passed(scanner, chunk)
        begun = max(end for end in ends if end <= len(sent))
        holds = sent[begun : begun + 1] == bytes((0x80 | PONG,))
        assert passed == sent[: begun if holds else len(sent)]
        assert not holds or scanner.at_boundary


@pytest.mark.parametrize("size", [999, 65_535, 65_536, 1 << 20])
def test_frames_with_long_lengths_are_followed(size: int) -> None:
    scanner = Scanner(0)
    stream = (frame(BINARY, bytes(size), key=KEY) + frame(BINARY, bytes(size))) * 2
    assert feed(scanner, *pieces(stream, [1, 8, size, 3])) == stream
    assert (scanner.frames, scanner.at_boundary) == (4, True)


def test_many_small_frames_in_one_read_are_all_counted() -> None:
    order = random.Random(1)
    stream = [frame(TEXT, order.randbytes(order.randrange(126)), key=order.choice([b"", KEY])) for _ in range(5000)] + [
        frame(BINARY, bytes(300))
    ]
    scanner = Scanner(0)
    assert feed(scanner, b"".join(stream), b"") == b"".join(stream)
    assert (scanner.frames, scanner.at_boundary) == (5001, True)


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
def test_a_stream_that_no_extension_could_explain_is_lost_and_passes_all_the_same(broken: bytes, size: int) -> None:
    scanner = Scanner(0, max_payload=1 << 20)
    stream = frame(TEXT, b"well") + broken + frame(TEXT, b"after")
    assert feed(scanner, *pieces(stream, [size])) == stream
    assert scanner.lost
    assert not scanner.at_boundary
    assert scanner.frames == 1


@pytest.mark.parametrize(
    "odd",
    [frame(TEXT, b"x", rsv=7), frame(5, b"x"), frame(11, b"x"), frame(TEXT, b"\xff"), frame(CONTINUATION, b"x")],
    ids=["rsv", "reserved", "reserved control", "bad utf-8", "nothing to continue"],
)
@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
def test_a_stream_with_odd_frames_is_followed(odd: bytes, key: bytes) -> None:
    scanner = Scanner(0)
    stream = odd + frame(TEXT, b"after", key=key)
    assert feed(scanner, stream) == stream
    assert (scanner.frames, scanner.at_boundary, scanner.lost) == (2, True, False)


# Close ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_code_of_a_close_is_read_as_it_passes(key: bytes, size: int) -> None:
    scanner = Scanner(0)
    stream = frame(TEXT, b"last", key=key) + close_frame(4001, "bye", key=key)
    assert feed(scanner, *pieces(stream, [size])) == stream
    assert (scanner.close_code, scanner.at_boundary) == (4001, True)


@pytest.mark.parametrize("payload", [b"", b"\x03"])
def test_a_close_without_a_code_has_1005(payload: bytes) -> None:
    scanner = Scanner(0)
    feed(scanner, frame(CLOSE, payload, key=KEY))
    assert scanner.close_code == CloseCode.NO_STATUS


def test_the_first_close_counts() -> None:
    scanner = Scanner(0)
    feed(scanner, close_frame(1000) + close_frame(1011))
    assert scanner.close_code == 1000


def test_nothing_is_put_in_behind_a_close() -> None:
    scanner = Scanner(0)
    scanner.receive_data(close_frame(1000)[:1], 0)
    scanner.pending = lambda now: INJECTED
    assert feed(scanner, close_frame(1000)[1:], frame(TEXT, b"late")) == close_frame(1000)[1:] + frame(TEXT, b"late")


# Pongs of others ------------------------------------------------------------------------------------------------------


def test_a_pong_that_began_before_our_ping_is_not_held() -> None:
    scanner = Scanner(0)
    pong = frame(PONG, OURS)
    scanner.receive_data(pong[:1], 0)
    scanner.awaits = lambda payload, now: True
    assert feed(scanner, *pieces(pong[1:], [1])) == pong[1:]


def test_a_frame_can_be_put_in_before_a_pong_that_is_held() -> None:
    scanner = Scanner(0)
    scanner.awaits = lambda payload, now: False
    pong = frame(PONG, b"theirs")
    assert feed(scanner, frame(TEXT, b"a") + pong[:4]) == frame(TEXT, b"a")
    assert scanner.at_boundary
    scanner.pending = lambda now: INJECTED
    assert feed(scanner, pong[4:]) == INJECTED + pong


def test_a_pong_too_long_to_be_one_is_not_held() -> None:
    scanner = Scanner(0)
    scanner.awaits = lambda payload, now: True
    pong = frame(PONG, bytes(126))
    assert feed(scanner, pong[:2]) == pong[:2]
    assert scanner.lost


# A limit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 5000])
@pytest.mark.parametrize("limit", [50, 125, 126, 1000])
@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
def test_a_frame_over_the_limit_does_not_pass_and_one_at_the_limit_does(size: int, limit: int, key: bytes) -> None:
    scanner = Scanner(0, max_payload=limit)
    fits = frame(BINARY, bytes(limit), key=key)
    assert feed(scanner, *pieces(fits, [size])) == fits
    over, passed = frame(BINARY, bytes(limit + 1), key=key), b""
    chunks = iter(pieces(over, [size]))
    while not scanner.too_large:
        passed += _passed(scanner, next(chunks))
    # Only as much of its head as came before its length was known.
    assert passed == over[: len(passed)]
    assert len(passed) < 14
    assert scanner.at_boundary == (not passed)
    assert scanner.size == len(fits) + len(passed)


def test_what_stands_before_a_frame_over_the_limit_in_the_same_read_passes() -> None:
    scanner = Scanner(0, max_payload=200)
    assert feed(scanner, frame(TEXT, b"a") + frame(TEXT, bytes(201))) == frame(TEXT, b"a")


# Frames of the gateway ------------------------------------------------------------------------------------------------


@given(st.binary(max_size=125), st.none() | st.binary(min_size=4, max_size=4))
def test_a_control_frame_reads_as_it_was_meant(payload: bytes, key: bytes | None) -> None:
    made = frames.control(Opcode.PING, payload, key)
    assert parse(made) == [Frame(0x80 | PING, key is not None, payload)]


def test_a_close_frame_has_its_code_and_reason() -> None:
    (made,) = parse(frames.close(CloseCode.BAD_GATEWAY, "why", KEY))
    assert (made.opcode, made.masked, made.close) == (CLOSE, True, (1014, "why"))
