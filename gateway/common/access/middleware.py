"""The access middleware of both parts: refuses a request by the access rules before any handler sees it.

    app = web.Application(middlewares=[errors, access_middleware(settings)])
    app.on_response_prepare.append(add_cors_headers(settings))

The middleware refuses by raising `web.HTTPException`, so that each part renders refusals in its own form. CORS headers
are added by a signal, because a streamed response is under way before its handler returns to any middleware.
"""

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import istr

from moorline.gateway.common.access import paths
from moorline.gateway.common.access.rules import AccessRules, is_host, is_json
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.logs import printable
from moorline.gateway.common.web.aiohttp_private import items_of, message_of
from moorline.gateway.common.web.connection import is_reserved
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS

__all__ = [
    "CLIENT",
    "REFUSAL",
    "SECURITY_HEADERS",
    "TooManyConnections",
    "access_middleware",
    "add_cors_headers",
    "add_security_headers",
    "client_address",
    "is_preflight",
]

# RFC 9110 section 9.2.1.
_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
# As nginx: CONNECT opens a tunnel to any host, TRACE returns headers that a page must not read.
_NEVER = frozenset({hdrs.METH_CONNECT, hdrs.METH_TRACE})
_ALLOWED = sorted(hdrs.METH_ALL - _NEVER)
# Why a client's own socket ended: its page may read that where it may use /api.
_ENDED = "/-/ended/"
_NO_FILES = "There are too many connections at the moment: the limit of open files (ulimit -n) is nearly reached."
# How long a browser may keep the response to a preflight.
_CORS_MAX_AGE_SECONDS = "600"

SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "frame-ancestors 'none'"}

_X_REAL_IP = istr("X-Real-IP")

CLIENT = web.RequestKey("client", str)
REFUSAL = web.RequestKey("refusal", str)
"""Why a request was refused here, for the log; one that another server refused has none."""

# Of a header in the log.
_LONGEST_SHOWN = 100


class TooManyConnections(web.HTTPServiceUnavailable):
    """The last descriptors are reserved for the page and for /healthz."""


def access_middleware(
    settings: CommonSettings,
    is_foreign: Callable[[web.Request], bool] = lambda request: False,
    *,
    takes_any_body: Callable[[web.Request], bool] = lambda request: False,
) -> Middleware:
    """The middleware that refuses with 400, 403, 405, 415, 421 or 503 what may not be handled.

    A request that `is_foreign` is for a server that has rules of its own for bodies and preflights, and one that
    `takes_any_body` for one that has them for bodies alone.
    """
    rules = AccessRules.of(settings)

    # No coroutine: each would be one more to resume, where a request waits.
    @web.middleware
    def check_access(request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        items_of(request)[CLIENT] = _client(rules, request)
        message = message_of(request)
        method, given = message.method, message.headers
        if method in _NEVER:
            request[REFUSAL] = "method"
            raise web.HTTPMethodNotAllowed(method, _ALLOWED)
        is_safe = method in _SAFE_METHODS
        if hdrs.ORIGIN in given:
            _check_origin(rules, request)
        hosts = given.getall(hdrs.HOST, ())
        if len(hosts) != 1 or not rules.accepts_host(hosts[0]):
            _refuse_hosts(request, hosts)
        if (reason := paths.refusal(message.path)) is not None:
            request[REFUSAL] = reason
            raise web.HTTPBadRequest(text=reason)
        if is_reserved(request) and paths.is_for_backend(message.path):
            text = request[REFUSAL] = _NO_FILES
            raise TooManyConnections(text=text, headers={hdrs.RETRY_AFTER: "1"})
        is_read = is_safe and method != hdrs.METH_OPTIONS
        if is_read or is_foreign(request):
            return handler(request)
        if method == hdrs.METH_OPTIONS and _is_api(request) and is_preflight(request):
            return _no_content()
        has_odd_body = not is_safe and request.body_exists and not is_json(_content_type(request))
        if has_odd_body and not takes_any_body(request):
            request[REFUSAL] = f"Content-Type {_shown(_content_type(request))}"
            raise web.HTTPUnsupportedMediaType(text="The body must be sent as application/json.")
        return handler(request)

    return check_access


async def _no_content() -> web.StreamResponse:
    return web.Response(status=204)


def add_cors_headers(
    settings: CommonSettings,
    methods: str = "GET, POST, DELETE",
    *,
    is_foreign: Callable[[web.Request], bool] = lambda request: False,
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """The on_response_prepare handler that lets pages of `allowed_origins` read responses of /api, errors as well, and
    why a socket of theirs ended.

    Of a server that `is_foreign` they may read what it says nothing else about. `methods` are those that they may use.
    """
    rules = AccessRules.of(settings)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        if not (rules.origins or rules.any_origin):
            return
        if is_foreign(request):
            if hdrs.ACCESS_CONTROL_ALLOW_ORIGIN in response.headers:
                return
        elif not _is_api(request) and not request.path.startswith(_ENDED):
            return
        headers = rules.cors_headers(request.headers.get(hdrs.ORIGIN))
        response.headers.update(headers)
        if rules.origins:
            # Also where there was no Origin: a cache must not give this response to a page that has one.
            _add_vary(response)
        if headers and is_preflight(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_METHODS] = methods
            response.headers[hdrs.ACCESS_CONTROL_MAX_AGE] = _CORS_MAX_AGE_SECONDS
            if asked := request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS):
                response.headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = asked

    return prepare


async def add_security_headers(_: web.Request, response: web.StreamResponse) -> None:
    """The on_response_prepare handler of a part whose responses are data or documentation, neither to be framed by a
    page nor to be taken for another type than they say. A 101 has no data, and its headers stay in memory for as long
    as its socket is open.
    """
    if response.status == SWITCHING_PROTOCOLS:
        return
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)


def client_address(request: web.Request) -> str:
    """The client's address behind trusted proxies; the peer's where the access middleware did not see the request."""
    client: str | None = items_of(request).get(CLIENT)
    return client if client is not None else request.remote or ""


def _client(rules: AccessRules, request: web.Request) -> str:
    peer = request.remote or ""
    headers = request.headers
    if not rules.trusts(peer) or not (hdrs.X_FORWARDED_FOR in headers or _X_REAL_IP in headers):
        return peer
    return rules.client_address(peer, headers.getall(hdrs.X_FORWARDED_FOR, ()), headers.get(_X_REAL_IP))


def _check_origin(rules: AccessRules, request: web.Request) -> None:
    """Refuse a page of another site before the request has any effect: one that may change something, asks for a
    socket, or asks for leave to do so. A request without Origin is not a page's.
    """
    is_safe = request.method in _SAFE_METHODS and hdrs.UPGRADE not in request.headers
    if is_safe and not (_is_api(request) and is_preflight(request)):
        return
    # No browser sends two Origin headers; joined they equal no origin.
    origin = ", ".join(request.headers.getall(hdrs.ORIGIN))
    if not rules.allows_origin(origin, request.headers.get(hdrs.HOST, ""), tls=_is_tls(rules, request)):
        request[REFUSAL] = f"Origin {_shown(origin)} is none of allowed_origins"
        raise web.HTTPForbidden(text="Pages of this origin may not use this server; see allowed_origins.")


def _is_tls(rules: AccessRules, request: web.Request) -> bool:
    """Whether the client speaks TLS, and with this server: a proxy in front of it has clients of its own."""
    return request.secure and not (rules.trusts(request.remote or "") and hdrs.X_FORWARDED_PROTO in request.headers)


def _refuse_hosts(request: web.Request, hosts: Sequence[str]) -> None:
    """Refuse a request for these, which are not one that is accepted; a client of HTTP/1.0 may name none."""
    if not hosts and request.version < (1, 1):
        return
    if len(hosts) != 1 or not is_host(hosts[0]):
        request[REFUSAL] = f"Host {_shown(', '.join(hosts))} is not one host"
        raise web.HTTPBadRequest(text="The request must name one host in its Host header.")
    request[REFUSAL] = f"Host {_shown(hosts[0])} is none of allowed_hosts"
    raise web.HTTPMisdirectedRequest(text="This server does not answer for this name; see allowed_hosts.")


def _shown(value: str) -> str:
    """A header's value in a line of the log, where it stands in quotes: it can neither end them, to look like another
    field of the line, nor turn around what a person reads."""
    cut = value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "..."
    return printable(cut).replace('"', r"\x22")


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks for leave to send a request to another origin."""
    return (
        request.method == hdrs.METH_OPTIONS
        and hdrs.ORIGIN in request.headers
        and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    )


def _is_api(request: web.Request) -> bool:
    return request.path.startswith("/api/")


def _content_type(request: web.Request) -> str:
    # `request.content_type` would be application/octet-stream where none was sent.
    return request.headers.get(hdrs.CONTENT_TYPE, "")


def _add_vary(response: web.StreamResponse) -> None:
    vary = response.headers.get(hdrs.VARY)
    if vary is None:
        response.headers[hdrs.VARY] = hdrs.ORIGIN
    elif hdrs.ORIGIN.lower() not in vary.lower():
        response.headers[hdrs.VARY] = f"{vary}, {hdrs.ORIGIN}"
