"""Which header fields pass a proxy, and which it adds. Pure."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from moorline.gateway.errors import BackendGarbled, Malformed
from multidict import CIMultiDict, CIMultiDictProxy

__all__ = ["backward", "end_to_end", "forward", "location_for", "origin_form", "request_id"]

# RFC 9110 section 7.6.1: fields about one connection. They end here, on the way there and on the way back.
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
# What says where a request goes and where it ends is not the sender's to withdraw: a handshake whose Content-Length was
# left out on the way would have its body read as the next request, which no guard has seen.
_NOT_TO_NOMINATE = frozenset({"host", "content-length"})
# Fields by which a proxy speaks for a client. A client that is no proxy of ours may not.
_SPOKEN_FOR = re.compile(r"x-forwarded-.*|x-real-ip|x-request-id|forwarded", re.IGNORECASE)
# RFC 9112 section 3.2: visible ASCII and no fragment. All else would reach the backend as something not meant.
_TARGET = re.compile(r"[!-\"$-~]+")
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


def end_to_end(headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> CIMultiDict[str]:
    """The fields that go on: all but the hop-by-hop ones and those that Connection may and does name as such."""
    nominated = {name.strip().lower() for line in headers.getall("Connection", ()) for name in line.split(",")}
    dropped = HOP_BY_HOP | (nominated - _NOT_TO_NOMINATE)
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


def forward(
    headers: CIMultiDictProxy[str] | CIMultiDict[str],
    *,
    peer: str,
    client: str,
    scheme: str,
    request_id: str,
    trusted: bool,
) -> CIMultiDict[str]:
    """The request's fields as the backend gets them.

    `peer` is whoever is connected to us, `client` whom it may speak for. With `trusted` what it says of the client is
    kept and extended, else replaced. Names with an underscore are dropped, as nginx does: CGI and WSGI backends cannot
    tell X_Real_IP from X-Real-IP. So is Expect, which is answered here.
    """
    passed = CIMultiDict(
        (name, value)
        for name, value in end_to_end(headers).items()
        if "_" not in name and name.lower() != "expect" and (trusted or not _SPOKEN_FOR.fullmatch(name))
    )
    hops = [*passed.popall("X-Forwarded-For", ()), peer]
    passed["X-Forwarded-For"] = ", ".join(hops)
    passed["X-Real-IP"] = client
    passed["X-Request-ID"] = request_id
    passed.setdefault("X-Forwarded-Proto", scheme)
    if host := headers.get("Host"):
        passed.setdefault("X-Forwarded-Host", host)
    return passed


def backward(
    headers: CIMultiDictProxy[str] | CIMultiDict[str], *, request_id: str, upstream: str, scheme: str, host: str
) -> CIMultiDict[str]:
    """The answer's fields as the client gets them. `scheme` and `host` are those by which the client knows us.

    Raises:
        BackendGarbled: the body has a coding whose name would be lost here, or a field's name is none.
    """
    if any(name != name.strip() for name in headers):
        # aiohttp's parser takes it for an unknown field, and some client may take it for the one that it looks like.
        raise BackendGarbled("a blank before a colon")
    if headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise BackendGarbled("a Transfer-Encoding besides chunked")
    passed = end_to_end(headers)
    passed.setdefault("X-Request-ID", request_id)
    if location := passed.get("Location"):
        passed["Location"] = location_for(location, upstream=upstream, scheme=scheme, host=host)
    return passed


def request_id(headers: Mapping[str, str], *, trusted: bool, fresh: str) -> str:
    """The id under which this request stands in every log: that of a trusted proxy in front of us, or `fresh`."""
    given = headers.get("X-Request-ID", "")
    return given if trusted and _REQUEST_ID.fullmatch(given) else fresh


def location_for(location: str, *, upstream: str, scheme: str, host: str) -> str:
    """A redirect to the backend's own origin, turned into one to the client's; any other as it is."""
    try:
        target, own = urlsplit(location), urlsplit(upstream)
        same = target.scheme == own.scheme and (target.hostname, target.port or 80) == (own.hostname, own.port or 80)
    except ValueError:
        return location
    if not same or not host:
        return location
    return f"{scheme}://{host}{location[len(target.scheme) + len('://') + len(target.netloc) :]}"
