"""Statuses of HTTP that several modules compare with. Plain numbers: an `HTTPStatus` takes longer to compare. Pure."""

__all__ = ["CLIENT_CLOSED_REQUEST", "SWITCHING_PROTOCOLS", "UNAUTHORIZED"]

SWITCHING_PROTOCOLS = 101
"""RFC 9110 section 15.2.2."""
UNAUTHORIZED = 401
"""RFC 9110 section 15.5.2."""
CLIENT_CLOSED_REQUEST = 499
"""nginx's own, for a client that closed before its response was complete."""
