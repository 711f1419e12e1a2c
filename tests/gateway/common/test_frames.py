"""The parser alone: what it reports of a stream, and how much of it in one call."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.gateway.common.web.frames import Event, Found, FrameParser, text
from tests.support.websocket_frames import BINARY, CLOSE, PING, PONG, TEXT, close_frame, frame

KEY = b"\x01\x02\x03\x04"
PAYLOADS = st.binary(max_size=140) | st.integers(0, 700).map(bytes)
FRAMES = st.builds(frame, st.sampled_from([TEXT, BINARY]), PAYLOADS, key=st.sampled_from([b"", KEY])) | st.builds(
    frame, st.sampled_from([PING, PONG, CLOSE]), st.binary(max_size=125), key=st.sampled_from([b"", KEY])
)


def feed(parser: FrameParser, data: bytes) -> list[Found]:
    """What it reports of all of these bytes, counted from the first."""
    found: list[Found] = []
    at = 0
    while at < len(data):
        followed, some = parser.feed(data[at:])
        found += [each._replace(start=each.start + at, end=each.end + at) for each in some]
        at += followed
    return found


@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 500), min_size=1, max_size=8))
def test_close_frames_and_pongs_are_reported_where_they_stand(stream: list[bytes], sizes: list[int]) -> None:
    parser, at, found = FrameParser(), 0, []
    parser.report_pongs(on=True)
    whole, lengths = b"".join(stream), itertools.cycle(sizes)
    while at < len(whole):
        piece = whole[at : at + next(lengths)]
        found += [(each.event, each.start + at, each.end + at) for each in feed(parser, piece)]
        at += len(piece)
    ends = list(itertools.accumulate(map(len, stream)))
    events = {0x80 | CLOSE: Event.CLOSE, 0x80 | PONG: Event.PONG}
    assert found == [
        (events[each[0]], end - len(each), end) for each, end in zip(stream, ends, strict=True) if each[0] in events
    ]
    assert (parser.frames, parser.left, parser.partial) == (len(stream), 0, b"")


@pytest.mark.parametrize("key", [b"", KEY], ids=["unmasked", "masked"])
def test_a_reported_payload_is_unmasked(key: bytes) -> None:
    (found,) = feed(FrameParser(), frame(TEXT, b"x") + close_frame(4001, "why", key=key))
    assert found.payload == (4001).to_bytes(2, "big") + b"why"


def test_pongs_are_reported_only_on_demand() -> None:
    parser = FrameParser()
    assert feed(parser, frame(PONG, b"a")) == []
    parser.report_pongs(on=True)
    assert [each.payload for each in feed(parser, frame(PONG, b"b"))] == [b"b"]
    parser.report_pongs(on=False)
    assert feed(parser, frame(PONG, b"c")) == []


def test_a_frame_over_the_limit_is_reported_once_its_size_is_known() -> None:
    parser, large = FrameParser(1000), frame(BINARY, bytes(1001), key=KEY)
    assert parser.feed(large[:7]) == (7, [])
    assert parser.feed(large[7:20]) == (13, [Found(Event.TOO_LARGE, -7, 13)])


@pytest.mark.parametrize("cut", [0, 1, 2, 8, 9])
def test_a_frame_without_a_mask_is_reported_where_each_must_have_one(cut: int) -> None:
    parser, stream = FrameParser(masked=True), frame(TEXT, b"ab", key=KEY) + frame(TEXT, b"x")
    first, second = parser.feed(stream[:cut])[1], parser.feed(stream[cut:])[1]
    assert [found.event for found in (*first, *second)] == [Event.UNMASKED]


@given(FRAMES, st.integers(1, 200), FRAMES)
def test_the_boundary_behind_the_present_frame_is_known_before_it_is_fed(first: bytes, cut: int, second: bytes) -> None:
    parser = FrameParser()
    parser.feed(first[:cut])
    rest = first[cut:]
    assert parser.to_boundary(rest + second) == len(rest)
    if rest:
        header_is_whole = parser.left > 0
        assert parser.to_boundary(rest[:-1]) is None or (not header_is_whole and len(rest) == 0)


def test_there_is_no_boundary_behind_a_frame_over_the_limit() -> None:
    parser, large = FrameParser(1000), frame(BINARY, bytes(1001))
    parser.feed(large[:1])
    assert parser.to_boundary(large[1:]) is None


# One call -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "each", [frame(TEXT), frame(PING, key=KEY), frame(TEXT, bytes(60)), frame(BINARY, bytes(200))], ids=len
)
def test_one_call_follows_1024_frames_and_ends_between_two(each: bytes) -> None:
    parser = FrameParser()
    assert parser.feed(each * 3000) == (1024 * len(each), [])
    assert (parser.frames, parser.left) == (1024, 0)
    assert parser.feed(each * 1976)[0] == 1024 * len(each)
    assert parser.feed(each * 952)[0] == 952 * len(each)
    assert parser.frames == 3000


def test_one_call_follows_at_most_64_frames_that_are_reported() -> None:
    parser, pong = FrameParser(), frame(PONG, b"12345678", key=KEY)
    parser.report_pongs(on=True)
    followed, found = parser.feed(pong * 100)
    assert (followed, len(found), parser.frames) == (64 * len(pong), 64, 64)


# The message that has come in part ------------------------------------------------------------------------------------

FRAGMENT, CONTINUED = b"\x01\x01a", b"\x00\x01b"
LAST = b"\x80\x01c"


@given(st.lists(FRAMES, max_size=12), st.integers(0, 600))
def test_no_message_is_under_way_exactly_between_two_frames(stream: list[bytes], cut: int) -> None:
    parser, whole = FrameParser(), b"".join(stream)
    feed(parser, whole[:cut])
    boundaries = {0, *itertools.accumulate(map(len, stream))}
    assert (parser.message is None) is (min(cut, len(whole)) in boundaries)


def test_a_fragmented_message_is_under_way_until_its_last_frame_whatever_comes_between() -> None:
    parser, numbers = FrameParser(), []
    for piece in (FRAGMENT, CONTINUED, frame(PING, b"p"), CONTINUED):
        feed(parser, piece)
        numbers.append(parser.message)
    assert (len(set(numbers)), None in numbers) == (1, False)
    feed(parser, LAST)
    assert parser.message is None


def test_each_message_has_another_number() -> None:
    parser, numbers = FrameParser(), []
    for message in (frame(BINARY, bytes(300)), FRAGMENT + LAST, frame(BINARY, bytes(300))):
        feed(parser, message[:-1])
        numbers.append(parser.message)
        feed(parser, message[-1:])
    assert len(set(numbers)) == 3


def test_no_message_is_under_way_in_a_stream_that_is_lost() -> None:
    parser = FrameParser()
    feed(parser, b"\x09\x01p")
    assert (parser.lost, parser.message) == (True, None)


# Making frames --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 255, 256, 65535])
def test_a_text_frame_has_the_shortest_length_that_holds_its_payload(size: int) -> None:
    assert text(b"x" * size) == frame(TEXT, b"x" * size)
