"""What goes wrong between a client and the backend, each with its HTTP status, and how it is told. Pure."""

import errno
import html
import http
import json

__all__ = [
    "BackendGarbled",
    "BackendSilent",
    "BackendUnreachable",
    "ClientStalled",
    "ConnectTimedOut",
    "GatewayError",
    "HandshakeTimedOut",
    "Malformed",
    "Refused",
    "is_shortage",
    "render",
]


class GatewayError(Exception):
    """The request ends here. `message` is for the client; `detail`, if any, is for the log alone."""

    status = 500
    message = "Something went wrong in the gateway."
    outcome = "failed"
    """Of a handshake, for the metrics."""
    retry_after: int | None = None

    def __init__(self, detail: str = "") -> None:
        self.detail = detail
        super().__init__(detail or self.message)


class Malformed(GatewayError):
    """The client's request is none that could be passed on."""

    status = 400
    outcome = "malformed"
    message = "The request is malformed."

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__()


class ClientStalled(GatewayError):
    """client_body_timeout"""

    status = 408
    outcome = "client_stalled"
    message = "The body of the request did not come in time (client_body_timeout)."


class Refused(GatewayError):
    """More than `max_connections`, or shutting down: another try may meet another gateway or a calmer moment."""

    status = 503
    outcome = "unavailable"
    retry_after = 1

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__()


class BackendUnreachable(GatewayError):
    status = 502
    outcome = "backend_unreachable"
    message = "The backend cannot be reached. It may be restarting; please try again in a moment."


class BackendGarbled(GatewayError):
    status = 502
    outcome = "backend_garbled"
    message = "The backend's answer could not be understood."


class ConnectTimedOut(GatewayError):
    """proxy_connect_timeout"""

    status = 504
    outcome = "connect_timed_out"
    message = "The backend did not take the connection in time (proxy_connect_timeout)."


class BackendSilent(GatewayError):
    """proxy_read_timeout or proxy_send_timeout, before there was an answer to pass on."""

    status = 504
    outcome = "backend_silent"
    message = "The backend did not answer in time (proxy_read_timeout)."


class HandshakeTimedOut(GatewayError):
    """handshake_timeout"""

    status = 504
    outcome = "handshake_timed_out"
    retry_after = 1
    message = "The backend did not open the socket in time (handshake_timeout)."


_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def is_shortage(error: OSError) -> bool:
    """Whether a connection failed for want of descriptors or memory here, and says nothing of its other end."""
    return error.errno in _SHORTAGES


# The codes of chat-protocol.md, so that a client of the chat reads our errors as it reads the backend's.
_CODES = {403: "forbidden", 404: "not_found", 413: "too_large", 429: "rate_limited"}


def render(status: int, message: str, *, accept: str, request_id: str) -> tuple[str, str]:
    """Content type and body of an error: a page for a browser's address bar, else a problem document (RFC 9457)."""
    title = http.HTTPStatus(status).phrase if status in _KNOWN else "Error"
    if "text/html" in accept.lower():
        page = _PAGE.format(
            status=status, title=title, message=html.escape(message), request_id=html.escape(request_id)
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
    return "application/problem+json", json.dumps(problem)


_KNOWN = frozenset(http.HTTPStatus)

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{status} {title}</title>
<h1>{status} {title}</h1>
<p>{message}</p>
<p>Request id: <code>{request_id}</code></p>
</html>
"""
