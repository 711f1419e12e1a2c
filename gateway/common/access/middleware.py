"""The first thing both parts do with a request: let it in or refuse it, by the rules of `admission`.

    app = web.Application(middlewares=[errors, guard(settings)])
    app.on_response_prepare.append(cors(settings))

The middleware refuses by raising `web.HTTPException`, so that each part renders refusals in its own form. CORS headers
go on by signal, because a streamed answer is under way before its handler returns to any middleware.
"""

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from moorline.gateway.common.access.rules import Admission, is_host, is_json
from moorline.gateway.common.config.settings import CommonSettings

__all__ = ["client_address", "cors", "guard"]

# What cannot change anything; RFC 9110 section 9.2.1.
_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
# As nginx: a tunnel to anywhere, and an echo of what a page may not see of its own request.
_NEVER = frozenset({hdrs.METH_CONNECT, hdrs.METH_TRACE})
_ALLOWED = sorted(hdrs.METH_ALL - _NEVER)
_CORS_METHODS = "GET, POST, DELETE"
# The page of another origin asks first, before each kind of request; this is how long it may remember the answer.
_CORS_MAX_AGE_SECONDS = "600"

CLIENT = web.RequestKey("client", str)


def guard(settings: CommonSettings) -> Middleware:
    """The middleware that refuses with 400, 403, 415 or 421 what `settings` do not admit."""
    admission = Admission.of(settings)

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        request[CLIENT] = admission.client(
            request.remote or "",
            request.headers.getall("X-Forwarded-For", ()),
            request.headers.get("X-Real-IP"),
        )
        if request.method in _NEVER:
            raise web.HTTPMethodNotAllowed(request.method, _ALLOWED)
        _check_origin(admission, request)
        _check_host(admission, request)
        if _is_preflight(request):
            return web.Response(status=204)
        if request.method not in _SAFE_METHODS and request.body_exists and not is_json(_content_type(request)):
            raise web.HTTPUnsupportedMediaType(text="The body must be sent as application/json.")
        return await handler(request)

    return admit


def cors(settings: CommonSettings) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """The on_response_prepare handler that lets pages of `allowed_origins` read the answers of /api, errors as well."""
    admission = Admission.of(settings)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if not _is_api(request) or not (admission.origins or admission.any_origin):
            return
        headers = admission.cors(request.headers.get(hdrs.ORIGIN))
        response.headers.update(headers)
        if admission.origins:
            # Also where there was no Origin: a cache must not hand this answer to a page that has one.
            _add_vary(response)
        if headers and _is_preflight(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = _CORS_METHODS
            response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = _CORS_MAX_AGE_SECONDS
            if asked := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked

    return prepare


def client_address(request: web.Request) -> str:
    """The address of the client behind trusted proxies; the peer's own where the guard did not see the request."""
    return request.get(CLIENT) or request.remote or ""


def _check_origin(admission: Admission, request: web.Request) -> None:
    """Refuse a page of another site before anything happens for it."""
    if request.method in _SAFE_METHODS and hdrs.UPGRADE not in request.headers and not _is_preflight(request):
        return
    # Two Origin lines are no browser's doing; joined they equal nothing.
    origins = request.headers.getall(hdrs.ORIGIN, ())
    origin = ", ".join(origins) if origins else None
    if not admission.admits_origin(origin, request.headers.get(hdrs.HOST, "")):
        raise web.HTTPForbidden(text="Pages of this origin may not use this server; see allowed_origins.")


def _check_host(admission: Admission, request: web.Request) -> None:
    hosts = request.headers.getall(hdrs.HOST, ())
    if not hosts and request.version < (1, 1):
        return
    if len(hosts) != 1 or not is_host(hosts[0]):
        raise web.HTTPBadRequest(text="The request must name one host in its Host header.")
    if not admission.admits_host(hosts[0]):
        raise web.HTTPMisdirectedRequest(text="This server does not answer for this name; see allowed_hosts.")


def _is_preflight(request: web.Request) -> bool:
    return (
        request.method == hdrs.METH_OPTIONS
        and _is_api(request)
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def _is_api(request: web.Request) -> bool:
    return request.path.startswith("/api/")


def _content_type(request: web.Request) -> str:
    # `request.content_type` would say application/octet-stream where nothing was sent.
    return request.headers.get(hdrs.CONTENT_TYPE, "")


def _add_vary(response: web.StreamResponse) -> None:
    vary = response.headers.get(hdrs.VARY)
    if vary is None:
        response.headers[hdrs.VARY] = hdrs.ORIGIN
    elif hdrs.ORIGIN.lower() not in vary.lower():
        response.headers[hdrs.VARY] = f"{vary}, {hdrs.ORIGIN}"
