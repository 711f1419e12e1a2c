"""Finds the route of each request, and handles those that have one: a handshake becomes a tunnel, all else is HTTP."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from moorline.gateway.common.access.paths import dots, is_chat, refusal
from moorline.gateway.common.web.aiohttp_private import items_of
from moorline.gateway.errors import Malformed
from moorline.gateway.keys import DESTINATION, ROUTES
from moorline.gateway.proxy.forward import forward
from moorline.gateway.proxy.handshake import asks_for_websocket
from moorline.gateway.proxy.headers import origin_form
from moorline.gateway.proxy.routes import Destination, Owner, Route
from moorline.gateway.proxy.websocket import websocket

__all__ = [
    "DIRECT",
    "dispatch",
    "is_for_other_backend",
    "is_foreign",
    "proxy",
    "proxy_socket",
    "route_middleware",
]


_USER = Owner.USER


@web.middleware
async def route_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost one: the others decide by the route."""
    if (destination := request.app[ROUTES].match(request.rel_url.raw_path)) is not None:
        request[DESTINATION] = destination
    return await handler(request)


async def proxy(request: web.Request) -> web.StreamResponse:
    """`dispatch` as aiohttp's router takes it."""
    return await dispatch(request)


async def proxy_socket(request: web.Request) -> web.StreamResponse:
    """`websocket` as aiohttp's router takes it."""
    return await websocket(request)


def dispatch(request: web.Request) -> Awaitable[web.StreamResponse]:
    """Pass the request on. One for an upgrade to anything but WebSocket is served without (RFC 9110 section 7.8)."""
    destination: Destination | None = items_of(request).get(DESTINATION)
    if destination is None:
        # The gateway's own, though it is below a route for all paths.
        raise web.HTTPNotFound(text="There is nothing at this address.")
    if destination.route.owner is _USER and (reason := _refusal(request, destination.route)) is not None:
        raise Malformed(reason)
    upgrades = hdrs.UPGRADE in request.headers and destination.upgrades and asks_for_websocket(request.headers)
    return (websocket if upgrades else forward)(request)


DIRECT: Mapping[object, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    proxy: dispatch,
    proxy_socket: websocket,
}
"""What does the same as a handler of the router's, by one coroutine less."""


def _refusal(request: web.Request, route: Route) -> str | None:
    """Why a path that a route of the user takes is refused: it would leave the route, at a server that has more than
    what the route names, or it leads to the backend in a spelling that has two readings.
    """
    return dots(request.raw_path) or refusal(route.sent(origin_form(request.raw_path)))


def is_foreign(request: web.Request) -> bool:
    """Whether it is for a server with rules of its own about bodies and other origins, not for the chat backend."""
    destination = request.get(DESTINATION)
    return destination is not None and destination.route.owner in (Owner.USER, Owner.FRONTEND)


def is_for_other_backend(request: web.Request) -> bool:
    """Whether it is for an address that moorline's backend does not have, but the user's may: uploads and forms, a
    sign-in for example, are its own. Pages of other sites cannot post them, since they say their Origin."""
    destination = request.get(DESTINATION)
    return destination is not None and destination.route.owner is Owner.BACKEND and not is_chat(request.raw_path)
