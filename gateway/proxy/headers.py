"""Which headers pass a proxy, which it adds, and how they are written. Pure."""

import enum
import functools
import itertools
import operator
import re
from collections.abc import Callable, Mapping, Sequence, Set
from urllib.parse import SplitResult, urlsplit

from multidict import CIMultiDict, CIMultiDictProxy, istr

from moorline.gateway.errors import Malformed
from moorline.gateway.proxy.response import Response

__all__ = [
    "HOP_BY_HOP",
    "UPGRADE",
    "Fields",
    "bytes_of",
    "cookie_for",
    "encoded",
    "end_to_end",
    "header_lines",
    "location_for",
    "origin_form",
    "passes_as_it_is",
    "request_id",
    "response_fields",
    "text_of",
    "with_request_line",
]

Headers = CIMultiDictProxy[str] | CIMultiDict[str]
Fields = Sequence[tuple[bytes, bytes]]
"""The headers of a message, each with its name and value as they were sent."""

# RFC 9110 section 7.6.1: headers about one connection. They end here, in requests and in responses.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",  # never standard, still sent
        b"te",
        b"trailer",
        b"transfer-encoding",  # each hop frames the body anew
        b"upgrade",
    }
)
# Headers for which a response's are not passed on as they came.
_NOT_AS_THEY_ARE = HOP_BY_HOP | {b"location", b"set-cookie"}
_CONNECTION = istr("Connection")
_HOST = istr("Host")
_TRANSFER_ENCODING = istr("Transfer-Encoding")
# What says where a request goes and where it ends cannot be withdrawn by its sender: without its Content-Length a
# handshake would have its body read as the next request, which no access rule has seen. Nor can the id by which both
# sides have it in their logs.
_NOT_TO_NOMINATE = frozenset({b"host", b"content-length", b"x-request-id"})
# What Connection says of the connection itself.
_OPTIONS = frozenset({b"", b"close", b"keep-alive", b"upgrade"})
# RFC 9112 section 3.2: visible ASCII and no fragment. All else would reach the upstream as something not meant.
_TARGET = re.compile(r"[!-\"$-~]+")
# Written anew on each hop (RFC 9110 section 7.8).
UPGRADE = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
_UPGRADE_LINES = b"".join(b"%b: %b\r\n" % field for field in UPGRADE) + b"\r\n"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=@-]{1,128}")


_NOTHING: Mapping[bytes, bytes] = {}
_CRLF = b"\r\n"
_NAME_OF = operator.itemgetter(0)


class _Kind(enum.Enum):
    """What becomes of a request's header."""

    END_TO_END = "passes"
    DROPPED = "ends here"
    FORWARDED_FOR = "is extended, where it comes from a trusted proxy"
    FORWARDED = "passes, where it comes from a trusted proxy"


# Underscores are dropped as nginx does it: CGI and WSGI applications cannot tell X_Real_IP from X-Real-IP. Expect is
# answered here. X-Real-IP and X-Request-ID are written anew.
_DROPPED = HOP_BY_HOP | {b"expect", b"x-real-ip", b"x-request-id"}


# A client that names a trace could join those of others, and have all of its requests sampled.
_FORWARDED = frozenset({b"forwarded", b"traceparent", b"tracestate"})


def _kind(name: bytes) -> _Kind:
    lower = name.lower()
    if lower in _DROPPED or b"_" in lower:
        return _Kind.DROPPED
    if lower == b"x-forwarded-for":
        return _Kind.FORWARDED_FOR
    is_forwarded = lower in _FORWARDED or lower.startswith(b"x-forwarded-")
    return _Kind.FORWARDED if is_forwarded else _Kind.END_TO_END


# Of the few lists of names that clients send: to ask for each name was a twentieth of what a request took.
@functools.lru_cache(maxsize=64)
def _passing(names: tuple[bytes, ...], trusted: bool) -> tuple[bool, ...]:  # noqa: FBT001 - `lru_cache` looks up faster
    """Which of these headers pass, from a trusted proxy or from another client."""
    kinds = (_Kind.END_TO_END, _Kind.FORWARDED) if trusted else (_Kind.END_TO_END,)
    return tuple(_kind(name) in kinds for name in names)


# Of the few names that clients send.
@functools.lru_cache(maxsize=256)
def _is_about_client(name: bytes) -> bool:
    return _kind(name) in (_Kind.FORWARDED, _Kind.FORWARDED_FOR)


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


# Of the few values that clients and upstreams send.
@functools.lru_cache(maxsize=64)
def _nominated(connection: bytes) -> frozenset[bytes]:
    """The headers that the values of Connection, joined, name as hop-by-hop; in lower case.

    Not those about the client: a proxy that passes Connection on as it came would let its client withdraw what the
    proxy says of it, and count as the proxy.
    """
    names = frozenset(name.strip().lower() for name in connection.split(b",")) - _OPTIONS - _NOT_TO_NOMINATE
    return frozenset(name for name in names if not _is_about_client(name))


def with_request_line(method: str, target: str, lines: bytes, request_id: str, *, upgrade: bool = False) -> bytes:
    """The request line, these header lines, and the id in every log. `upgrade`: a WebSocket is asked for.

    Raises:
        ValueError: the method or the target holds a line break.
    """
    start = f"{method} {target} HTTP/1.1"
    # It lets no other control character pass, either.
    if not start.isprintable():
        raise ValueError("a line break in the request line")
    end = b"\r\n" if not upgrade else _UPGRADE_LINES
    return f"{start}\r\n".encode() + lines + f"X-Request-ID: {request_id}\r\n".encode() + end


def header_lines(
    headers: Headers,
    raw_headers: Fields,
    *,
    peer: str,
    client: str,
    scheme: str,
    trusted: bool,
    replaced: Mapping[bytes, bytes] = _NOTHING,
    added: Sequence[bytes] = (),
) -> bytes:
    """The headers of a request as the upstream gets them, with the names and values as the client wrote them; each line
    with its CRLF, and all but the request's id.

    `peer` is the address of the TCP connection, `client` that of the client behind trusted proxies. With `trusted` what
    the peer says of the client is kept and extended, else replaced. `replaced` holds headers, by their names in lower
    case, that are sent instead of the client's.

    Raises:
        ValueError: a header holds a line break.
    """
    left_out: Set[bytes] = replaced.keys()
    # Most name none: `Upgrade`, `keep-alive`.
    if _CONNECTION in headers and (nominated := _nominated(bytes_of(",".join(headers.getall(_CONNECTION))))):
        left_out = left_out | nominated
    if left_out:
        raw_headers = [field for field in raw_headers if field[0].lower() not in left_out]
    passed = itertools.compress(raw_headers, _passing(tuple(map(_NAME_OF, raw_headers)), trusted))
    # Parsers let no line break pass; one that did would let a client write a request here.
    given = encoded(list(passed))
    lines: list[bytes] = []
    host = headers.get(_HOST, "")
    spoken = trusted and list(itertools.compress(raw_headers, map(_is_about_client, map(_NAME_OF, raw_headers))))
    if spoken:
        hops = [value for name, value in spoken if name.lower() == b"x-forwarded-for"]
        lines += [b"X-Forwarded-For: " + b", ".join([*hops, peer.encode()]), f"X-Real-IP: {client}".encode()]
        if "X-Forwarded-Proto" not in headers:
            lines.append(b"X-Forwarded-Proto: " + scheme.encode())
        if host and "X-Forwarded-Host" not in headers:
            lines.append(_forwarded_host(host))
    else:
        lines.append(_forwarded(peer, client, scheme, host))
    lines += added
    if replaced:
        lines += [b"%b: %b" % (name.title(), value) for name, value in replaced.items()]
    if _TRANSFER_ENCODING in headers:
        lines.append(b"Transfer-Encoding: chunked")
    return given + _CRLF.join(lines) + _CRLF


# Of the few addresses and names by which one server's clients come.
@functools.lru_cache(maxsize=256)
def _forwarded(peer: str, client: str, scheme: str, host: str) -> bytes:
    """The headers about a client that no trusted proxy speaks for."""
    text = f"X-Forwarded-For: {peer}\r\nX-Real-IP: {client}\r\nX-Forwarded-Proto: {scheme}"
    return text.encode() + b"\r\n" + _forwarded_host(host) if host else text.encode()


def _forwarded_host(host: str) -> bytes:
    if "\r" in host or "\n" in host:
        raise ValueError("a line break in a header")
    return b"X-Forwarded-Host: " + bytes_of(host)


def end_to_end(response: Response) -> list[tuple[bytes, bytes]]:
    """The headers that pass: all but the hop-by-hop ones and those that Connection may and does name as such."""
    if response.names.keys().isdisjoint(HOP_BY_HOP):
        return response.fields
    dropped = HOP_BY_HOP | _nominated(b",".join(response.all(b"connection")))
    return [field for field in response.fields if field[0].lower() not in dropped]


def passes_as_it_is(response: Response) -> bool:
    """Whether `response_fields` would change none of the headers, but for the id that it may add."""
    return response.names.keys().isdisjoint(_NOT_AS_THEY_ARE)


def response_fields(
    response: Response, *, location: Callable[[str], str], cookie: Callable[[str], str] | None
) -> list[tuple[bytes, bytes]]:
    """The response's headers as the client gets them. `location` and `cookie` give the client's form of a Location and
    of a Set-Cookie, which stays as it is with None.
    """
    mapped = {b"location": location} if cookie is None else {b"location": location, b"set-cookie": cookie}
    return [
        (name, bytes_of(mapped[lower](text_of(value)))) if (lower := name.lower()) in mapped else (name, value)
        for name, value in end_to_end(response)
    ]


def encoded(fields: Fields) -> bytes:
    """The lines of these headers, each with its CRLF.

    Raises:
        ValueError: one of them holds a line break.
    """
    lines = b"\r\n".join([*map(b": ".join, fields), b""])
    # It ends a line at each CR, LF or CRLF.
    if len(lines.splitlines()) != len(fields):
        raise ValueError("a line break in a header")
    return lines


def text_of(value: bytes) -> str:
    """Text whose surrogates stand for bytes that are not UTF-8; `bytes_of` turns them back."""
    return value.decode("utf-8", "surrogateescape")


def bytes_of(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def request_id(headers: Mapping[str, str], *, trusted: bool, fresh: str) -> str:
    """The request's id in every log: that of a trusted proxy in front of the gateway, or `fresh`."""
    if not trusted:
        return fresh
    given = headers.get("X-Request-ID", "")
    return given if _REQUEST_ID.fullmatch(given) else fresh


def location_for(location: str, *, upstream: str, scheme: str, host: str, returned: Callable[[str], str] = str) -> str:
    """A redirect to the upstream's own origin, turned into one to the client's; any other as it is. `returned` gives
    the client's name of an upstream's path.
    """
    if "\t" in location:
        # `urlsplit` drops it, so that what it returns is not where it says in `location`.
        return location
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
