"""The outermost middleware: a request gets its id, its line in the log, and its errors are rendered."""

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import istr

from moorline.gateway.access_line import log_request
from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.common.access.middleware import REFUSAL, SECURITY_HEADERS, TooManyConnections
from moorline.gateway.common.web.aiohttp_private import app_of, items_of
from moorline.gateway.common.web.connection import BadRequestHandler
from moorline.gateway.common.web.route_name import describe
from moorline.gateway.common.web.sent import Sent
from moorline.gateway.common.web.statuses import CLIENT_CLOSED_REQUEST, SWITCHING_PROTOCOLS
from moorline.gateway.errors import GatewayError, Malformed, Unavailable, render
from moorline.gateway.keys import ACCESS_RULES, CAUSE, DESTINATION, METRICS, OUTCOME, REQUEST_ID, TRUSTED, UPSTREAM
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.handshake import asks_for_websocket
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.site.unreachable import stand_in, told

if TYPE_CHECKING:
    from moorline.gateway.metrics import Metrics

__all__ = ["access", "bad_request_handler", "fresh_id"]

log = logging.getLogger("moorline.gateway.access")

_CLIENT_CLOSED = Cause(Who.CLIENT, Reason.FIN, Moment.RESPONSE)
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
_KEPT = (hdrs.ALLOW, hdrs.CACHE_CONTROL, hdrs.RETRY_AFTER, hdrs.WWW_AUTHENTICATE)


@web.middleware
async def access(request: web.Request, handler: Handler) -> web.StreamResponse:
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
            response = _rendered(request, error)
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
        first, *others = (drawn[place : place + size] for place in range(0, len(drawn), size))
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


def _rendered(request: web.Request, error: BaseException) -> web.StreamResponse:
    """The response to what a handler raised; what is aiohttp's to handle is raised again."""
    if isinstance(error, web.HTTPException):
        if error.status < 400:
            raise error
        if isinstance(error, TooManyConnections):
            request[CAUSE] = Unavailable.cause
        kept = {str(name): error.headers[name] for name in _KEPT if name in error.headers}
        return _problem(request, error.status, error.text or error.reason, kept)
    if isinstance(error, GatewayError):
        return _failed(request, error)
    if isinstance(error, ConnectionError):
        request[CAUSE] = _CLIENT_CLOSED
        if request.transport is not None:
            # A response that was under way must not look complete.
            request.transport.abort()
        # aiohttp would log a traceback for the error.
        return Sent(status=CLIENT_CLOSED_REQUEST)
    if not isinstance(error, Exception):
        if isinstance(error, asyncio.CancelledError):
            # aiohttp cancels the handler of a client that closes its connection.
            request[CAUSE] = _CLIENT_CLOSED
        raise error
    log.error("a request failed in the gateway: request_id=%s", request[REQUEST_ID], exc_info=error)
    request[CAUSE] = GatewayError.cause
    return _problem(request, GatewayError.status, GatewayError.message, {})


def _failed(request: web.Request, error: GatewayError) -> web.StreamResponse:
    request[OUTCOME], request[CAUSE] = error.outcome, error.cause
    message = request[REFUSAL] = error.message_about(_upstream_of(request))
    if error.detail:
        _warn(request, error)
    if (page := stand_in(request, error)) is not None:
        return page
    retry = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return _problem(request, error.status, told(request, error) or message, retry)


def _upstream_of(request: web.Request) -> str:
    """What the request's route leads to, as its user knows it."""
    destination = request.get(DESTINATION)
    if destination is None or destination.route.owner is Owner.BACKEND:
        return "backend"
    return "front end" if destination.route.owner is Owner.FRONTEND else f"server of {destination.route.path}"


def _warn(request: web.Request, error: GatewayError) -> None:
    facts = {"upstream": request.get(UPSTREAM, "-"), "request_id": request[REQUEST_ID]}
    named = " ".join(f"{name}={fact}" for name, fact in facts.items())
    log.warning("%s: %s %s", type(error).__name__, error.detail, named, extra=facts)


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
        return _problem(request, status, reason, {hdrs.RETRY_AFTER: "1"} if status == _NO_ROOM else {})

    return respond


def _problem(request: web.BaseRequest, status: int, message: str, extra: dict[str, str]) -> web.Response:
    content_type, body = render(
        status,
        message,
        accept=request.headers.get(hdrs.ACCEPT, ""),
        request_id=request[REQUEST_ID],
        cause=request.get(CAUSE),
    )
    fixed = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Request-ID": request[REQUEST_ID]}
    return web.Response(status=status, body=body.encode(), headers=SECURITY_HEADERS | fixed | extra)
