"""Plain HTTP to an upstream: /api, /docs, /openapi.json, and under /ws what asks for no upgrade."""

from aiohttp import hdrs, web

from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.errors import Malformed
from moorline.gateway.keys import REQUEST_ID, SETTINGS, TRUSTED
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.proxied import pass_on

__all__ = ["forward", "request_head"]


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass the request on and its response back, both as they come."""
    async with Exchange(request, request_head(request)) as exchange:
        return await pass_on(request, await exchange.response(), exchange)


def request_head(request: web.Request, *, upgrade: bool = False) -> bytes:
    """The request line and headers for the upstream."""
    settings = request.app[SETTINGS]
    added = []
    if hdrs.HOST not in request.headers:
        # A client of HTTP/1.0 may leave it out; HTTP/1.1 asks for one.
        added.append(b"Host: " + settings.upstream[0].removeprefix("http://").encode())
    if settings.upstream_keepalive is None and not upgrade:
        added.append(b"Connection: close")
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
            added=added,
        )
    except ValueError as error:
        raise Malformed("A header holds a line break.") from error
