"""Server-sent events, whatever pieces they come in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.backend.sse import MAX_EVENT, EventData


def events(*pieces: bytes) -> list[bytes]:
    decoder = EventData()
    return [event for piece in pieces for event in decoder.receive_data(piece)]


def test_an_event_is_what_an_empty_line_ends() -> None:
    assert events(b"data: one\n\ndata: two\n") == [b"one"]


def test_lines_of_data_are_joined() -> None:
    assert events(b"data: one\ndata:two\ndata:  three\n\n") == [b"one\ntwo\n three"]


def test_names_ids_and_comments_say_nothing() -> None:
    assert events(b": still here\n\nevent: ping\nid: 7\nretry: 5\n\ndata\ndatax: 1\n\nevent: x\ndata: one\n\n") == [
        b"one"
    ]


def test_an_event_without_its_end_is_none() -> None:
    assert events(b"data: one\n", b"data: two") == []


def test_other_separators_than_line_ends_belong_to_the_text() -> None:
    text = "data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode()
    assert events(text) == [text[6:-2]]


@pytest.mark.parametrize(
    "endless", [b"data: " + b"x" * 4096, b": comment" * 512, b"data:\n" * 1024, b"data: " + b"x" * 4090 + b"\n"]
)
def test_an_event_that_does_not_end_is_given_up_with_what_came_before_it(endless: bytes) -> None:
    decoder = EventData()
    assert decoder.receive_data(b"data: one\n\n" + endless) == [b"one"]
    pieces = 1
    while not decoder.overflowed:
        assert decoder.receive_data(endless) == []
        pieces += 1
    assert pieces <= MAX_EVENT // len(endless) + 1


def test_an_event_that_is_whole_and_too_long_is_none() -> None:
    decoder = EventData()
    text = b"data: one\n\ndata: " + b"x" * MAX_EVENT + b"\n\ndata: two\n\n"
    assert (decoder.receive_data(text), decoder.overflowed) == ([b"one"], True)


def test_many_events_together_may_be_longer_than_one() -> None:
    decoder = EventData()
    for number in range(0, 3 * MAX_EVENT, MAX_EVENT // 4):
        decoder.receive_data(b"data: %d" % number + b"x" * (MAX_EVENT // 4))
        decoder.receive_data(b"\n\n")
    assert not decoder.overflowed


@given(
    texts=st.lists(st.text(), max_size=5),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
    size=st.integers(min_value=1, max_value=9),
)
def test_pieces_and_line_ends_change_nothing(texts: list[str], end: bytes, size: int) -> None:
    data = [json.dumps(text).encode() for text in texts]
    stream = b"".join(b"data: " + each + end + end for each in data)
    assert events(*(stream[place : place + size] for place in range(0, len(stream), size))) == data
    assert events(stream) == data
