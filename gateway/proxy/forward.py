"""Plain HTTP to an upstream."""

import functools

from aiohttp import hdrs, web

from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS, taken
from moorline.gateway.errors import Malformed
from moorline.gateway.keys import ACCESS_RULES, DESTINATION, REQUEST_ID, SETTINGS, TRUSTED
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.proxied import pass_on
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["forward", "request_head"]


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass the request on and its response back, both as they come."""
    with request.app[REQUEST_LIMITS].place(request):
        async with Exchange(request, functools.partial(request_head, request)) as exchange:
            response = await pass_on(request, await exchange.response(), exchange)
        await taken(request)
        return response


def request_head(request: web.Request, upstream: Upstream, *, upgrade: bool = False) -> bytes:
    """The request line and headers for this upstream."""
    replaced = {}
    if hdrs.HOST not in request.headers:
        # A client of HTTP/1.0 may leave it out; HTTP/1.1 asks for one.
        replaced[b"host"] = upstream.authority
    if request[DESTINATION].route.owner is Owner.FRONTEND:
        replaced = _as_on_its_own_port(request, upstream)
    added = [b"Connection: close"] if request.app[SETTINGS].upstream_keepalive is None and not upgrade else []
    try:
        return headers.request_head(
            request.method,
            headers.origin_form(request.raw_path),
            request.headers,
            request.raw_headers,
            peer=request.remote or "",
            client=client_address(request),
            scheme=request.scheme,
            request_id=request[REQUEST_ID],
            trusted=request[TRUSTED],
            upgrade=upgrade,
            replaced=replaced,
            added=added,
        )
    except ValueError as error:
        raise Malformed("A header holds a line break.") from error


def _as_on_its_own_port(request: web.Request, upstream: Upstream) -> dict[bytes, bytes]:
    """The headers by which a dev server tells its own page from that of another site, as it gets them at its own
    address: it needs no configuration for the gateway's. An origin that the gateway does not accept stays as it is.
    """
    replaced = {b"host": upstream.authority}
    origin = request.headers.get(hdrs.ORIGIN)
    if origin and request.app[ACCESS_RULES].allows_origin(origin, request.headers.get(hdrs.HOST, "")):
        replaced[b"origin"] = upstream.url.encode()
    return replaced
