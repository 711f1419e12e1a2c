"""The response to what a handler of the gateway raised, and what of it is only for the log."""

import asyncio
import logging

from aiohttp import hdrs, web

from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.common.access.authorize import CHALLENGE, HookFailed
from moorline.gateway.common.access.middleware import REFUSAL, SECURITY_HEADERS, TooManyConnections
from moorline.gateway.common.web.sent import Sent
from moorline.gateway.common.web.statuses import CLIENT_CLOSED_REQUEST, UNAUTHORIZED
from moorline.gateway.errors import CUT, GatewayError, Unavailable, render
from moorline.gateway.keys import CAUSE, DESTINATION, DRAINING, OUTCOME, REQUEST_ID, UPSTREAM
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.site.unreachable import stand_in, told

__all__ = ["problem", "response_to"]

log = logging.getLogger("moorline.gateway.access")

_CLIENT_CLOSED = Cause(Who.CLIENT, Reason.FIN, Moment.RESPONSE)
# Of an error of aiohttp's, which is rendered anew.
_KEPT = (hdrs.ALLOW, hdrs.CACHE_CONTROL, hdrs.RETRY_AFTER, hdrs.WWW_AUTHENTICATE)


def response_to(request: web.Request, error: BaseException) -> web.StreamResponse:
    """The response to what a handler raised; what is aiohttp's to handle is raised again."""
    if isinstance(error, web.HTTPException):
        if error.status < 400:
            raise error
        if isinstance(error, TooManyConnections):
            request[CAUSE] = Unavailable.cause
        kept = {str(name): error.headers[name] for name in _KEPT if name in error.headers}
        if error.status == UNAUTHORIZED:
            kept.setdefault(str(hdrs.WWW_AUTHENTICATE), CHALLENGE)
        return problem(request, error.status, error.text or error.reason, kept)
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
            # aiohttp cancels the handler of a client that closes its connection, and those that are left after a drain.
            request[CAUSE] = CUT if request.app[DRAINING].is_over() else _CLIENT_CLOSED
        raise error
    if isinstance(error, HookFailed):
        log.error("a request failed: %s request_id=%s", error, request[REQUEST_ID])
    else:
        log.error("a request failed in the gateway: request_id=%s", request[REQUEST_ID], exc_info=error)
    request[CAUSE] = GatewayError.cause
    return problem(request, GatewayError.status, GatewayError.message, {})


def problem(request: web.BaseRequest, status: int, message: str, extra: dict[str, str]) -> web.Response:
    """An error as the client gets it, see `errors.render`, with these headers beside the usual ones."""
    content_type, body = render(
        status,
        message,
        accept=request.headers.get(hdrs.ACCEPT, ""),
        request_id=request[REQUEST_ID],
        cause=request.get(CAUSE),
    )
    fixed = {"Content-Type": content_type, "Cache-Control": "no-store", "X-Request-ID": request[REQUEST_ID]}
    return web.Response(status=status, body=body.encode(), headers=SECURITY_HEADERS | fixed | extra)


def _failed(request: web.Request, error: GatewayError) -> web.StreamResponse:
    request[OUTCOME], request[CAUSE] = error.outcome, error.cause
    message = request[REFUSAL] = error.message_about(_upstream_of(request))
    if error.detail:
        _warn(request, error)
    if (page := stand_in(request, error)) is not None:
        return page
    retry = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return problem(request, error.status, told(request, error) or message, retry)


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
