"""The heads of a handshake, byte by byte, without a network."""

from collections.abc import Iterable

import pytest
from multidict import CIMultiDict

from moorline.gateway.errors import BadUpstreamResponse, Malformed
from moorline.gateway.proxy.handshake import (
    answers_key,
    asks_for_upgrade,
    check_request,
    is_switch,
    protocols,
    switch_head,
)
from moorline.gateway.proxy.headers import header_lines, with_request_line
from moorline.gateway.proxy.response import Response, ResponseParser

UPGRADE = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


def decoded(raw: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    """As aiohttp gives them."""
    return CIMultiDict(
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")) for name, value in raw
    )


def head(*raw: tuple[bytes, bytes], target: str = "/ws/x", trusted: bool = False) -> list[bytes]:
    given, address = (*raw, *UPGRADE), "9.9.9.9"
    lines = header_lines(decoded(given), given, peer=address, client=address, scheme="http", trusted=trusted)
    made = with_request_line("GET", target, lines, "id", upgrade=True)
    assert made.endswith(b"\r\n\r\n")
    return made[:-4].split(b"\r\n")


def response(status: int, *raw: tuple[bytes, bytes]) -> Response:
    return Response(status, "Some Reason", list(raw))


# The request ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/ws/a%2Fb", "/ws//x/./y/../z", "/ws/%7e?c&&e=", "/ws/x?"])
def test_the_target_is_not_touched(target: str) -> None:
    assert head(target=target)[0] == f"GET {target} HTTP/1.1".encode()


def test_names_keep_their_case_and_repeated_fields_their_lines() -> None:
    lines = head((b"sec-websocket-KEY", b"k"), (b"Cookie", b"a=1"), (b"X-Dup", b"1"), (b"cookie", b"b=2"))
    assert lines[1:5] == [b"sec-websocket-KEY: k", b"Cookie: a=1", b"X-Dup: 1", b"cookie: b=2"]


def test_bytes_that_are_not_utf_8_pass_as_they_are() -> None:
    assert b"X-Latin: \xe9t\xe9" in head((b"X-Latin", b"\xe9t\xe9"))


def test_the_switch_is_asked_for_once_whatever_connection_said() -> None:
    lines = head((b"Connection", b"keep-alive, X-Foo"), (b"X-Foo", b"1"), (b"Keep-Alive", b"5"))
    assert lines[-2:] == [b"Upgrade: websocket", b"Connection: Upgrade"]
    names = [line.partition(b":")[0].lower() for line in lines]
    assert not {b"x-foo", b"keep-alive"} & set(names)
    assert names.count(b"connection") == names.count(b"upgrade") == 1


def test_subprotocols_and_extensions_pass() -> None:
    offered = (b"Sec-WebSocket-Protocol", b"chat.v2, chat.v1"), (b"Sec-WebSocket-Extensions", b"permessage-deflate; x")
    assert {b": ".join(field) for field in offered} <= set(head(*offered))


def test_forwarding_headers_count_from_a_trusted_proxy_alone() -> None:
    claim = (b"X-Forwarded-For", b"1.1.1.1")
    assert b"X-Forwarded-For: 9.9.9.9" in head(claim)
    assert b"X-Forwarded-For: 1.1.1.1, 9.9.9.9" in head(claim, trusted=True)


@pytest.mark.parametrize(
    "raw",
    [
        UPGRADE,
        ((b"connection", b"keep-alive, UPGRADE"), (b"upgrade", b"WebSocket")),
        ((b"Connection", b"keep-alive"), (b"Connection", b"upgrade"), (b"Upgrade", b"foo")),
    ],
)
def test_upgrade_in_connection_and_a_protocol_make_a_handshake(raw: tuple[tuple[bytes, bytes], ...]) -> None:
    assert asks_for_upgrade(decoded(raw))


@pytest.mark.parametrize(
    "raw", [UPGRADE[:1], (*UPGRADE[:1], (b"Upgrade", b"")), UPGRADE[1:], ()], ids=["connection", "empty", "upgrade", ""]
)
def test_one_without_the_other_is_plain_http(raw: tuple[tuple[bytes, bytes], ...]) -> None:
    assert not asks_for_upgrade(decoded(raw))


@pytest.mark.parametrize("token", [b"foo/1", b"h2c", b"websocket, h2c", b"websocket/13"])
def test_another_protocol_is_malformed(token: bytes) -> None:
    with pytest.raises(Malformed):
        check_request(protocols(decoded([(b"Connection", b"Upgrade"), (b"Upgrade", token)])), (1, 1))


def test_http_1_0_is_malformed() -> None:
    check_request(protocols(decoded(UPGRADE)), (1, 1))
    with pytest.raises(Malformed):
        check_request(protocols(decoded(UPGRADE)), (1, 0))


# The answer -----------------------------------------------------------------------------------------------------------


def test_a_101_switches_whatever_its_accept_key() -> None:
    assert is_switch(response(101, *UPGRADE, (b"Sec-WebSocket-Accept", b"wrong")))


@pytest.mark.parametrize(("accept", "answers"), [(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", True), (b"d3Jvbmc=", False)])
def test_whether_a_101_answers_the_key_is_known(*, accept: bytes, answers: bool) -> None:
    # RFC 6455 section 1.3.
    request = decoded([(b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ==")])
    assert answers_key(request, response(101, *UPGRADE, (b"Sec-WebSocket-Accept", accept))) is answers
    assert answers_key(request, response(101, *UPGRADE)) is False
    assert answers_key(decoded(()), response(101, *UPGRADE)) is True


@pytest.mark.parametrize("status", [200, 302, 401, 403, 426, 500, 503])
def test_anything_else_is_a_refusal(status: int) -> None:
    assert not is_switch(response(status, *UPGRADE))


@pytest.mark.parametrize(
    "raw", [(), (UPGRADE[0],), (UPGRADE[1],), (UPGRADE[0], (b"Upgrade", b"foo/1"))], ids=["bare", "", "", "other"]
)
def test_a_101_to_another_protocol_is_a_bad_response(raw: tuple[tuple[bytes, bytes], ...]) -> None:
    with pytest.raises(BadUpstreamResponse):
        is_switch(response(101, *raw))


@pytest.mark.parametrize("value", [b"a\rX-Evil: 1", b"a\nb", b"a\0b"])
def test_a_control_character_in_a_response_is_none(value: bytes) -> None:
    with pytest.raises(BadUpstreamResponse):
        ResponseParser("GET").receive_data(b"HTTP/1.1 101 Sure\r\nX-Field: %b\r\n\r\n" % value)


def test_the_101_passes_with_its_reason_its_cookies_and_a_request_id() -> None:
    made = switch_head(
        response(101, *UPGRADE, (b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2"), (b"Content-Length", b"0")),
        request_id="id",
    )
    assert made == (
        b"HTTP/1.1 101 Some Reason\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Request-ID: id\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )


def test_the_upstreams_own_request_id_is_kept_and_a_length_is_not_however_often_it_stands() -> None:
    made = switch_head(
        response(101, *UPGRADE, (b"X-Request-ID", b"theirs"), (b"Content-Length", b"0"), (b"Content-Length", b"0")),
        request_id="ours",
    )
    assert made.count(b"X-Request-ID: ") == 1
    assert b"X-Request-ID: theirs\r\n" in made
    assert b"Content-Length" not in made
