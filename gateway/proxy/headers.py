"""Which headers pass a proxy, which it adds, and how they are written. Pure."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from moorline.gateway.errors import Malformed
from multidict import CIMultiDict, CIMultiDictProxy

__all__ = [
    "UPGRADE",
    "encoded",
    "end_to_end",
    "location_for",
    "origin_form",
    "request_head",
    "request_headers",
    "request_id",
    "response_headers",
]

Headers = CIMultiDictProxy[str] | CIMultiDict[str]

# RFC 9110 section 7.6.1: headers about one connection. They end here, in requests and in responses.
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",  # never standard, still sent
        "te",
        "trailer",
        "transfer-encoding",  # each hop frames the body anew
        "upgrade",
    }
)
# What says where a request goes and where it ends cannot be withdrawn by its sender: without its Content-Length a
# handshake would have its body read as the next request, which no access rule has seen.
_NOT_TO_NOMINATE = frozenset({"host", "content-length"})
# Headers in which a proxy says who the client is; they are believed from `trusted_proxies` alone.
_SPOKEN_FOR = re.compile(r"x-forwarded-.*|x-real-ip|x-request-id|forwarded", re.IGNORECASE)
# RFC 9112 section 3.2: visible ASCII and no fragment. All else would reach the backend as something not meant.
_TARGET = re.compile(r"[!-\"$-~]+")
# Written anew on each hop (RFC 9110 section 7.8).
UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))
# RFC 9110 section 5.5: what no header may hold, but for the CRLF behind each.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


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
    dropped = HOP_BY_HOP
    if "Connection" in headers:
        nominated = {name.strip().lower() for line in headers.getall("Connection") for name in line.split(",")}
        dropped |= nominated - _NOT_TO_NOMINATE
    return CIMultiDict([(name, value) for name, value in headers.items() if name.lower() not in dropped])


def request_headers(
    headers: Headers,
    *,
    peer: str,
    client: str,
    scheme: str,
    request_id: str,
    trusted: bool,
) -> CIMultiDict[str]:
    """The request's headers as the upstream gets them.

    `peer` is the address of the TCP connection, `client` that of the client behind trusted proxies. With `trusted` what
    the peer says of the client is kept and extended, else replaced. Names with an underscore are dropped, as nginx
    does: CGI and WSGI applications cannot tell X_Real_IP from X-Real-IP. So is Expect, which is answered here.
    """
    passed = end_to_end(headers)
    for name in set(passed):
        if "_" in name or name.lower() == "expect" or not (trusted or not _SPOKEN_FOR.fullmatch(name)):
            passed.popall(name, None)
    hops = [*passed.popall("X-Forwarded-For", ()), peer]
    passed["X-Forwarded-For"] = ", ".join(hops)
    passed["X-Real-IP"] = client
    passed["X-Request-ID"] = request_id
    passed.setdefault("X-Forwarded-Proto", scheme)
    if host := headers.get("Host"):
        passed.setdefault("X-Forwarded-Host", host)
    return passed


def request_head(
    method: str, target: str, headers: CIMultiDict[str], *, chunked: bool = False, upgrade: bool = False
) -> bytes:
    """Request line and headers. `chunked`: the body is; `upgrade`: a WebSocket is asked for."""
    if chunked:
        headers.add("Transfer-Encoding", "chunked")
    if upgrade:
        headers.extend(UPGRADE)
    return encoded(f"{method} {target} HTTP/1.1", headers)


def response_headers(headers: Headers, *, request_id: str, upstream: str, scheme: str, host: str) -> CIMultiDict[str]:
    """The response's headers as the client gets them. `scheme` and `host` are those by which the client knows us."""
    passed = end_to_end(headers)
    passed.setdefault("X-Request-ID", request_id)
    if location := passed.get("Location"):
        passed["Location"] = location_for(location, upstream=upstream, scheme=scheme, host=host)
    return passed


def encoded(start_line: str, headers: CIMultiDict[str]) -> bytes:
    """The bytes of a start line and headers with the empty line behind them.

    Raises:
        ValueError: one of them holds a control character, which would end its line for some parsers.
    """
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    text = f"{start_line}\r\n{''.join(lines)}\r\n"
    if _CONTROL.search(text) or not text.count("\r") == text.count("\n") == len(lines) + 2:
        raise ValueError("a control character in a header")
    return text.encode("utf-8", "surrogateescape")


def request_id(headers: Mapping[str, str], *, trusted: bool, fresh: str) -> str:
    """The request's id in every log: that of a trusted proxy in front of the gateway, or `fresh`."""
    given = headers.get("X-Request-ID", "")
    return given if trusted and _REQUEST_ID.fullmatch(given) else fresh


def location_for(location: str, *, upstream: str, scheme: str, host: str) -> str:
    """A redirect to the upstream's own origin, turned into one to the client's; any other as it is."""
    try:
        target, own = urlsplit(location), urlsplit(upstream)
        same = target.scheme == own.scheme and (target.hostname, target.port or 80) == (own.hostname, own.port or 80)
    except ValueError:
        return location
    if not same or not host:
        return location
    return f"{scheme}://{host}{location[len(target.scheme) + len('://') + len(target.netloc) :]}"
