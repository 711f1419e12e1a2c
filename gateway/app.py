"""The gateway's application: what is served where."""

import logging
import secrets
from collections.abc import AsyncIterator

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from moorline.gateway.access_log import access_log, bad_request_handler
from moorline.gateway.common.access.authorize import Authorize, hook_of, warn_if_open
from moorline.gateway.common.access.jwt import jwt_authorize
from moorline.gateway.common.access.middleware import access_middleware, add_cors_headers
from moorline.gateway.common.access.rights import Rights
from moorline.gateway.common.access.rules import AccessRules
from moorline.gateway.common.web.connection import BAD_REQUEST_HANDLER, CONNECTION_TIMEOUTS, ConnectionTimeouts
from moorline.gateway.common.web.draining import Draining
from moorline.gateway.common.web.metrics_port import METRICS_PORT, METRICS_SOCKET, METRICS_WAIT, MetricsPort
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS, RequestLimits, limited
from moorline.gateway.common.web.server import ACCEPT_THROUGH
from moorline.gateway.common.web.time_limit import TimeLimits
from moorline.gateway.common.web.tls import SERVER_TLS, ServerTls
from moorline.gateway.common.web.traced import add_tracing
from moorline.gateway.inspector.handlers import add_inspector
from moorline.gateway.keys import (
    ACCESS_RULES,
    DESTINATION,
    DRAINING,
    GATEWAY_ID,
    LIVE_FAULTS,
    METRICS,
    RIGHTS,
    ROUTES,
    SETTINGS,
    TIME_LIMITS,
    UPSTREAMS,
)
from moorline.gateway.proxy import health
from moorline.gateway.proxy.authorize import authorize_middleware, note_begun
from moorline.gateway.proxy.commands import set_commands
from moorline.gateway.proxy.configured import configured_routes
from moorline.gateway.proxy.direct import Routed, add_direct_handler
from moorline.gateway.proxy.followed_hook import followed_hook
from moorline.gateway.proxy.locations import LocationRoutes
from moorline.gateway.proxy.pool import pools
from moorline.gateway.proxy.retry_queue import retry_queues
from moorline.gateway.proxy.routes import Owner, Route
from moorline.gateway.proxy.routing import is_for_other_backend, is_foreign, proxy, proxy_socket, route_middleware
from moorline.gateway.proxy.tls import add_tls
from moorline.gateway.proxy.tunnels import tunnels
from moorline.gateway.settings import Settings
from moorline.gateway.site.client_package import client_package
from moorline.gateway.site.docs import docs
from moorline.gateway.site.static import Frontend

__all__ = ["create_app"]

log = logging.getLogger("moorline.gateway")

# They go the same way as all of /api; they give their requests a name in the log that has no ids in it.
_CHAT = (
    "/api/chat/{session_id}/messages",
    "/api/chat/{session_id}/retry",
    "/api/chat/{session_id}/cancel",
    "/api/chat/{session_id}",
    "/api/patients/{patient_id}/sessions",
)
# A foreign backend may have all of them.
_CORS_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_HEALTHZ = "/healthz"
_READING = (hdrs.METH_GET, hdrs.METH_HEAD)
_PAGE = ("/chat/{patient_id}", "/{path:.*}")


def create_app(settings: Settings, *, authorize: Authorize | None = None) -> web.Application:
    """An application that passes sockets and /api on to an upstream and serves the frontend.

    `authorize` decides who may; without it the hook that the option of this name names.
    """
    hook = hook_of(settings, authorize) or jwt_authorize(settings)
    access = access_middleware(settings, is_foreign, takes_any_body=is_for_other_backend)
    app = web.Application(
        middlewares=[route_middleware, access_log, access],
        # A client that goes away takes its request with it, at the upstream and at once; an upload is passed on as it
        # is, compressed or not. Here and not in `server`, so that the application has them in tests as well.
        handler_args={"handler_cancellation": True, "auto_decompress": False},
    )
    add_tracing(app, settings)
    app[SETTINGS] = settings
    app[ACCESS_RULES] = AccessRules.of(settings)
    app[REQUEST_LIMITS] = RequestLimits(settings)
    app[DRAINING] = Draining()
    app[CONNECTION_TIMEOUTS] = ConnectionTimeouts(
        client_header=settings.client_header_timeout, send=settings.send_timeout
    )
    app[BAD_REQUEST_HANDLER] = bad_request_handler(app)
    app[ROUTES] = configured_routes(settings)
    app[UPSTREAMS] = app[ROUTES].group(settings.upstream)
    set_commands(app)
    app[GATEWAY_ID] = secrets.token_hex(8)
    app[health.READINESS] = health.readiness(app)
    add_tls(app)
    if settings.tls_certificate:
        app[SERVER_TLS] = ServerTls(settings.tls_certificate, settings.tls_certificate_key)
    if hook is not None:
        _add_rights(app, hook, is_followed=settings.follow_authorize and authorize is None)
    warn_if_open(log, settings.host, hook)

    if settings.allowed_origins:
        app.on_response_prepare.append(add_cors_headers(settings, _CORS_METHODS, is_foreign=is_foreign))
    if settings.metrics_port is not None:
        _add_metrics(app)
    app.cleanup_ctx.extend((_time_limits, pools, retry_queues, tunnels, _faults))

    healthz = app.router.add_get(_HEALTHZ, health.healthz)
    app.router.add_get("/readyz", health.readyz)
    add_inspector(app)
    # Counted apart: a backend that hangs under `max_requests` must not keep the page from its clients.
    files = RequestLimits(settings)
    app.router.add_get("/moorline-client.tgz", limited(client_package, files))
    app.router.add_get("/-/docs", limited(docs, files))
    app.router.add_get("/-/docs/{page}", limited(docs, files))
    frontend = None
    if not settings.frontend_url:
        frontend = limited(Frontend(settings.frontend, policy=settings.content_security_policy).serve, files)
    if settings.nginx_conf:
        _add_locations(app, frontend)
    else:
        proxied = _add_routes(app, frontend)
        if hook is None:
            # A hook may read what the router finds in the path.
            add_direct_handler(app, proxied, (_HEALTHZ, healthz))
    return app


def _add_rights(app: web.Application, hook: Authorize, *, is_followed: bool) -> None:
    """Ask `hook` about requests; with `is_followed`, as it stands in its module's file."""
    app.middlewares.append(authorize_middleware)
    app[RIGHTS] = Rights(hook, again=app[SETTINGS].authorize_again)
    app.on_response_prepare.append(note_begun)
    if is_followed:
        app.cleanup_ctx.append(followed_hook)


def _add_metrics(app: web.Application) -> None:
    # prometheus-client takes a tenth of the start.
    from moorline.gateway.metrics import Metrics

    app[METRICS] = Metrics()
    app.cleanup_ctx.append(_metrics)


async def _metrics(app: web.Application) -> AsyncIterator[None]:
    async def render(accept: str) -> tuple[str, bytes]:
        return app[METRICS].render(accept)

    port = app[SETTINGS].metrics_port
    assert port is not None, "create_app asks for this only with a port"
    opened = app[METRICS_PORT] = MetricsPort(app[SETTINGS], port, render, log, app.get(METRICS_SOCKET))
    try:
        if not app.get(METRICS_WAIT):
            await opened.open()
        yield
    finally:
        await opened.close()


async def _time_limits(app: web.Application) -> AsyncIterator[None]:
    app[TIME_LIMITS] = TimeLimits()
    yield
    app[TIME_LIMITS].close()


async def _faults(app: web.Application) -> AsyncIterator[None]:
    if not app[SETTINGS].faults:
        yield
        return
    from moorline.gateway.faults.live import LiveFaults

    faults = app[LIVE_FAULTS] = LiveFaults()
    app[ACCEPT_THROUGH] = faults.client.accepting
    for upstream in app[UPSTREAMS]:
        upstream.through = faults.upstream.connect
    log.warning("faults: /-/moorline and POST /-/faults can break connections of this gateway on purpose")
    yield
    await faults.aclose()


def _is_socket(route: Route) -> bool:
    return route.owner is Owner.BACKEND and route.path.startswith("/ws")


def _add_routes(app: web.Application, frontend: Handler | None) -> list[Routed]:
    """`Routes` decides; here each route gets its handler and its name in the log. Those that lead to an upstream, each
    with its template.
    """
    proxied = [(path, app.router.add_route("*", path, proxy)) for path in _CHAT]
    for route in app[ROUTES]:
        handler = proxy_socket if _is_socket(route) else proxy
        proxied += [(path, app.router.add_route("*", path, handler)) for path in route.templates]
    for path in _PAGE:
        if frontend is None:
            proxied.append((path, app.router.add_route("*", path, proxy)))
        else:
            app.router.add_get(path, frontend)
    return proxied


def _add_locations(app: web.Application, frontend: Handler | None) -> None:
    """The same where nginx's locations decide, by rules that aiohttp's router has not."""
    routes = app[ROUTES]
    assert isinstance(routes, LocationRoutes), "there is an nginx configuration"

    async def serve(request: web.Request) -> web.StreamResponse:
        if routes.is_folder(path := request.rel_url.raw_path):
            query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
            return web.Response(status=301, headers={hdrs.LOCATION: f"{path}/{query}"})
        if frontend is None or DESTINATION in request:
            return await proxy(request)
        if request.method not in _READING:
            raise web.HTTPMethodNotAllowed(request.method, _READING)
        return await frontend(request)

    for path in dict.fromkeys((*_CHAT, *routes.templates, *_PAGE)):
        app.router.add_route("*", path, serve)
