"""One WebSocket, top to bottom: check, dial, switch, relay, log.

The backend is dialled first and the client answered second, so that the backend's refusal and its choices pass. After
the switch the handler returns and leaves nothing behind: the tunnel lives on two transports and a timer.
"""

import contextlib

from aiohttp import web
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.keys import ACCESS_RULES, OUTCOME, REQUEST_ID, SETTINGS
from moorline.gateway.proxy import api, handshake, headers, refusal
from moorline.gateway.proxy.dial import Reached, reach
from moorline.gateway.proxy.tunnels import TUNNELS
from moorline.gateway.proxy.upgrade import Switched
from moorline.gateway.proxy.verbatim import VerbatimResponse
from multidict import CIMultiDict

__all__ = ["websocket"]


async def websocket(request: web.Request) -> web.StreamResponse:
    """The handler of everything under /ws; what is no handshake is plain HTTP."""
    fields = handshake.fields(request.raw_headers)
    if not handshake.asks_for_upgrade(fields):
        return await api.forward(request)
    handshake.check_request(fields, request.version)
    tunnels = request.app[TUNNELS]
    with tunnels.handshake(), contextlib.ExitStack() as connected:
        reached = await reach(request, _request_head(request, fields))
        connected.callback(reached.connection.abort)
        connected.callback(reached.upstream.release)
        if not reached.switches:
            request[OUTCOME] = "refused_by_backend"
            return await refusal.pass_on(request, _refusal(request, reached), reached.body, request.app[SETTINGS])
        head = handshake.switch_head(reached.answer, request_id=request[REQUEST_ID])
        tunnels.open(request, reached, head, on_end=reached.upstream.release)
        # Both connections are the tunnel's now.
        connected.pop_all()
        return Switched()


def _request_head(request: web.Request, fields: CIMultiDict[str]) -> bytes:
    return handshake.request_head(
        request.method,
        headers.origin_form(request.raw_path),
        fields,
        peer=request.remote or "",
        client=client_address(request),
        scheme=request.scheme,
        request_id=request[REQUEST_ID],
        trusted=_trusted(request),
        chunked="Transfer-Encoding" in fields,
    )


def _refusal(request: web.Request, reached: Reached) -> web.StreamResponse:
    answer = reached.answer
    passed = headers.backward(
        answer.fields,
        request_id=request[REQUEST_ID],
        upstream=reached.upstream.url,
        scheme=request.headers.get("X-Forwarded-Proto", request.scheme) if _trusted(request) else request.scheme,
        host=request.headers.get("Host", ""),
    )
    return VerbatimResponse(status=answer.status, reason=answer.reason, headers=passed)


def _trusted(request: web.Request) -> bool:
    return request.app[ACCESS_RULES].trusts(request.remote or "")
