"""The span of each request that a program serves. Only added to an application where traces are on."""

import asyncio
from http import HTTPMethod

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from moorline.gateway.common import tracing
from moorline.gateway.common.access.rules import AccessRules
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.web.route_name import describe
from moorline.gateway.common.web.statuses import CLIENT_CLOSED_REQUEST, SWITCHING_PROTOCOLS

__all__ = ["add_tracing"]

_SPAN = web.RequestKey("span", tracing.Span)
_SERVER_ERROR = 500
_METHODS = frozenset(HTTPMethod)
# Of one that a client made up.
_LONGEST_METHOD = 32


def add_tracing(app: web.Application, settings: CommonSettings) -> None:
    """Give each request a span around all other middlewares, where traces are on.

    That of a WebSocket's handshake ends with its 101: the socket may live for days, and its messages have spans of
    their own. A trace goes on only where a trusted proxy names it: a client that sets `traceparent` could join the
    traces of others, and have all of its requests sampled.
    """
    if not tracing.is_on():
        return
    rules = AccessRules.of(settings)

    async def switched(request: web.Request, response: web.StreamResponse) -> None:
        if response.status == SWITCHING_PROTOCOLS:
            _end(request, response.status)

    app.middlewares.insert(0, _middleware(rules))
    app.on_response_prepare.append(switched)


def _middleware(rules: AccessRules) -> Middleware:
    @web.middleware
    async def trace(request: web.Request, handler: Handler) -> web.StreamResponse:
        parent = {}
        if rules.trusts(request.remote or ""):
            parent = {name: request.headers[name] for name in tracing.TRACE_HEADERS if name in request.headers}
        span = tracing.begin(_named(request), "server", parent=parent, **_method(request))
        request[_SPAN] = span
        status = _SERVER_ERROR
        try:
            with tracing.current(span):
                response = await handler(request)
            status = response.status
            return response
        except web.HTTPException as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = CLIENT_CLOSED_REQUEST
            raise
        finally:
            _end(request, status)

    return trace


def _named(request: web.Request) -> str:
    """The method in a span's name, of which there must be few: of a method that a client made up `HTTP`, as
    OpenTelemetry's conventions have it."""
    return request.method if request.method in _METHODS else "HTTP"


def _method(request: web.Request) -> dict[str, str]:
    if request.method in _METHODS:
        return {"http__request__method": request.method}
    return {
        "http__request__method": "_OTHER",
        "http__request__method_original": request.method[:_LONGEST_METHOD],
    }


def _end(request: web.Request, status: int) -> None:
    """End its span, unless that has ended with the 101: the library warns of what comes later."""
    span, request[_SPAN] = request[_SPAN], tracing.NO_SPAN
    route = describe(request)
    span.rename(f"{_named(request)} {route}")
    span.set(http__route=route, http__response__status_code=status, url__scheme=request.scheme)
    if hdrs.UPGRADE in request.headers:
        span.set(network__protocol__name="websocket")
    if status >= _SERVER_ERROR:
        span.fail(str(status))
    span.end()
