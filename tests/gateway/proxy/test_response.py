"""The parser of responses, on bytes. Invariant: however the bytes are cut, the response is the same."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorline.gateway.errors import BadUpstreamResponse
from moorline.gateway.proxy.response import ResponseParser

START = b"HTTP/1.1 200 OK\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
Outcome = tuple[bytes, bool, bool, bytes]

ACCEPTED: dict[str, tuple[bytes, Outcome]] = {
    "length": (START + b"Content-Length: 2\r\n\r\nok", (b"ok", True, True, b"")),
    "length 0": (START + b"Content-Length: 0\r\n\r\n", (b"", True, True, b"")),
    "short": (START + b"Content-Length: 3\r\n\r\nok", (b"ok", False, True, b"")),
    "excess": (START + b"Content-Length: 1\r\n\r\nok", (b"o", True, True, b"k")),
    "until eof": (START + b"\r\nok", (b"ok", False, False, b"")),
    "1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", (b"ok", True, False, b"")),
    "close": (START + b"Connection: x , CLOSE\r\nContent-Length: 2\r\n\r\nok", (b"ok", True, False, b"")),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", (b"", True, True, b"")),
    "interim": (
        b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 103 X\r\nA: b\r\n\r\n" + CHUNKED + b"0\r\n\r\n",
        (b"", True, True, b""),
    ),
    "chunks": (CHUNKED + b'1\r\no\r\n01 ;x="y"\r\nk\r\n0\r\n\r\n', (b"ok", True, True, b"")),
    "trailers": (CHUNKED + b"2\r\nok\r\n0\r\nA: b\r\n\r\nmore", (b"ok", True, True, b"more")),
    "cut chunk": (CHUNKED + b"5\r\nok", (b"ok", False, True, b"")),
    "switch": (b"HTTP/1.1 101 S\r\nContent-Length: 9\r\n\r\n\x81\x00", (b"", True, True, b"\x81\x00")),
    "304": (b"HTTP/1.1 304 N\r\nContent-Length: 9\r\n\r\n", (b"", True, True, b"")),
}
REFUSED = {
    "no HTTP": b"220 mail.example.com\r\n\r\n",
    "TLS": b"\x16\x03\x01",
    "HTTP/2": b"HTTP/2.0 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "blank before the status line": b"\r\n" + START + b"\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\n\r\n",
    "control in the reason": b"HTTP/1.1 200 O\0K\r\n\r\n",
    "line feed alone": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "line feed alone behind a header": START + b"A: b\nContent-Length: 0\r\n\r\n",
    "return alone": START + b"A: b\rX: y\r\n\r\n",
    "control in a header": START + b"A: b\x01\r\n\r\n",
    "delete in a header": START + b"A: b\x7f\r\n\r\n",
    "blank before a colon": START + b"Content-Length : 0\r\n\r\n",
    "folded": START + b"A: b\r\n c\r\n\r\n",
    "no colon": START + b"Content-Length\r\n\r\n",
    "no name": START + b": b\r\n\r\n",
    "second line without name": START + b"A: b\r\nnot a name: c\r\n\r\n",
    "two lengths": START + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "list of lengths": START + b"Content-Length: 2, 2\r\n\r\nok",
    "signed length": START + b"Content-Length: +2\r\n\r\nok",
    "hexadecimal length": START + b"Content-Length: 0x2\r\n\r\nok",
    "other digits": START + b"Content-Length: \xd9\xa2\r\n\r\nok",
    "huge length": START + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
    "length and chunked": START + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": START + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": START + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": START + b"Transfer-Encoding: identity\r\n\r\n",
    "signed chunk": CHUNKED + b"+1\r\no\r\n0\r\n\r\n",
    "chunk of no size": CHUNKED + b"\r\no\r\n0\r\n\r\n",
    "chunk 0x1": CHUNKED + b"0x1\r\no\r\n0\r\n\r\n",
    "blank before a size": CHUNKED + b" 1\r\no\r\n0\r\n\r\n",
    "size too long": CHUNKED + b"0" * 16 + b"1\r\no\r\n0\r\n\r\n",
    "longer than its size": CHUNKED + b"1\r\nok\r\n0\r\n\r\n",
    "line feed behind a chunk": CHUNKED + b"1\r\no\n0\r\n\r\n",
    "line feed in an extension": CHUNKED + b"1;a\nb\r\no\r\n0\r\n\r\n",
    "lines that end with LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "headers that end with LF": START + b"A: b\n\n",
    "size that ends with LF": CHUNKED + b"1\no",
    "trailer that ends with LF": CHUNKED + b"0\r\nA: b\n\n",
    "long extension": CHUNKED + b"1;" + b"a" * 300,
    "malformed trailer": CHUNKED + b"0\r\nno trailer\r\n\r\n",
    "long trailers": CHUNKED + b"0\r\n" + b"A: b\r\n" * 6000,
    "long trailer": CHUNKED + b"0\r\nA: " + b"b" * (33 << 10),
    "long headers": START + b"A: " + b"b" * (33 << 10),
    "many headers": START + b"A: b\r\n" * 128 + b"\r\n",
    "interim without end": b"HTTP/1.1 103 X\r\n\r\n" * 2000,
}  # fmt: skip


def parsed(parts: Iterable[bytes], method: str = "GET") -> Outcome:
    """Body, whether it is complete, whether the connection persists, and what is behind it."""
    parser, body, excess = ResponseParser(method), b"", b""
    for part in parts:
        if parser.complete:
            excess += part
        else:
            body += parser.receive_data(part)
    return body, parser.complete, parser.persistent, parser.excess + excess


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


@pytest.mark.parametrize(("data", "outcome"), ACCEPTED.values(), ids=ACCEPTED)
def test_a_response_is_read_whole_and_byte_by_byte(data: bytes, outcome: Outcome) -> None:
    assert parsed([data]) == parsed(bytewise(data)) == outcome


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_two_parsers_may_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(BadUpstreamResponse):
        parsed([data])


@pytest.mark.parametrize("data", [data for data in REFUSED.values() if len(data) < 1000])
def test_it_is_refused_byte_by_byte_as_well(data: bytes) -> None:
    with pytest.raises(BadUpstreamResponse):
        parsed(bytewise(data))


@given(name=st.sampled_from(sorted(ACCEPTED)), cuts=st.lists(st.integers(0, 150), max_size=8))
def test_cuts_make_no_difference(name: str, cuts: list[int]) -> None:
    data, outcome = ACCEPTED[name]
    ends = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    assert parsed(data[start:end] for start, end in itertools.pairwise(ends)) == outcome


@pytest.mark.parametrize(
    ("framed", "excess"),
    [
        (b"Content-Length: 20000\r\n\r\n" + b"x" * 20_000, b"y" * 9000),
        (b"Transfer-Encoding: chunked\r\n\r\n4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n", b"y" * 9000),
        (b"\r\n" + b"x" * 20_000, b""),
    ],
)
def test_a_large_part_behind_the_headers_is_read_as_a_small_one_is(framed: bytes, excess: bytes) -> None:
    data = START + framed + excess
    halves = [data[:10_000], data[10_000:20_000], data[20_000:]]
    assert parsed([data])[0] == parsed(halves)[0] == b"x" * 20_000
    assert parsed([data])[3] == parsed(halves)[3] == excess


def test_a_response_to_head_ends_with_its_headers() -> None:
    data = START + b"Content-Length: 2\r\n\r\nok"
    assert parsed([data], "HEAD") == (b"", True, True, b"ok")


def test_the_end_of_the_connection_ends_a_body_without_length() -> None:
    parser = ResponseParser("GET")
    parser.receive_data(START + b"\r\nok")
    parser.receive_eof()
    assert parser.complete
    assert not parser.persistent


@pytest.mark.parametrize("cut", [START, START + b"Content-Length: 3\r\n\r\nok", CHUNKED + b"2\r\nok\r\n0\r\n"])
def test_the_end_of_the_connection_completes_nothing_else(cut: bytes) -> None:
    parser = ResponseParser("GET")
    parser.receive_data(cut)
    parser.receive_eof()
    assert not parser.complete


def test_headers_keep_their_order_their_names_and_their_bytes() -> None:
    parser = ResponseParser("GET")
    parser.receive_data(START + b"x-DUP: 1\r\nX-Odd:\t caf\xe9 \t\r\nx-DUP: 2\r\nContent-Length: 0\r\n\r\n")
    assert parser.response is not None
    assert list(parser.response.headers.items())[:3] == [("x-DUP", "1"), ("X-Odd", "caf\udce9"), ("x-DUP", "2")]


def test_128_lines_are_not_too_many() -> None:
    data = START + b"A: b\r\n" * 126 + b"Content-Length: 0\r\n\r\n"
    assert parsed([data])[1]
