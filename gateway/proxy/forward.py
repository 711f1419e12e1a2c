"""Plain HTTP to an upstream: /api, /docs, /openapi.json, and under /ws what asks for no upgrade."""

from aiohttp import hdrs, web
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.errors import Malformed
from moorline.gateway.keys import ACCESS_RULES, REQUEST_ID, SETTINGS
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.proxied import pass_on
from multidict import CIMultiDict, CIMultiDictProxy

__all__ = ["forward", "request_head"]


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass the request on and its response back, both as they come."""
    async with Exchange(request, request_head(request, request.headers)) as exchange:
        return await pass_on(request, await exchange.response(), exchange)


def request_head(
    request: web.Request, given: CIMultiDictProxy[str] | CIMultiDict[str], *, upgrade: bool = False
) -> bytes:
    """The request line and headers for the upstream."""
    settings = request.app[SETTINGS]
    peer = request.remote or ""
    passed = headers.request_headers(
        given,
        peer=peer,
        client=client_address(request),
        scheme=request.scheme,
        request_id=request[REQUEST_ID],
        trusted=request.app[ACCESS_RULES].trusts(peer),
    )
    # A client of HTTP/1.0 may have sent none, and HTTP/1.1 asks for one.
    passed.setdefault(hdrs.HOST, settings.upstream[0].removeprefix("http://"))
    if settings.upstream_keepalive is None and not upgrade:
        passed[hdrs.CONNECTION] = "close"
    target = headers.origin_form(request.raw_path)
    chunked = hdrs.TRANSFER_ENCODING in given
    try:
        return headers.request_head(request.method, target, passed, chunked=chunked, upgrade=upgrade)
    except ValueError as error:
        raise Malformed("A header holds a control character.") from error
