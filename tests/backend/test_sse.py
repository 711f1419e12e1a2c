"""Server-sent events, whatever pieces they come in."""

import json

from hypothesis import given
from hypothesis import strategies as st
from moorline.backend.sse import EventData


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
