"""aiohttp's server connection with the bounds that it lacks: of a request's head, and of a client that does not read.

aiohttp bounds a head by lines and their number, a megabyte in all, and gives it an hour. Here a head that is not whole
within `client_header_timeout` ends the connection without a byte, as in nginx: the first one counts from the accept, a
later one from its first byte. Between requests the keep-alive timer rules. What a client does not take for
`send_timeout` is nginx's end of the connection, too.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import LineTooLong
from moorline.gateway.common.web.aiohttp_private import ServerProtocol
from moorline.gateway.common.web.room import Room

__all__ = ["BAD_REQUEST_HANDLER", "MAX_HEAD", "BadRequestHandler", "Connection", "default_bad_request", "reject_status"]

# nginx's large_client_header_buffers: 4 of 8 kB.
MAX_HEAD = 32 << 10
_END_OF_HEAD = b"\r\n\r\n"
# Ten years.
_NEVER = 10 * 365 * 86400.0

BadRequestHandler = Callable[[web.BaseRequest, int], web.Response]
"""The answer to a head that became no request, with this status."""
BAD_REQUEST_HANDLER = web.AppKey[BadRequestHandler]("bad_request_handler")
"""Put into an application that has words of its own for it."""


def default_bad_request(_: web.BaseRequest, status: int) -> web.Response:
    """The answer of an application that has none."""
    return web.Response(status=status)


def reject_status(request: web.BaseRequest) -> int | None:
    """The status for a request that aiohttp could read and that must not be handled: its head is too large, or not
    everybody on its way would agree where it ends.
    """
    if len(request.path_qs) + sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > MAX_HEAD:
        return 431
    if request.version not in (HttpVersion10, HttpVersion11):
        return 505
    coding = request.headers.get(hdrs.TRANSFER_ENCODING)
    if coding is None:
        return None
    # RFC 9112 section 6.1: not known before HTTP/1.1; and whoever passes on chunks must know what is in them.
    if request.version < HttpVersion11:
        return 400
    return None if coding.strip().lower() == "chunked" else 501


class Connection(ServerProtocol):
    """One accepted connection. `head_timeout` is `client_header_timeout`."""

    __slots__ = (
        "_asked",
        "_bad_request_handler",
        "_client",
        "_event_loop",
        "_handler_bounds_sends",
        "_head_bytes",
        "_head_timeout",
        "_head_timer",
        "_idle_timeout",
        "_idle_timer",
        "_is_websocket",
        "_room",
        "_send_timeout",
        "_send_timer",
    )

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        room: Room,
        head_timeout: float,
        send_timeout: float,
        keepalive_timeout: float,
        bad_request_handler: BadRequestHandler,
        **arguments: Any,
    ) -> None:
        # aiohttp's own timer would cut headers that begin shortly before it fires.
        super().__init__(server, loop=loop, keepalive_timeout=_NEVER, **arguments)
        self._event_loop = loop
        self._asked = False
        self._handler_bounds_sends = False
        self._room = room
        self._bad_request_handler = bad_request_handler
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._idle_timeout = keepalive_timeout
        self._idle_timer: asyncio.TimerHandle | None = None
        self._send_timeout = send_timeout
        self._send_timer: asyncio.TimerHandle | None = None
        self._is_websocket = False

    def is_waiting(self) -> bool:
        """Whether nothing is lost but the client's wait when this connection is closed."""
        return self.awaits_request or not self._asked

    def leave_sends_to_handler(self) -> None:
        """Until the handler returns it bounds each send itself, and ends the connection with a Close frame."""
        self._handler_bounds_sends = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # `transport` is forgotten as soon as it is to be closed.
        self._client = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        self._room.waits(self)
        self._head_begins()
        if not self._room.has(transport.get_extra_info("socket").fileno()):
            self.force_close()

    def data_received(self, data: bytes) -> None:
        queued = self.queued
        super().data_received(data)
        if self.queued > queued:
            self._asked = True
            self._idle_ends()
            self._head_ends()
            if self._next_has_begun(data):
                self._head_begins()
        elif data and self.awaits_request:
            if self._head_timer is None:
                self._head_begins()
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self._refuse_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._room.left(self)
        self._idle_ends()
        self._head_ends()
        self._is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._handler_bounds_sends:
            self._is_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def set_parser(self, *arguments: Any, **options: Any) -> None:
        # The handler of a WebSocket bounds each frame itself, then sends a close frame and waits for it to be taken.
        self._is_websocket = True
        super().set_parser(*arguments, **options)

    async def start(self) -> None:
        try:
            await super().start()
        finally:
            # What is left of the last answer may never be taken; a tunnel has clocks of its own.
            if self._client.get_protocol() is self and self._client.get_write_buffer_size():
                self._is_unread()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        finished = await super().finish_response(request, resp, start_time)
        if self.transport is not None:
            self._room.waits(self)
            self._idle_begins()
        return finished

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
        response = self._bad_request_handler(request, 431 if isinstance(exc, LineTooLong) else status)
        response.force_close()
        return response

    def _refuse_head(self) -> None:
        self._head_ends()
        self.refuse_request(431, "the head is too large")

    def _next_has_begun(self, data: bytes) -> bool:
        """Whether there is more in `data` than the request whose head it ends. Not told behind a body: there the
        keep-alive timer bounds the wait for the next byte of a head.
        """
        return self.last_queued_ends and not _END_OF_HEAD.endswith(data[-len(_END_OF_HEAD) :])

    def _head_begins(self) -> None:
        self._idle_ends()
        self._head_timer = self._event_loop.call_later(self._head_timeout, self._head_timed_out)

    def _head_timed_out(self) -> None:
        # One that comes behind a request has its time from that one's end, and at most as much again.
        if not self.awaits_request and self._asked:
            self._head_begins()
        else:
            self.force_close()

    def _idle_begins(self) -> None:
        self._idle_ends()
        if self._head_timer is None:
            self._idle_timer = self._event_loop.call_later(self._idle_timeout, self._idle_timed_out)

    def _idle_timed_out(self) -> None:
        if self.awaits_request:
            self.force_close()

    def _idle_ends(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    def _is_unread(self) -> None:
        """Cut the client if it takes nothing of what waits for it from now on."""
        if self._send_timer is None and not self._is_websocket:
            self._watch_client()

    def _watch_client(self) -> None:
        size = self._client.get_write_buffer_size()
        self._send_timer = self._event_loop.call_later(self._send_timeout, self._send_timed_out, size)

    def _send_timed_out(self, before: int) -> None:
        if self._client.get_write_buffer_size() < before:
            self._watch_client()
        else:
            self._client.abort()

    def _is_read(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _head_ends(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
