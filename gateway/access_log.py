"""The middleware around all handlers: a request gets its id, is counted, and leaves its line in the log."""

import logging
import os
import time
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import istr

from moorline.gateway.access_line import log_request
from moorline.gateway.common.web.aiohttp_private import app_of, items_of
from moorline.gateway.common.web.connection import BadRequestHandler
from moorline.gateway.common.web.route_name import describe
from moorline.gateway.common.web.statuses import CLIENT_CLOSED_REQUEST, SWITCHING_PROTOCOLS
from moorline.gateway.error_response import problem, response_to
from moorline.gateway.errors import Malformed
from moorline.gateway.keys import ACCESS_RULES, CAUSE, DESTINATION, METRICS, OUTCOME, REQUEST_ID, TRUSTED
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.handshake import asks_for_websocket

if TYPE_CHECKING:
    from moorline.gateway.metrics import Metrics

__all__ = ["access_log", "bad_request_handler", "fresh_id"]

log = logging.getLogger("moorline.gateway.access")

_X_REQUEST_ID = istr("X-Request-ID")
# Of an id: a sixth of what `uuid4` costs, and as random. The kernel is asked for many at a time.
_ID_BYTES = 16
_IDS_AT_ONCE = 64
_ids: list[str] = []
# Two processes must not have the same ones.
os.register_at_fork(after_in_child=_ids.clear)
# Of a handshake; any other status is the access middleware's or the authorize hook's.
_OUTCOMES = {SWITCHING_PROTOCOLS: "opened", CLIENT_CLOSED_REQUEST: "client_closed", 500: "internal_error"}
# What stands for the route where there is no request.
_NOT_A_REQUEST = "(unreadable)"
_WORDS = {
    431: "The headers of the request are too large: 8 kB in one line, or 32 kB in all.",
    501: "The only Transfer-Encoding here is chunked.",
    503: "There is no room for another request at the moment.",
    505: "The versions of HTTP here are 1.0 and 1.1.",
}
_NO_ROOM = 503


@web.middleware
async def access_log(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle the request and log its result in one line."""
    items, of_app = items_of(request), items_of(app_of(request))
    trusted = items[TRUSTED] = of_app[ACCESS_RULES].trusts(request.remote or "")
    fresh = fresh_id()
    given = trusted and _X_REQUEST_ID in request.headers
    items[REQUEST_ID] = headers.request_id(request.headers, trusted=trusted, fresh=fresh) if given else fresh
    began, status = time.monotonic(), CLIENT_CLOSED_REQUEST
    try:
        try:
            response = await handler(request)
        except BaseException as error:
            response = response_to(request, error)
        status = response.status
        return response
    finally:
        seconds = time.monotonic() - began
        if METRICS in of_app:
            _count(of_app[METRICS], request, status, seconds)
        # A socket has its own line, with the same facts.
        if status != SWITCHING_PROTOCOLS:
            log_request(request, items, status, seconds)


def fresh_id() -> str:
    """An id for a request, which cannot be guessed. Also for gateways in several threads."""
    try:
        return _ids.pop()
    except IndexError:
        drawn = os.urandom(_ID_BYTES * _IDS_AT_ONCE).hex()
        size = 2 * _ID_BYTES
        first, *others = [drawn[place : place + size] for place in range(0, len(drawn), size)]
        _ids.extend(others)
        return first


def _count(metrics: "Metrics", request: web.Request, status: int, seconds: float) -> None:
    """Count a handshake by its outcome, any other request by its duration, and a failure by its cause."""
    if CAUSE in request:
        metrics.failed(request[CAUSE])
    if DESTINATION in request and asks_for_websocket(request.headers):
        metrics.handshake(request.get(OUTCOME) or _OUTCOMES.get(status, "rejected"), seconds)
    else:
        metrics.request(request.method, describe(request), status, seconds)


def bad_request_handler(app: web.Application) -> BadRequestHandler:
    """The handler of bytes that are no request, with its line in the log. No header of theirs is believed."""

    def respond(request: web.BaseRequest, status: int) -> web.Response:
        request[REQUEST_ID] = fresh_id()
        if METRICS in app:
            app[METRICS].request("", _NOT_A_REQUEST, status, 0.0)
        reason, client = _WORDS.get(status, Malformed.message), request.remote or ""
        facts = {"status": status, "client": client, "request_id": request[REQUEST_ID], "refused": reason}
        text = '- %s %d client=%s request_id=%s refused="%s"'
        log.info(text, _NOT_A_REQUEST, status, client, request[REQUEST_ID], reason, extra=facts)
        return problem(request, status, reason, {hdrs.RETRY_AFTER: "1"} if status == _NO_ROOM else {})

    return respond
