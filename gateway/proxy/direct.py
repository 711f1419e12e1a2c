"""Requests for an upstream, and for /healthz, past aiohttp's router, which would take a tenth of each to find what
`Routes` knows and which template fits.

They get the same middlewares and the same request. What the router finds in a path is empty: handlers here ask for
none of it.
"""

import functools
from collections.abc import Awaitable, Sequence
from typing import cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from moorline.gateway.common.web.aiohttp_private import items_of, message_of, pass_router
from moorline.gateway.common.web.server import DIRECT_HANDLER, DirectHandler
from moorline.gateway.keys import DESTINATION, ROUTES
from moorline.gateway.proxy.routing import DIRECT, route_middleware
from moorline.gateway.proxy.templates import Templates

__all__ = ["Routed", "add_direct_handler"]

Routed = tuple[str, web.AbstractRoute]
"""A template and the route that the application has for it."""


def add_direct_handler(app: web.Application, proxied: Sequence[Routed], healthz: Routed) -> None:
    """Handle requests that a template of `proxied` fits directly, and GET requests for the path of `healthz`.

    All routes of the gateway are there. Where a program that embeds it adds others before the start, which may take
    the same paths, each request goes through the router.
    """
    resources = len(app.router.resources())

    async def set_handler(app: web.Application) -> None:
        if len(app.router.resources()) == resources:
            # An application makes no requests but these.
            app[DIRECT_HANDLER] = cast("DirectHandler", functools.partial(_direct_handler, app, proxied, healthz))

    app.on_startup.append(set_handler)


def _direct_handler(app: web.Application, proxied: Sequence[Routed], healthz: Routed, router: Handler) -> Handler:
    """Handles what it can itself, and leaves the `router` the rest."""
    templates, routes = Templates([template for template, _ in proxied]), app[ROUTES]
    found = [_found(app, route) for _, route in proxied]
    healthz_path, found_healthz = healthz[0], _found(app, healthz[1])

    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        message = message_of(request)
        path = request.rel_url.raw_path
        if hdrs.EXPECT in message.headers:
            # aiohttp answers Expect.
            return router(request)
        if (destination := routes.match(path)) is None:
            if path != healthz_path or message.method != hdrs.METH_GET:
                return router(request)
            match_info, handler = found_healthz
        elif (place := templates.find(path)) is None:
            return router(request)
        else:
            items_of(request)[DESTINATION] = destination
            match_info, handler = found[place]
        pass_router(request, match_info)
        return handler(request)

    return handle


def _found(app: web.Application, route: web.AbstractRoute) -> tuple[web.UrlMappingMatchInfo, Handler]:
    """What the router would find, and the route's handler within the middlewares."""
    handler: Handler = DIRECT.get(route.handler, route.handler)
    for middleware in reversed(app.middlewares):
        if middleware is not route_middleware:
            handler = _within(middleware, handler)
    match_info = web.UrlMappingMatchInfo({}, route)
    match_info.add_app(app)
    match_info.freeze()
    return match_info, handler


def _within(middleware: Middleware, handler: Handler) -> Handler:
    # A `functools.partial` would make a dictionary for each request: it can give `handler` by its name alone.
    def handle(request: web.Request) -> Awaitable[web.StreamResponse]:
        return middleware(request, handler)

    return handle
