"""Plain HTTP to an upstream."""

import dataclasses
import functools
import itertools
from collections.abc import Mapping

from aiohttp import hdrs, web
from multidict import istr

from moorline.gateway.common import tracing
from moorline.gateway.common.access.middleware import is_preflight
from moorline.gateway.common.web.connection import Connection
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS, RequestLimits, taken
from moorline.gateway.errors import Loop, Malformed
from moorline.gateway.keys import ACCESS_RULES, DESTINATION, GATEWAY_ID, REQUEST_ID, SETTINGS, TRUSTED
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.proxied import begin, pass_on, sent_whole
from moorline.gateway.proxy.response import Response
from moorline.gateway.proxy.routes import Host, Owner, Route
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["forward", "request_head"]

# Not Via (RFC 9110 section 7.6.3), for which servers change what they send: nginx does not compress then.
_PASSED_BY = istr("X-Moorline-Gateway")
# Of the headers that a connection keeps, which may be one of ten thousand: with their copies 8 KiB at most.
_MOST_KEPT_BYTES = 2 << 10
_MOST_KEPT_LINES = 32
# In Python 3.11 a member of an enum takes three times a call to be found in its class.
_OF_UPSTREAM, _FRONTEND = Host.UPSTREAM, Owner.FRONTEND


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass the request on and its response back, both as they come."""
    exchange = Exchange(request, request_head, begin)
    limits: RequestLimits = exchange.of_app[REQUEST_LIMITS]
    limits.take(exchange.client)
    try:
        try:
            response = await exchange.response()
            if (proxied := sent_whole(exchange)) is not None:
                return proxied
            if request.method == hdrs.METH_OPTIONS and _leaves_cors_to_gateway(request, response):
                # `add_cors_headers` adds the rest.
                return web.Response(status=204)
            passed = await pass_on(response, exchange)
        finally:
            # Nearly no request has an upload left: none but those pays for a coroutine.
            exchange.close()
            if exchange.upload is not None:
                await exchange.upload_ended()
        await taken(request)
        return passed
    finally:
        limits.release(exchange.client)


def request_head(exchange: Exchange, upstream: Upstream) -> bytes:
    """The request line and headers for this upstream.

    Raises:
        Malformed: they cannot be passed on.
        Loop: this gateway has passed the request on before.
    """
    message = exchange.message
    target = exchange.destination.route.sent(headers.origin_form(message.path))
    try:
        # A connection that becomes a tunnel has no next request.
        lines = _written(exchange, upstream) if exchange.is_upgrade else _header_lines(exchange, upstream)
        request_id = exchange.items[REQUEST_ID]
        return headers.with_request_line(exchange.method, target, lines, request_id, upgrade=exchange.is_upgrade)
    except ValueError as error:
        raise Malformed("A header holds a line break.") from error


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """The lines for a connection's last request, and what differs between two of its requests that decides about them:
    the rest is the connection's or the application's.
    """

    raw_headers: headers.Fields
    route: Route
    url: str
    """The upstream's."""
    lines: bytes


def _header_lines(exchange: Exchange, upstream: Upstream) -> bytes:
    """The headers for the upstream. A client sends the same ones again and again, most of all one that polls, and to
    compare them costs less than to write them anew.
    """
    connection, raw_headers, route = exchange.protocol, exchange.message.raw_headers, exchange.destination.route
    if not isinstance(connection, Connection):
        return _written(exchange, upstream)
    kept = connection.kept
    if isinstance(kept, _Kept):
        if kept.raw_headers == raw_headers and kept.route is route and kept.url == upstream.url:
            return kept.lines
        connection.kept = None
    lines = _written(exchange, upstream)
    # Each request is another step of a trace.
    if _is_small(raw_headers) and not tracing.is_on():
        connection.kept = _Kept(raw_headers, route, upstream.url, lines)
    return lines


def _written(exchange: Exchange, upstream: Upstream) -> bytes:
    """The headers for the upstream, anew."""
    request, of_app = exchange.request, exchange.of_app
    added = [_passed_by(of_app[GATEWAY_ID])]
    if of_app[SETTINGS].upstream_keepalive is None and not exchange.is_upgrade:
        added.append(b"Connection: close")
    return headers.header_lines(
        request.headers,
        exchange.message.raw_headers,
        peer=request.remote or "",
        client=exchange.client,
        scheme=request.scheme,
        trusted=exchange.items[TRUSTED],
        replaced=_replaced(exchange, upstream),
        added=added,
    )


def _replaced(exchange: Exchange, upstream: Upstream) -> Mapping[bytes, bytes]:
    """The headers, by their names in lower case, that are sent in place of the client's."""
    given, route, gateway_id = exchange.request.headers, exchange.destination.route, exchange.of_app[GATEWAY_ID]
    if _PASSED_BY in given and gateway_id in given.getall(_PASSED_BY):
        raise Loop(route.path, upstream.url)
    replaced: dict[bytes, bytes] = {}
    # A client of HTTP/1.0 may leave Host out; HTTP/1.1 asks for one.
    if route.host is _OF_UPSTREAM or hdrs.HOST not in given:
        replaced[b"host"] = upstream.authority
    if route.owner is _FRONTEND and _is_own_origin(exchange.request):
        replaced[b"origin"] = upstream.url.encode()
    if tracing.is_on():
        # In the place of the client's, which is not one of this trace, or its parent.
        replaced |= {name.encode(): value.encode() for name, value in tracing.outgoing().items()}
    return replaced


def _is_small(raw_headers: headers.Fields) -> bool:
    """Whether a connection may keep them: those that do not pass, which may be large, are in its memory, too."""
    size = len(b"".join(itertools.chain.from_iterable(raw_headers)))
    return size <= _MOST_KEPT_BYTES and len(raw_headers) <= _MOST_KEPT_LINES


@functools.lru_cache(maxsize=4)
def _passed_by(gateway_id: str) -> bytes:
    return f"{_PASSED_BY}: {gateway_id}".encode()


def _leaves_cors_to_gateway(request: web.Request, response: Response) -> bool:
    """Whether this is a preflight, and the server of a route says nothing of an origin that the gateway allows."""
    return (
        is_preflight(request)
        and request[DESTINATION].route.owner is Owner.USER
        and b"access-control-allow-origin" not in response.names
        and bool(request.app[ACCESS_RULES].cors_headers(request.headers.get(hdrs.ORIGIN)))
    )


def _is_own_origin(request: web.Request) -> bool:
    """Whether Origin names the gateway. A dev server tells its own page from another site's by Host and Origin; it gets
    both as at its own address, and needs no configuration for the gateway's.
    """
    origin = request.headers.get(hdrs.ORIGIN)
    return bool(origin) and request.app[ACCESS_RULES].allows_origin(origin, request.headers.get(hdrs.HOST, ""))
