"""One WebSocket, top to bottom: check, exchange, switch, relay, log.

The upstream's response comes before the client's, so that its refusal and its choices pass. After the switch the
handler returns and no task is left: the tunnel is two transports and a timer.
"""

import dataclasses

from aiohttp import web

from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.common.web.sent import Sent
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS
from moorline.gateway.common.web.time_limit import TimeLimits
from moorline.gateway.errors import HandshakeTimeout
from moorline.gateway.keys import CAUSE, OUTCOME, REQUEST_ID, SETTINGS, TIME_LIMITS
from moorline.gateway.proxy import handshake
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.forward import forward, request_head
from moorline.gateway.proxy.proxied import pass_on
from moorline.gateway.proxy.response import Response
from moorline.gateway.proxy.tunnels import TUNNELS, Handshake, Tunnels

__all__ = ["websocket"]

_REJECTED = Cause(Who.UPSTREAM, Reason.REJECTED, Moment.RESPONSE)


async def websocket(request: web.Request) -> web.StreamResponse:
    """The handler of the chat's sockets; what asks for no upgrade is plain HTTP."""
    if not handshake.asks_for_upgrade(request.headers):
        return await forward(request)
    handshake.check_request(request.headers, request.version)
    app = request.app
    tunnels = app[TUNNELS]
    with tunnels.handshake(request) as place:
        return await tunnels.measured(_switched(request, app, tunnels, place))


async def _switched(
    request: web.Request, app: web.Application, tunnels: Tunnels, place: Handshake
) -> web.StreamResponse:
    """Open a tunnel, or pass the upstream's refusal on."""
    async with Exchange(request, request_head, upgrade=True) as exchange:
        response = await _response(exchange, app[TIME_LIMITS], app[SETTINGS].handshake_timeout)
        # Whether a 101 is one to WebSocket the exchange has found out.
        if response.status != SWITCHING_PROTOCOLS:
            request[OUTCOME], request[CAUSE] = "rejected_by_upstream", _REJECTED
            return await pass_on(response, exchange)
        request_id = request[REQUEST_ID]
        head = handshake.switch_head(response, request_id=request_id)
        answers_key = handshake.answers_key(request.headers, response)
        tunnels.open(exchange, head, request_id, handshake=place, answers_key=answers_key)
        return Sent(status=101)


async def _response(exchange: Exchange, limits: TimeLimits, handshake_timeout: float | None) -> Response:
    try:
        with limits.of(handshake_timeout):
            return await exchange.response()
    except TimeoutError:
        held = dataclasses.replace(HandshakeTimeout.cause, moment=Moment.HELD)
        raise HandshakeTimeout(cause=held if exchange.held else None) from None
