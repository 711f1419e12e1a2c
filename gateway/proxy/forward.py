"""Plain HTTP to an upstream."""

import functools

from aiohttp import hdrs, web
from multidict import istr

from moorline.gateway.common import tracing
from moorline.gateway.common.access.middleware import is_preflight
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS, is_untaken, taken
from moorline.gateway.errors import Loop, Malformed
from moorline.gateway.keys import ACCESS_RULES, DESTINATION, GATEWAY_ID, REQUEST_ID, SETTINGS, TRUSTED
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.proxied import begin, pass_on
from moorline.gateway.proxy.response import Response
from moorline.gateway.proxy.routes import Host, Owner
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["forward", "request_head"]

# Not Via (RFC 9110 section 7.6.3), for which servers change what they send: nginx does not compress then.
_PASSED_BY = istr("X-Moorline-Gateway")


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass the request on and its response back, both as they come."""
    exchange = Exchange(request, request_head, begin=begin)
    limits = exchange.app[REQUEST_LIMITS]
    limits.take(exchange.client)
    try:
        async with exchange:
            response = await exchange.response()
            if request.method == hdrs.METH_OPTIONS and _leaves_cors_to_gateway(request, response):
                # `add_cors_headers` adds the rest.
                return web.Response(status=204)
            proxied = await pass_on(response, exchange)
        if is_untaken(request):
            await taken(request)
        return proxied
    finally:
        limits.release(exchange.client)


def request_head(exchange: Exchange, upstream: Upstream) -> bytes:
    """The request line and headers for this upstream.

    Raises:
        Malformed: they cannot be passed on.
        Loop: this gateway has passed the request on before.
    """
    app, request, route, upgrade = exchange.app, exchange.request, exchange.destination.route, exchange.is_upgrade
    given, gateway_id = request.headers, app[GATEWAY_ID]
    if _PASSED_BY in given and gateway_id in given.getall(_PASSED_BY):
        raise Loop(route.path, upstream.url)
    replaced: dict[bytes, bytes] = {}
    # A client of HTTP/1.0 may leave Host out; HTTP/1.1 asks for one.
    if route.host is Host.UPSTREAM or hdrs.HOST not in given:
        replaced[b"host"] = upstream.authority
    if route.owner is Owner.FRONTEND and _is_own_origin(request):
        replaced[b"origin"] = upstream.url.encode()
    if tracing.is_on():
        # In the place of the client's, which is not one of this trace, or its parent.
        replaced |= {name.encode(): value.encode() for name, value in tracing.outgoing().items()}
    added = [_passed_by(gateway_id)]
    if app[SETTINGS].upstream_keepalive is None and not upgrade:
        added.append(b"Connection: close")
    try:
        return headers.request_head(
            request.method,
            route.sent(headers.origin_form(request.raw_path)),
            given,
            request.raw_headers,
            peer=request.remote or "",
            client=exchange.client,
            scheme=request.scheme,
            request_id=request[REQUEST_ID],
            trusted=request[TRUSTED],
            upgrade=upgrade,
            replaced=replaced,
            added=added,
        )
    except ValueError as error:
        raise Malformed("A header holds a line break.") from error


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
