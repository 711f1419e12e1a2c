"""What fails between a client and an upstream, each with its HTTP status, and the response that says so. Pure."""

import errno
import html
import http
import json

from moorline.gateway.cause import Cause, Moment, Reason, Who

__all__ = [
    "CUT",
    "PAGE_HEAD",
    "BadUpstreamResponse",
    "ClientBodyTimeout",
    "ConnectTimeout",
    "GatewayError",
    "HandshakeTimeout",
    "Loop",
    "Malformed",
    "ShuttingDown",
    "TooManyHandshakes",
    "Unavailable",
    "UpstreamTimeout",
    "UpstreamTlsError",
    "UpstreamUnreachable",
    "accepts_page",
    "is_shortage",
    "render",
]


class GatewayError(Exception):
    """The request ends here. `message` is for the client; `detail`, if any, is for the log alone."""

    status = 500
    message = "Something went wrong in the gateway."
    outcome = "internal_error"
    """Label of a failed handshake in the metrics."""
    retry_after: int | None = None
    cause = Cause(Who.GATEWAY, Reason.INTERNAL, Moment.REQUEST)
    """Who is at fault, and why; its code is in the log and in the response."""

    def __init__(self, detail: str = "", cause: Cause | None = None) -> None:
        self.detail = detail
        if cause is not None:
            self.cause = cause
        super().__init__(detail or self.message)

    def message_about(self, upstream: str) -> str:
        """The message where it is not the backend that the request was for, but the front end or another server."""
        return self.message.replace("backend", upstream)


class Malformed(GatewayError):
    """The client's request cannot be passed on."""

    status = 400
    outcome = "bad_request"
    cause = Cause(Who.CLIENT, Reason.INVALID, Moment.REQUEST)
    message = "The request is malformed."

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__()


class ClientBodyTimeout(GatewayError):
    """client_body_timeout"""

    status = 408
    outcome = "client_body_timeout"
    cause = Cause(Who.CLIENT, Reason.CLIENT_BODY_TIMEOUT, Moment.RESPONSE)
    message = "The body of the request did not come in time (client_body_timeout, message_timeout)."


class Unavailable(GatewayError):
    """A limit is reached: a retry may reach another gateway or find a free place."""

    status = 503
    outcome = "unavailable"
    retry_after = 1
    cause = Cause(Who.GATEWAY, Reason.LIMIT, Moment.REQUEST)

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__()


class TooManyHandshakes(Unavailable):
    """handshakes_per_address"""

    status = 429

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many sockets were opened from your address (handshakes_per_address).")
        self.retry_after = retry_after


class ShuttingDown(GatewayError):
    """The gateway drains."""

    status = 503
    outcome = "unavailable"
    retry_after: int | None = 1
    cause = Cause(Who.GATEWAY, Reason.SHUTDOWN, Moment.REQUEST)
    message = "The gateway is shutting down."


CUT = Cause(Who.GATEWAY, Reason.SHUTDOWN, Moment.RESPONSE)
"""Of what is still handled when the time of the drain is over."""


class UpstreamUnreachable(GatewayError):
    """The connection is refused, or ends before the response's headers."""

    status = 502
    outcome = "upstream_unreachable"
    cause = Cause(Who.UPSTREAM, Reason.FIN, Moment.RESPONSE)
    message = "The backend cannot be reached. It may be restarting; please try again in a moment."


class UpstreamTlsError(GatewayError):
    """The upstream speaks no TLS, or its certificate is not valid for its name; a retry finds the same."""

    status = 502
    outcome = "upstream_tls_error"
    cause = Cause(Who.UPSTREAM, Reason.INVALID, Moment.CONNECT)
    message = "The connection to the backend is not secure: its certificate is not valid, or it does not speak TLS."


class BadUpstreamResponse(GatewayError):
    """What the upstream sent is not an HTTP/1.1 response, or not one that can be passed on."""

    status = 502
    outcome = "bad_upstream_response"
    cause = Cause(Who.UPSTREAM, Reason.INVALID, Moment.RESPONSE)
    message = "The response of the backend is not valid HTTP."


class ConnectTimeout(GatewayError):
    """proxy_connect_timeout"""

    status = 504
    outcome = "connect_timeout"
    cause = Cause(Who.NETWORK, Reason.PROXY_CONNECT_TIMEOUT, Moment.CONNECT)
    message = "The connection to the backend was not established in time (proxy_connect_timeout)."


class UpstreamTimeout(GatewayError):
    """proxy_read_timeout or proxy_send_timeout, before the response's headers."""

    status = 504
    outcome = "upstream_timeout"
    cause = Cause(Who.UPSTREAM, Reason.PROXY_READ_TIMEOUT, Moment.RESPONSE)
    message = "The backend did not answer in time (proxy_read_timeout)."


class Loop(GatewayError):
    """A request has come back to the gateway that passed it on."""

    status = 508
    outcome = "loop"
    cause = Cause(Who.GATEWAY, Reason.INVALID, Moment.REQUEST)

    def __init__(self, route: str, upstream: str) -> None:
        self.message = f"The route {route} leads back to this gateway."
        super().__init__(f"the route {route} to {upstream} leads back to this gateway")


class HandshakeTimeout(GatewayError):
    """handshake_timeout"""

    status = 504
    outcome = "handshake_timeout"
    cause = Cause(Who.UPSTREAM, Reason.HANDSHAKE_TIMEOUT, Moment.RESPONSE)
    retry_after = 1
    message = "The backend did not open the socket in time (handshake_timeout)."


_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_shortage(error: OSError) -> bool:
    """Whether a connection failed for lack of descriptors or memory here, and not by the peer."""
    return error.errno in _SHORTAGES


# The chat protocol's, so that its clients read the gateway's errors as they read the backend's.
_CODES = {403: "forbidden", 404: "not_found", 413: "too_large", 429: "rate_limited"}


def accepts_page(accept: str) -> bool:
    """Whether a browser opens the address; what a page fetches, and other programs, do not ask for HTML."""
    return "text/html" in accept.lower()


def render(status: int, message: str, *, accept: str, request_id: str, cause: Cause | None = None) -> tuple[str, str]:
    """Content type and body of an error: a page for a browser's address bar, else a problem document (RFC 9457)."""
    title = http.HTTPStatus(status).phrase if status in _KNOWN else "Error"
    if accepts_page(accept):
        page = PAGE_HEAD + _PAGE.format(
            status=status,
            title=title,
            message=html.escape(message),
            request_id=html.escape(request_id),
            cause="" if cause is None else _CAUSE.format(code=cause.code),
        )
        return "text/html; charset=utf-8", page
    problem = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": message,
        "code": _CODES.get(status, "bad_request" if status < 500 else "internal"),
        "request_id": request_id,
    }
    if cause is not None:
        problem["cause"] = cause.code
    return "application/problem+json", json.dumps(problem)


_KNOWN = frozenset(http.HTTPStatus)

PAGE_HEAD = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<style>
body { font: 1rem/1.5 system-ui, sans-serif; margin: 10vh auto; max-width: 40rem; padding: 0 1rem }
h1 { font-size: 1.5rem; line-height: 1.25 }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere }
</style>
"""
"""What each page of the gateway's own begins with; its title follows."""

_PAGE = """<title>{status} {title}</title>
<h1>{status} {title}</h1>
<p>{message}</p>
{cause}<p>Request id: <code>{request_id}</code></p>
</html>
"""
_CAUSE = "<p>Cause: <code>{code}</code>, see <code>moorline explain {code}</code></p>\n"
