"""Which headers pass a proxy, which it adds, and how they are written. Pure."""

import enum
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

from multidict import CIMultiDict, CIMultiDictProxy, istr

from moorline.gateway.errors import Malformed

__all__ = [
    "UPGRADE",
    "cookie_for",
    "encoded",
    "end_to_end",
    "location_for",
    "origin_form",
    "request_head",
    "request_id",
    "response_headers",
]

Headers = CIMultiDictProxy[str] | CIMultiDict[str]

# RFC 9110 section 7.6.1: headers about one connection. They end here, in requests and in responses.
HOP_BY_HOP = tuple(
    map(
        istr,
        (
            "Connection",
            "Keep-Alive",
            "Proxy-Authenticate",
            "Proxy-Authorization",
            "Proxy-Connection",  # never standard, still sent
            "TE",
            "Trailer",
            "Transfer-Encoding",  # each hop frames the body anew
            "Upgrade",
        ),
    )
)
_CONNECTION = istr("Connection")
_HOST = istr("Host")
_LOCATION = istr("Location")
_SET_COOKIE = istr("Set-Cookie")
_TRANSFER_ENCODING = istr("Transfer-Encoding")
_X_REQUEST_ID = istr("X-Request-ID")
# What says where a request goes and where it ends cannot be withdrawn by its sender: without its Content-Length a
# handshake would have its body read as the next request, which no access rule has seen.
_NOT_TO_NOMINATE = frozenset({"host", "content-length"})
# What Connection says of the connection itself.
_OPTIONS = frozenset({"", "close", "keep-alive", "upgrade"})
# RFC 9112 section 3.2: visible ASCII and no fragment. All else would reach the upstream as something not meant.
_TARGET = re.compile(r"[!-\"$-~]+")
# Written anew on each hop (RFC 9110 section 7.8).
UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
_UPGRADE_LINES = [f"{name}: {value}".encode() for name, value in UPGRADE]
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


_NOTHING: Mapping[bytes, bytes] = {}


class _Kind(enum.Enum):
    """What becomes of a request's header."""

    END_TO_END = "passes"
    DROPPED = "ends here"
    FORWARDED_FOR = "is extended, where it comes from a trusted proxy"
    FORWARDED = "passes, where it comes from a trusted proxy"


# Underscores are dropped as nginx does it: CGI and WSGI applications cannot tell X_Real_IP from X-Real-IP. Expect is
# answered here. X-Real-IP and X-Request-ID are written anew.
_DROPPED = frozenset({*(name.lower() for name in HOP_BY_HOP), "expect", "x-real-ip", "x-request-id"})


# A client that names a trace could join those of others, and have all of its requests sampled.
_FORWARDED = frozenset({"forwarded", "traceparent", "tracestate"})


@functools.lru_cache(maxsize=256)
def _kind(name: bytes) -> _Kind:
    lower = name.decode("latin-1").lower()
    if lower in _DROPPED or "_" in lower:
        return _Kind.DROPPED
    if lower == "x-forwarded-for":
        return _Kind.FORWARDED_FOR
    is_forwarded = lower in _FORWARDED or lower.startswith("x-forwarded-")
    return _Kind.FORWARDED if is_forwarded else _Kind.END_TO_END


def origin_form(target: str) -> str:
    """A request's target as the client wrote it, without the authority that some put in front (RFC 9112 section 3.2).

    Raises:
        Malformed: it holds characters that no target may hold.
    """
    if not _TARGET.fullmatch(target):
        raise Malformed("The address holds characters that must be percent-encoded.")
    if target.startswith("/"):
        return target
    path = target.partition("://")[2]
    return path[path.index("/") :] if "/" in path else "/"


def end_to_end(headers: Headers) -> CIMultiDict[str]:
    """The headers that pass: all but the hop-by-hop ones and those that Connection may and does name as such."""
    passed = CIMultiDict(headers)
    if _CONNECTION in headers:
        for name in _nominated(headers):
            passed.popall(name, None)
    for name in HOP_BY_HOP:
        if name in passed:
            del passed[name]
    return passed


def _nominated(headers: Headers) -> frozenset[str]:
    """The headers that Connection names as hop-by-hop, in lower case."""
    named = (name.strip().lower() for line in headers.getall(_CONNECTION, ()) for name in line.split(","))
    return frozenset(named) - _OPTIONS - _NOT_TO_NOMINATE


def request_head(
    method: str,
    target: str,
    headers: Headers,
    raw_headers: Sequence[tuple[bytes, bytes]],
    *,
    peer: str,
    client: str,
    scheme: str,
    request_id: str,
    trusted: bool,
    upgrade: bool = False,
    replaced: Mapping[bytes, bytes] = _NOTHING,
    added: Sequence[bytes] = (),
) -> bytes:
    """The request line and headers as the upstream gets them, with the names and values as the client wrote them.

    `peer` is the address of the TCP connection, `client` that of the client behind trusted proxies. With `trusted` what
    the peer says of the client is kept and extended, else replaced. `upgrade`: a WebSocket is asked for. `replaced`
    holds headers, by their names in lower case, that are sent instead of the client's.

    Raises:
        ValueError: a header holds a line break.
    """
    lines = [f"{method} {target} HTTP/1.1".encode()]
    hops: list[bytes] = []
    nominated = _nominated(headers) if _CONNECTION in headers else ()
    for name, value in raw_headers:
        kind = _kind(name)
        if kind is _Kind.DROPPED or (nominated and name.decode("latin-1").lower() in nominated):
            continue
        if replaced and name.lower() in replaced:
            continue
        if kind is not _Kind.END_TO_END:
            if trusted and kind is _Kind.FORWARDED_FOR:
                hops.append(value)
            if not trusted or kind is _Kind.FORWARDED_FOR:
                continue
        lines.append(b"%b: %b" % (name, value))
    lines.append(b"X-Forwarded-For: " + b", ".join([*hops, peer.encode()]))
    lines.append(f"X-Real-IP: {client}\r\nX-Request-ID: {request_id}".encode())
    if not (trusted and "X-Forwarded-Proto" in headers):
        lines.append(b"X-Forwarded-Proto: " + scheme.encode())
    if (host := headers.get(_HOST)) and not (trusted and "X-Forwarded-Host" in headers):
        lines.append(b"X-Forwarded-Host: " + _bytes(host))
    lines += [b"%b: %b" % (name.title(), value) for name, value in replaced.items()]
    lines += added
    if _TRANSFER_ENCODING in headers:
        lines.append(b"Transfer-Encoding: chunked")
    if upgrade:
        lines += _UPGRADE_LINES
    head = b"\r\n".join([*lines, b"", b""])
    # One line holds two headers. Parsers let no line break pass; one that did would let a client write a request here.
    if not head.count(b"\n") == head.count(b"\r") == len(lines) + 2:
        raise ValueError("a line break in a header")
    return head


def response_headers(
    headers: Headers,
    *,
    request_id: str,
    upstream: str,
    scheme: str,
    host: str,
    returned: Callable[[str], str] | None = None,
) -> CIMultiDict[str]:
    """The response's headers as the client gets them. `scheme` and `host` are those by which the client knows us.

    `returned` gives the client's name of an upstream's path; with it the paths and domains of cookies are mapped, too.
    """
    passed = end_to_end(headers)
    if _X_REQUEST_ID not in passed:
        passed[_X_REQUEST_ID] = request_id
    if location := passed.get(_LOCATION):
        passed[_LOCATION] = location_for(
            location, upstream=upstream, scheme=scheme, host=host, returned=returned or str
        )
    if returned is not None and _SET_COOKIE in passed:
        upstream_host = urlsplit(upstream).hostname or ""
        for cookie in passed.popall(_SET_COOKIE):
            passed.add(_SET_COOKIE, cookie_for(cookie, upstream_host=upstream_host, returned=returned))
    return passed


def encoded(status_line: str, headers: CIMultiDict[str]) -> bytes:
    """The bytes of a status line and headers with the empty line behind them.

    Raises:
        ValueError: one of them holds a line break.
    """
    lines = [status_line, *[f"{name}: {value}" for name, value in headers.items()], "", ""]
    text = "\r\n".join(lines)
    if not text.count("\n") == text.count("\r") == len(lines) - 1:
        raise ValueError("a line break in a header")
    return _bytes(text)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def request_id(headers: Mapping[str, str], *, trusted: bool, fresh: str) -> str:
    """The request's id in every log: that of a trusted proxy in front of the gateway, or `fresh`."""
    given = headers.get("X-Request-ID", "")
    return given if trusted and _REQUEST_ID.fullmatch(given) else fresh


def location_for(location: str, *, upstream: str, scheme: str, host: str, returned: Callable[[str], str] = str) -> str:
    """A redirect to the upstream's own origin, turned into one to the client's; any other as it is. `returned` gives
    the client's name of an upstream's path.
    """
    try:
        target, own = urlsplit(location), urlsplit(upstream)
        is_upstream = target.scheme == own.scheme and (target.hostname, _port(target)) == (own.hostname, _port(own))
    except ValueError:
        return location
    if not target.netloc:
        return returned(location) if location.startswith("/") else location
    path = location[location.index("//") + 2 + len(target.netloc) :]
    if is_upstream and host:
        return f"{scheme}://{host}{returned(path)}"
    # An upstream that is sent the client's Host names itself by it.
    return location[: len(location) - len(path)] + returned(path) if target.netloc == host else location


def cookie_for(cookie: str, *, upstream_host: str, returned: Callable[[str], str]) -> str:
    """A Set-Cookie of the upstream as the client's browser takes it: its Path is the client's, and a Domain that the
    upstream belongs to is left out, so that the cookie is the gateway's host's.
    """
    value, *attributes = cookie.split(";")
    kept = [value]
    for attribute in attributes:
        name, _, given = attribute.partition("=")
        match name.strip().lower():
            case "path":
                kept.append(f" Path={returned(given.strip())}")
            case "domain" if f".{upstream_host}".endswith("." + given.strip().lower().removeprefix(".")):
                pass
            case _:
                kept.append(attribute)
    return ";".join(kept)


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
