"""Heads, bodies and frames as a fault proxy follows them, without any connection."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.gateway.faults.dialogue import Dialogue, Follower, Head
from tests.support.faulty_upstream import HANDSHAKE, SWITCH
from tests.support.websocket_frames import PONG, TEXT, frame

REQUEST = b"GET /api/x?y HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


def test_a_head_in_pieces_is_returned_whole() -> None:
    dialogue = Dialogue()
    found = [part for byte in REQUEST for part in dialogue.from_client(bytes((byte,)))]
    assert found == [Head(REQUEST)]


def test_a_head_whose_lines_end_with_lf_alone_is_passed_on_as_it_comes() -> None:
    dialogue, request, response = Dialogue(), b"GET / HTTP/1.1\nHost: a\n\n", b"HTTP/1.1 200 OK\n\nok"
    assert dialogue.from_client(request) == [request]
    assert dialogue.from_server(response) == [response]


def test_a_head_tells_its_target_and_whether_it_upgrades() -> None:
    assert (Head(REQUEST).target, Head(REQUEST).upgrades) == ("/api/x?y", False)
    assert Head(HANDSHAKE).upgrades


def test_a_second_request_on_a_connection_is_one() -> None:
    dialogue = Dialogue()
    assert dialogue.from_client(REQUEST + b"body") == [Head(REQUEST), b"body"]
    assert dialogue.from_server(OK + b"ok") == [Head(OK), b"ok"]
    assert dialogue.from_client(REQUEST) == [Head(REQUEST)]


def test_the_rest_of_an_upload_behind_an_early_response_is_no_request() -> None:
    dialogue = Dialogue()
    dialogue.from_client(REQUEST)
    dialogue.from_server(OK)
    assert dialogue.from_client(b"\x00\x01") == [b"\x00\x01"]


def test_an_interim_response_is_followed_by_the_final_one() -> None:
    dialogue = Dialogue()
    dialogue.from_client(REQUEST)
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    found = dialogue.from_server(interim + OK)
    assert found == [Head(interim), Head(OK)]
    assert [head.is_final for head in found if isinstance(head, Head)] == [False, True]


def test_thousands_of_interim_responses_at_once_are_followed() -> None:
    dialogue, interim = Dialogue(), b"HTTP/1.1 100 Continue\r\n\r\n"
    dialogue.from_client(REQUEST)
    assert dialogue.from_server(interim * 3000 + OK + b"ok") == [Head(interim)] * 3000 + [Head(OK), b"ok"]


@pytest.mark.parametrize(
    ("response", "rest"),
    [
        (OK, (b"o", b"k")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", (b"2\r\nok\r\n", b"0\r\n", b"\r\n")),
    ],
)
def test_the_end_of_a_response_is_found(response: bytes, rest: Sequence[bytes]) -> None:
    dialogue = Dialogue()
    dialogue.from_client(REQUEST)
    dialogue.from_server(response)
    found = []
    for part in rest:
        found.append(dialogue.in_response)
        dialogue.from_server(part)
    assert (found, dialogue.in_response) == ([True] * len(rest), False)


def test_behind_a_101_everything_is_passed_on_as_it_comes() -> None:
    dialogue = Dialogue()
    dialogue.from_client(HANDSHAKE)
    assert dialogue.from_server(SWITCH + b"\x81\x00") == [Head(SWITCH), b"\x81\x00"]
    assert dialogue.from_client(b"GET / HTTP/1.1\r\n\r\n") == [b"GET / HTTP/1.1\r\n\r\n"]
    assert dialogue.in_response


FRAMES = st.lists(st.tuples(st.sampled_from([TEXT, PONG]), st.binary(max_size=125)), max_size=8)


@given(frames=FRAMES, size=st.integers(1, 40), drop=st.booleans())
def test_frames_pass_unchanged_and_pongs_are_dropped_where_asked(
    *, frames: list[tuple[int, bytes]], size: int, drop: bool
) -> None:
    """Invariant: however the stream is cut, what passes is the stream, without its Pongs where they are dropped."""
    stream = b"".join(frame(opcode, payload) for opcode, payload in frames)
    follower = Follower()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    passed = b"".join(follower.receive(piece, drop_pongs=drop) for piece in pieces)
    kept = [(opcode, payload) for opcode, payload in frames if not (drop and opcode == PONG)]
    assert passed == b"".join(frame(opcode, payload) for opcode, payload in kept)
    assert follower.flush() == b""
