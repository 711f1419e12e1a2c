"""aiohttp's server connection with the two bounds on a request head that it lacks: a time and a total size.

aiohttp bounds a head by lines and their number, a megabyte in all, and gives it an hour. Here a head that is not whole
within `client_header_timeout` ends the connection without a byte, as in nginx: the first one counts from the accept, a
later one from its first byte. Between requests the keep-alive timer rules.
"""

import asyncio
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

__all__ = ["MAX_HEAD", "Connection", "head_size"]

# nginx's large_client_header_buffers: 4 of 8 kB.
MAX_HEAD = 32 << 10
# Sent raw: a head that never became a request has no response object.
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def head_size(request: web.BaseRequest) -> int:
    """Bytes of a request's head, near enough to compare with MAX_HEAD."""
    return len(request.path_qs) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers)


class Connection(RequestHandler):
    """One accepted connection. `head_timeout` is `client_header_timeout`."""

    __slots__ = ("_head_bytes", "_head_timeout", "_head_timer")

    def __init__(
        self, server: web.Server, *, loop: asyncio.AbstractEventLoop, head_timeout: float, **arguments: Any
    ) -> None:
        super().__init__(server, loop=loop, **arguments)
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._head_begins()

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests:
            self._head_ends()
        elif self._awaits_head():
            if self._head_timer is None:
                self._head_begins()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD and self.transport is not None:
                self.transport.write(_TOO_LARGE)
                self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_ends()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what cannot be parsed. aiohttp logs a traceback for each; a port scan would fill the log with them."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        self.logger.debug("malformed request: %s", message)
        response = web.Response(status=status, text=message)
        response.force_close()
        return response

    def _awaits_head(self) -> bool:
        """Whether the bytes that just came, and made no request, belong to a head rather than to a body or a socket."""
        return self._waiter is not None and not self._waiter.done() and not self._upgraded

    def _head_begins(self) -> None:
        # The keep-alive timer would otherwise cut a head that begins shortly before it fires. It is set again after
        # the request.
        if self._keepalive_handle is not None:
            self._keepalive_handle.cancel()
            self._keepalive_handle = None
        self._head_timer = self._loop.call_later(self._head_timeout, self.force_close)

    def _head_ends(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
