"""Which header fields pass."""

from collections.abc import Iterable

import pytest
from multidict import CIMultiDict

from moorline.gateway.errors import Malformed
from moorline.gateway.proxy.headers import (
    encoded,
    end_to_end,
    header_lines,
    location_for,
    origin_form,
    request_id,
    with_request_line,
)
from moorline.gateway.proxy.response import Response


def sent(given: Iterable[tuple[str, str]], *, trusted: bool = False) -> CIMultiDict[str]:
    """The headers that an upstream gets for these."""
    headers = CIMultiDict(given)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    address = "10.0.0.1"
    made = header_lines(headers, raw, peer=address, client=address, scheme="http", trusted=trusted)
    lines = with_request_line("GET", "/", made, "r1").decode().split("\r\n")[1:-2]
    return CIMultiDict((name, value) for name, _, value in (line.partition(": ") for line in lines))


def passed(*, trusted: bool = False, **fields: str) -> CIMultiDict[str]:
    return sent([(name.replace("_", "-"), value) for name, value in fields.items()], trusted=trusted)


def test_what_connection_names_ends_here() -> None:
    assert "X-Hop" not in passed(Connection="close, X-Hop", X_Hop="1", Keep_Alive="5", TE="trailers")


def test_connection_cannot_withdraw_where_a_request_goes_and_where_it_ends() -> None:
    given = {"Connection": "Upgrade, Content-Length, HOST", "Content-Length": "5", "Host": "a", "Upgrade": "websocket"}
    response = Response(200, "OK", [(name.encode(), value.encode()) for name, value in given.items()])
    assert dict(end_to_end(response)) == {b"Content-Length": b"5", b"Host": b"a"}


def test_only_a_trusted_proxy_gives_a_clients_address() -> None:
    spoken = {"X_Forwarded_For": "7.7.7.7", "X_Real_IP": "7.7.7.7", "X_Forwarded_Proto": "https"}
    assert passed(trusted=False, **spoken)["X-Forwarded-For"] == "10.0.0.1"
    assert passed(trusted=False, **spoken).getall("X-Real-IP") == ["10.0.0.1"]
    assert passed(trusted=False, **spoken)["X-Forwarded-Proto"] == "http"
    assert passed(trusted=True, **spoken)["X-Forwarded-For"] == "7.7.7.7, 10.0.0.1"
    assert passed(trusted=True, **spoken)["X-Forwarded-Proto"] == "https"


@pytest.mark.parametrize(("method", "target"), [("GET", "/\r\nX-Hop: 1"), ("GET", "/\nX-Hop: 1"), ("GET\r", "/")])
def test_a_line_break_in_the_request_line_is_an_error(method: str, target: str) -> None:
    with pytest.raises(ValueError, match="a line break"):
        with_request_line(method, target, b"", "r1")


def test_a_line_break_in_a_header_is_an_error() -> None:
    for field in ((b"X-A", b"1\r\nX-B: 2"), (b"X-A", b"1\n"), (b"X\r\nA", b"1")):
        with pytest.raises(ValueError, match="a line break"):
            encoded([field])


def test_a_client_cannot_withdraw_what_a_trusted_proxy_says_of_it() -> None:
    spoken = {"X_Forwarded_For": "7.7.7.7", "X_Forwarded_Proto": "https", "X_Forwarded_User": "alice"}
    named = "close, x-forwarded-for, X-Real-IP, X-Forwarded-Proto,X-Forwarded-User"
    found = passed(trusted=True, Connection=named, **spoken)
    assert [found[name.replace("_", "-")] for name in spoken] == ["7.7.7.7, 10.0.0.1", "https", "alice"]


def test_a_trace_goes_on_only_where_a_trusted_proxy_names_it() -> None:
    named = {"Traceparent": "00-1-2-01", "TraceState": "a=1"}
    assert passed(trusted=True, **named).get("traceparent") == "00-1-2-01"
    assert {"Traceparent", "Tracestate"}.isdisjoint(name.title() for name in passed(trusted=False, **named))


def test_an_underscore_does_not_pass_for_a_hyphen() -> None:
    names = sent([("X_Real_IP", "7.7.7.7"), ("X-Fine", "1")])
    assert "X_Real_IP" not in names
    assert names["X-Fine"] == "1"


def test_an_id_is_kept_only_from_whom_it_may_come_and_as_it_may_look() -> None:
    assert request_id({"X-Request-ID": "abc"}, trusted=True, fresh="new") == "abc"
    assert request_id({"X-Request-ID": "abc"}, trusted=False, fresh="new") == "new"
    assert request_id({"X-Request-ID": "a b"}, trusted=True, fresh="new") == "new"


def test_a_redirect_to_the_backend_becomes_one_to_us_and_any_other_stays() -> None:
    def turned(location: str) -> str:
        return location_for(location, upstream="http://127.0.0.1:8000", scheme="https", host="chat.example.com")

    assert turned("http://127.0.0.1:8000/a?b#c") == "https://chat.example.com/a?b#c"
    for other in (
        "/a",
        "http://127.0.0.1:8001/a",
        "https://127.0.0.1:8000/a",
        "http://[::1",
        "//x/a",
        "/\t/x/a",
        "http:/\t/127.0.0.1:8000/a",
    ):
        assert turned(other) == other


@pytest.mark.parametrize("target", ["/api/x#/../y", "/api/caf\u00e9", "/api/x y", "/api/\x7f"])
def test_a_target_that_some_would_read_as_another_is_malformed(target: str) -> None:
    with pytest.raises(Malformed):
        origin_form(target)
