"""One WebSocket, top to bottom: check, exchange, switch, relay, log.

The upstream's response comes before the client's, so that its refusal and its choices pass. After the switch the
handler returns and no task is left: the tunnel is two transports and a timer.
"""

import dataclasses
from collections.abc import Awaitable

from aiohttp import web

from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.common.web.aiohttp_private import app_of, items_of
from moorline.gateway.common.web.sent import Sent
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS
from moorline.gateway.errors import HandshakeTimeout
from moorline.gateway.keys import CAUSE, OUTCOME, REQUEST_ID, SETTINGS, TIME_LIMITS
from moorline.gateway.proxy import handshake
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.forward import forward, request_head
from moorline.gateway.proxy.proxied import pass_on
from moorline.gateway.proxy.tunnels import TUNNELS, Tunnels

__all__ = ["websocket"]

_REJECTED = Cause(Who.UPSTREAM, Reason.REJECTED, Moment.RESPONSE)


# No coroutine: each would be one more to resume, where a request waits.
def websocket(request: web.Request) -> Awaitable[web.StreamResponse]:
    """The handler of the chat's sockets; what asks for no upgrade is plain HTTP."""
    asked = handshake.protocols(request.headers)
    if not asked:
        return forward(request)
    handshake.check_request(asked, request.version)
    tunnels: Tunnels = items_of(app_of(request))[TUNNELS]
    return tunnels.measured(_switched(request, tunnels))


async def _switched(request: web.Request, tunnels: Tunnels) -> web.StreamResponse:
    """Open a tunnel, or pass the upstream's refusal on."""
    exchange = Exchange(request, request_head, upgrade=True)
    of_app, is_open = exchange.of_app, False
    tunnels.admit(exchange.client)
    try:
        try:
            with of_app[TIME_LIMITS].of(of_app[SETTINGS].handshake_timeout):
                response = await exchange.response()
        except TimeoutError:
            raise _timed_out(exchange) from None
        # Whether a 101 is one to WebSocket the exchange has found out.
        if response.status != SWITCHING_PROTOCOLS:
            request[OUTCOME], request[CAUSE] = "rejected_by_upstream", _REJECTED
            return await pass_on(response, exchange)
        head = handshake.switch_head(response, request_id=exchange.items[REQUEST_ID])
        tunnels.open(exchange, head, answers_key=handshake.answers_key(request.headers, response))
        is_open = True
        return Sent(status=SWITCHING_PROTOCOLS)
    finally:
        if not is_open:
            tunnels.dismiss(exchange.client)
        # Nearly no request has an upload left: none but those pays for a coroutine.
        exchange.close()
        if exchange.upload is not None:
            await exchange.upload_ended()


def _timed_out(exchange: Exchange) -> HandshakeTimeout:
    held = dataclasses.replace(HandshakeTimeout.cause, moment=Moment.HELD)
    return HandshakeTimeout(cause=held if exchange.held else None)
