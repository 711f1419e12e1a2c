"""aiohttp's server connection with the bounds that it lacks.

aiohttp bounds a request's headers by lines and their number, a megabyte in all, and gives them an hour. Here headers
that are not complete within `client_header_timeout` end the connection without a response, as in nginx: the time of the
first ones begins with the accept, of later ones with their first byte. Between requests the keep-alive timer runs. A
client that reads nothing for `send_timeout` is cut, as in nginx, too. Input that is costly to parse is
parsed in turns, see `turns`. A WebSocket's message that is not complete has limits, see `messages`.
"""

import asyncio
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.http_exceptions import LineTooLong
from multidict import CIMultiDict

from moorline.gateway.common.access.rules import client_network
from moorline.gateway.common.unread import has_unread
from moorline.gateway.common.web.aiohttp_private import RawRequestMessage, ServerProtocol, protocol_of
from moorline.gateway.common.web.draining import Draining
from moorline.gateway.common.web.idle import IdleConnections
from moorline.gateway.common.web.lingering import LingeringConnections, LingeringLimits
from moorline.gateway.common.web.messages import MessageLimits, Unfinished, UnfinishedMessage, Violation
from moorline.gateway.common.web.time_limit import Deadlines
from moorline.gateway.common.web.turns import Pace, Turns

__all__ = [
    "BAD_REQUEST_HANDLER",
    "CONNECTION_TIMEOUTS",
    "MAX_HEADERS",
    "SERVER",
    "BadRequestHandler",
    "Connection",
    "ConnectionTimeouts",
    "Shared",
    "default_bad_request",
    "is_reserved",
]

# nginx's large_client_header_buffers: 4 of 8 kB.
MAX_HEADERS = 32 << 10
# Headers that begin in one read and end in the next, each of this size at most, are far below MAX_HEADERS.
_LARGE_READ = 8 << 10
_END_OF_HEADERS = b"\r\n\r\n"
# The usual one first.
_VERSIONS = (HttpVersion11, HttpVersion10)
SERVER = "moorline"
"""Of the header of this name: aiohttp's own tells its version and Python's."""
_NO_ROOM = 503
_NO_ROOM_TEXT = "There is no room for another message at the moment."
# Input that costs nothing to measure, as a request without a body; it is parsed at once.
_SMALL_READ = 512

BadRequestHandler = Callable[[web.BaseRequest, int], web.Response]
"""The response, with this status, to headers that are not those of a request."""
BAD_REQUEST_HANDLER = web.AppKey[BadRequestHandler]("bad_request_handler")
"""Set by an application that renders such responses itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConnectionTimeouts:
    """The time limits of one connection, in seconds."""

    client_header: float = 60.0
    send: float = 60.0
    # nginx's keepalive_timeout. It is longer than that of any client of moorline's, so that no request is sent into a
    # connection that is being closed.
    keepalive: float = 75.0
    lingering: LingeringLimits = dataclasses.field(default_factory=LingeringLimits)


CONNECTION_TIMEOUTS = web.AppKey("connection_timeouts", ConnectionTimeouts)
"""Set by an application whose options they are."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all connections of one server use."""

    loop: asyncio.AbstractEventLoop
    draining: Draining
    idle_connections: IdleConnections
    turns: Turns
    room: Unfinished
    timeouts: ConnectionTimeouts
    header_deadlines: Deadlines
    """Each connection would set a timer of its own and cancel it, as most send their request at once."""
    lingering: LingeringConnections
    bad_request_handler: BadRequestHandler
    message_limits: MessageLimits | None
    arguments: Mapping[str, Any]
    """What aiohttp is to do otherwise than by default."""


def default_bad_request(_: web.BaseRequest, status: int) -> web.Response:
    """The response of an application that sets no BAD_REQUEST_HANDLER."""
    return web.Response(status=status)


def _size_of_headers(message: RawRequestMessage) -> int:
    raw = message.raw_headers
    return len(message.path) + len(b"".join(itertools.chain.from_iterable(raw))) + 4 * len(raw)


def is_reserved(request: web.BaseRequest) -> bool:
    """Whether this request's connection took a descriptor that is kept for the page and /healthz."""
    connection = protocol_of(request)
    return isinstance(connection, Connection) and connection.reserved


class Connection(ServerProtocol):
    """One accepted connection."""

    __slots__ = (
        "_asked",
        "_client",
        "_handler_bounds_sends",
        "_has_header_deadline",
        "_header_bytes",
        "_held",
        "_idle_timer",
        "_idle_until",
        "_is_refused",
        "_may_be_large",
        "_pace",
        "_parsed",
        "_receiver",
        "_send_timer",
        "_shared",
        "_unfinished",
        "_unparsed",
        "_waits_for_turn",
        "kept",
        "reserved",
    )

    def __init__(self, server: web.Server, shared: Shared) -> None:
        # By name, here and in what each connection calls once more: `super` takes four times as long.
        ServerProtocol.__init__(self, server, shared.loop, shared.draining, shared.arguments)
        self._shared = shared
        self.reserved = False
        self.kept: object = None
        """What the handler of a request leaves for that of the next one here: a few KiB, which may stay for long."""
        self._asked = False
        self._handler_bounds_sends = False
        self._pace = Pace()
        self._unparsed = b""
        # So many bytes of it are parsed.
        self._parsed = 0
        self._waits_for_turn = False
        # So many bytes of it are counted as waiting for a turn.
        self._held = 0
        # There was no room for input, which is lost.
        self._is_refused = False
        # A handler that waits for a turn.
        self._receiver: asyncio.Future[None] | None = None
        # Of a WebSocket whose messages are parsed here; a tunnel takes the transport instead.
        limits = shared.message_limits
        self._unfinished = None if limits is None else UnfinishedMessage(limits, shared.loop)
        self._has_header_deadline = False
        self._header_bytes = 0
        # Whether there was a large read, or one without a request. Else headers are small, and need not be measured,
        # which would take a hundredth of a request.
        self._may_be_large = False
        self._idle_until = math.inf
        self._idle_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None

    def has_asked(self) -> bool:
        """Whether the client sent a request."""
        return self._asked

    def is_waiting(self) -> bool:
        """Whether no request is lost when this connection is closed."""
        return self.awaits_request or not self._asked

    def has_begun(self) -> bool:
        """Whether something of the next request has come."""
        return self._has_header_deadline or bool(self._unparsed) or has_unread(self._client)

    def leave_sends_to_handler(self) -> None:
        """Until the handler returns it bounds each send itself, and ends the connection with a Close frame."""
        self._handler_bounds_sends = True

    def on_violation(self, callback: Callable[[Violation], None], *, client: str) -> None:
        """Call `callback` when a message of the client, of this network, exceeds a limit; nothing more is read then."""
        if self._unfinished is not None:
            self._unfinished.on_violation(callback, client=client)

    async def turn(self) -> None:
        """Wait for a turn among the connections whose input is costly: for a handler that has received several messages
        at once. Nothing is parsed meanwhile, so that no more of them wait for it than were parsed in one slice."""
        if self._client.is_closing():
            return
        self._receiver = receiver = self._shared.loop.create_future()
        self._client.pause_reading()
        self._queue_for_turn()
        await receiver

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # `transport` is forgotten as soon as it is to be closed.
        self._client = cast("asyncio.Transport", transport)
        ServerProtocol.connection_made(self, transport)
        now, descriptor = self._shared.loop.time(), transport.get_extra_info("socket").fileno()
        self._headers_begin()
        peer = self.peername
        address = client_network(peer[0]) if isinstance(peer, tuple) else ""
        if not self._shared.idle_connections.admit(self, descriptor, now, address):
            self.force_close()
        elif self._shared.idle_connections.is_reserved(descriptor):
            self.reserved = True

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        parses_requests = self.parses_requests()
        if not data or not (parses_requests or self.has_message_parser):
            # aiohttp goes on with what its parser has, or keeps it for the tunnel, which must find all of it there.
            super().data_received(data)
        elif self._waits_for_turn or self._pace.is_slow:
            self._may_be_large = True
            self._wait_for_turn(data)
        elif len(data) <= _SMALL_READ:
            if parses_requests:
                self._parse_requests(data)
            else:
                self._parse_messages(data)
        else:
            if len(data) > _LARGE_READ:
                self._may_be_large = True
            self._unparsed = data
            size = self._parsed_at_once(data)
            if size:
                began = time.perf_counter()
                has_more = self._parse_next(size)
                self._shared.turns.spend(time.perf_counter() - began)
            if not size or has_more:
                self._wait_for_turn()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        super().resume_reading(resume_parser)
        if self._waits_for_turn or self._has_violated():
            self._client.pause_reading()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        # What came behind the handshake begins the stream of frames.
        early = self.early
        super().set_parser(parser, data_received_cb)
        if self._unfinished is not None:
            self._unfinished.receive_data(early)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._release()
        super().connection_lost(exc)

    def leave(self) -> None:
        self._release()
        ServerProtocol.leave(self)

    def _release(self) -> None:
        """Leave no timer and no place behind."""
        self._shared.idle_connections.remove(self)
        self._forget_unparsed()
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)
        self._idle_until = math.inf
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._headers_end()
        self._is_read()
        if self._unfinished is not None:
            self._unfinished.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._handler_bounds_sends:
            self._is_unread()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def close(self) -> None:
        super().close()
        self._watch_end()

    def force_close(self) -> None:
        super().force_close()
        self._watch_end()

    def end(self, *, is_sending: bool) -> None:
        client = self._client
        if self.transport is None or client.is_closing():
            return
        if not is_sending and not self._unparsed and not has_unread(client):
            super().end(is_sending=False)
            self._watch_end()
            return
        self._headers_end()
        self._idle_until = math.inf
        self._shared.idle_connections.set_busy(self)
        self._forget_unparsed()
        self.drop_input()
        self._shared.lingering.add(client, self, self.force_close)

    def rejection(self, message: RawRequestMessage) -> int | None:
        """That of headers which are too large, or of which two programs on their way could disagree about where the
        request ends.
        """
        if self._may_be_large and _size_of_headers(message) > MAX_HEADERS:
            return 431
        version = message.version
        if version not in _VERSIONS:
            return 505
        coding = message.headers.get(hdrs.TRANSFER_ENCODING)
        if coding is None:
            return None
        # RFC 9112 section 6.1: not known before HTTP/1.1; and a proxy that frames chunks anew must know what is in
        # them.
        if version < HttpVersion11:
            return 400
        return None if coding.strip().lower() == "chunked" else 501

    async def reject(self, status: int, request: web.BaseRequest) -> web.StreamResponse:
        response = self._shared.bad_request_handler(request, status)
        response.force_close()
        return response

    def refuses_messages(self) -> bool:
        return self._has_violated()

    async def discard(self, body: StreamReader) -> None:
        if not await self._shared.lingering.discard(body):
            self.force_close()

    async def on_headers_sent(self, headers: CIMultiDict[str]) -> None:
        # aiohttp's own tells the versions of aiohttp and Python. A response that a handler has prepared has it.
        if headers.get(hdrs.SERVER) == SERVER_SOFTWARE:
            headers[hdrs.SERVER] = SERVER

    def complete(self, response: web.StreamResponse) -> None:
        if self.reserved or self._is_refused:
            response.force_close()
        response.headers.setdefault(hdrs.SERVER, SERVER)

    def has_responded(self) -> None:
        if self.reserved:
            # Also where the response was under way already: the descriptor is for the next client.
            self.close()
        if self.transport is not None:
            now = self._shared.loop.time()
            self._shared.idle_connections.add(self, now)
            if not self._has_header_deadline:
                self._idle_until = now + self._shared.timeouts.keepalive
                if self._idle_timer is None:
                    self._idle_timer = self._shared.loop.call_at(self._idle_until, self._idle_timer_fired)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to what cannot be parsed. aiohttp logs a traceback for each; a port scan would fill the log."""
        if status >= 500 and status != _NO_ROOM:
            return super().handle_error(request, status, exc, message)
        self.logger.debug("malformed request: %s", message)
        response = self._shared.bad_request_handler(request, 431 if isinstance(exc, LineTooLong) else status)
        response.force_close()
        return response

    # Parsing ----------------------------------------------------------------------------------------------------------

    def parse_slice(self) -> bool:
        """Let the handler go on that waits for a turn, or parse some of the input; whether another turn is needed."""
        receiver, self._receiver = self._receiver, None
        if receiver is None or receiver.done():  # its task was cancelled
            self._waits_for_turn = self._unparsed != b"" and self._parse_next(self._pace.slice)
            return self._waits_for_turn
        receiver.set_result(None)
        self._waits_for_turn = self._unparsed != b""
        if not self._waits_for_turn and not self._has_violated():
            self.resume_if_unpaused()
        return self._waits_for_turn

    def _parsed_at_once(self, data: bytes) -> int:
        """How many of these bytes, which are unparsed, are parsed before others had a turn.

        In an iteration that has no time left, only as many as tell whether the rest is payload. That costs nothing to
        parse, and in the queue thousands of connections would hold theirs.
        """
        if not self._shared.turns.are_spent:
            return self._pace.slice
        if not self.parses_requests():
            return _SMALL_READ
        if self._rest_is_payload():
            return len(data)
        end = data.find(_END_OF_HEADERS, 0, self._pace.slice) if self.awaits_request else -1
        return end + len(_END_OF_HEADERS) if end >= 0 else 0

    def _queue_for_turn(self) -> None:
        if not self._waits_for_turn:
            self._waits_for_turn = True
            self._shared.turns.add(self)

    def _parse_next(self, size: int) -> bool:
        """Parse so much of the input, and what is payload behind it; whether there is more."""
        was_upgraded, began = self.upgraded, time.perf_counter()
        data = self._take_unparsed(size)
        self._parse(data)
        self._pace.parsed(len(data), time.perf_counter() - began)
        if self.upgraded and not was_upgraded and self._unparsed:
            # A tunnel takes what came behind the handshake when the handler has run: all of it must be there.
            self._parse(self._take_unparsed(len(self._unparsed)))
        elif self._unparsed and self._rest_is_payload():
            # It would wait for a turn on thousands of connections at once, in memory and not counted.
            self._parse(self._take_unparsed(len(self._unparsed)))
        if self._unparsed:
            return True
        if not self._has_violated():
            self.resume_if_unpaused()
        return False

    def _take_unparsed(self, size: int) -> bytes:
        begin, end = self._parsed, self._parsed + size
        data = self._unparsed[begin:end]
        if end < len(self._unparsed):
            self._parsed = end
        else:
            self._forget_unparsed()
        return data

    def _forget_unparsed(self) -> None:
        self._unparsed, self._parsed = b"", 0
        if self._held:
            self._shared.room.grow(self._held, 0)
            self._held = 0

    def _wait_for_turn(self, data: bytes = b"") -> None:
        """Parse no more until the others had a turn."""
        self._client.pause_reading()
        self._unparsed, self._parsed = self._unparsed[self._parsed :] + data, 0
        if self._shared.room.grow(self._held, len(self._unparsed)):
            self._held = len(self._unparsed)
            self._queue_for_turn()
        else:
            self._forget_unparsed()
            self._refuse_unparsed()

    def _refuse_unparsed(self) -> None:
        """There is no room for what would wait for a turn: nothing more is parsed, for bytes of it are missing now."""
        if self.has_message_parser and self._unfinished is not None:
            self._unfinished.refuse()
            return
        self._is_refused = True
        self._headers_end()
        self.refuse_rest(web.HTTPServiceUnavailable(text=_NO_ROOM_TEXT, headers={hdrs.RETRY_AFTER: "1"}))

    def _rest_is_payload(self) -> bool:
        unfinished, rest = self._unfinished, len(self._unparsed) - self._parsed
        if self.has_message_parser:
            return unfinished is not None and unfinished.payload_left >= rest
        return self.body_left >= rest

    def _has_violated(self) -> bool:
        return self._unfinished is not None and self._unfinished.violated

    def _parse_messages(self, data: bytes) -> None:
        if self._unfinished is not None and not self._unfinished.violated:
            self._unfinished.receive_data(data)
        if self._has_violated():
            self._forget_unparsed()
            self._client.pause_reading()
        else:
            super().data_received(data)

    def _parse(self, data: bytes) -> None:
        if self.has_message_parser:
            self._parse_messages(data)
        else:
            self._parse_requests(data)

    def _parse_requests(self, data: bytes) -> None:
        if self.parse(data):
            self._asked = True
            self._shared.idle_connections.set_busy(self)
            self._idle_until = math.inf
            self._header_bytes = 0
            if self._has_header_deadline:
                self._headers_end()
            if not data.endswith(_END_OF_HEADERS) and self._next_has_begun(data):
                self._headers_begin()
        elif data:
            # What has begun in one read and ends in another.
            self._may_be_large = True
            if self.awaits_request:
                self._headers_continue(len(data))
        self.serve_queued()

    def _next_has_begun(self, data: bytes) -> bool:
        """Whether there is more in `data` than the request whose headers it ends. Not known behind a body: there the
        keep-alive timer bounds the wait for the next byte of headers.
        """
        return self.last_queued_ends and not _END_OF_HEADERS.endswith(data[-len(_END_OF_HEADERS) :])

    # The timer of a request's headers -------------------------------------------------------------------------------

    def _headers_begin(self) -> None:
        self._idle_until = math.inf
        self._shared.header_deadlines.add(self)
        self._has_header_deadline = True

    def _headers_continue(self, size: int) -> None:
        if not self._has_header_deadline:
            self._headers_begin()
        self._header_bytes += size
        if self._header_bytes > MAX_HEADERS:
            self._headers_end()
            self.refuse_request(431, "the headers are too large")

    def expire(self) -> None:
        """The time for a request's headers is over."""
        self._has_header_deadline = False
        # Those that come behind a request have their time from its end, and at most as much again.
        if not self.awaits_request and self._asked:
            self._headers_begin()
        else:
            self.force_close()

    def _headers_end(self) -> None:
        self._header_bytes = 0
        if self._has_header_deadline:
            self._has_header_deadline = False
            self._shared.header_deadlines.remove(self)

    # The keep-alive timer -------------------------------------------------------------------------------------------

    def _idle_timer_fired(self) -> None:
        # One that fires before its time is set again, which costs less than to set it for each request.
        self._idle_timer = None
        if self._idle_until == math.inf:
            return
        if self._shared.loop.time() < self._idle_until:
            self._idle_timer = self._shared.loop.call_at(self._idle_until, self._idle_timer_fired)
        elif self.awaits_request:
            self.force_close()

    # The timer of a client that does not read -------------------------------------------------------------------------

    def _is_unread(self) -> None:
        """Cut the client if it reads nothing of what waits for it from now on."""
        if self._send_timer is None:
            self._watch_client()

    def _watch_end(self) -> None:
        """The same where the connection is being closed; a tunnel has timers of its own."""
        client = self._client
        if client.is_closing() and client.get_protocol() is self and client.get_write_buffer_size():
            self._is_unread()

    def _watch_client(self) -> None:
        size = self._client.get_write_buffer_size()
        self._send_timer = self._shared.loop.call_later(self._shared.timeouts.send, self._send_timed_out, size)

    def _send_timed_out(self, before: int) -> None:
        if self._client.get_write_buffer_size() < before:
            self._watch_client()
        else:
            self._client.abort()

    def _is_read(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None
