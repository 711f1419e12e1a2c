"""Everything that moorline uses of aiohttp beyond its documented interface, under names of its own.

A server connection bounds a request's headers where aiohttp has no hook for it, and runs its requests itself; a proxy
takes the client's transport out of aiohttp's protocol without losing a byte, and needs no router for what its routes
have found. No other module may name a private attribute of aiohttp. Each name is checked when this module is imported:
a version of aiohttp that lacks one ends the program with a line that says so, rather than with an AttributeError in the
middle of a handshake.
"""

import asyncio
import functools
import operator
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ssl import SSLContext
from typing import Any, cast

import aiohttp
from aiohttp import HttpVersion11, StreamReader, hdrs, web, web_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter, WebSocketError
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from aiohttp.http_parser import RawRequestMessage, RawResponseMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from moorline.gateway.common.errors import UnsupportedLibrary
from moorline.gateway.common.web.draining import Draining

__all__ = [
    "BaseHandler",
    "ClientConnector",
    "RawRequestMessage",
    "ServerProtocol",
    "ServerSocket",
    "app_of",
    "check",
    "is_upgraded",
    "items_of",
    "message_of",
    "parts_of",
    "pass_router",
    "protocol_of",
    "rebuilt",
    "route_of",
    "take_over",
]

BaseHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
"""A handler of a server, which has no application."""

_NO_ARGUMENTS: Mapping[str, Any] = {}
_NONE_SERVED: tuple[Any, StreamReader] = (None, EMPTY_PAYLOAD)
# Of what, and the names that are used of it: methods and slots.
_NAMES: tuple[tuple[object, tuple[str, ...]], ...] = (
    (web_protocol, ("ERROR", "_ErrInfo", "_PAYLOAD_ACCESS_ERROR")),
    (
        BaseProtocol,
        ("_buffer_paused", "_loop", "_parser", "_reading_paused", "_upgraded", "transport", "writing_paused"),
    ),
    (web.Request, ("_match_info",)),
    (web.WebSocketResponse, ("_close_transport", "_req")),
    (ResponseHandler, ("feed_data", "set_exception")),
    (
        RequestHandler,
        (
            "_cache",
            "_close",
            "_current_request",
            "_data_received_cb",
            "_force_close",
            "_handle_request",
            "_handler_waiter",
            "_keepalive",
            "_make_error_handler",
            "_manager",
            "_message_tail",
            "_messages",
            "_msg_queue_resume_size",
            "_payload_parser",
            "_request_count",
            "_request_factory",
            "_request_handler",
            "_request_in_progress",
            "_resume_reading_if_drained",
            "_task_handler",
            "finish_response",
            "handle_error",
            "set_parser",
        ),
    ),
)


def check() -> None:
    """Look for each private name that is used.

    Raises:
        UnsupportedLibrary: this version of aiohttp lacks one.
    """
    for owner, names in _NAMES:
        for name in names:
            if not hasattr(owner, name):
                where = getattr(owner, "__qualname__", getattr(owner, "__name__", ""))
                raise _unsupported(f"{where}.{name}")
    # Attributes of each instance alone, and the function that returns it.
    readers: tuple[tuple[type, Any, str], ...] = (
        (web.BaseRequest, cast("property", web.BaseRequest.task).fget, "_task"),
        (web.BaseRequest, web.BaseRequest.__getitem__, "_state"),
        (web.BaseRequest, web.BaseRequest.__init__, "_cache"),
        (web.BaseRequest, web.BaseRequest.__init__, "_headers"),
        (web.BaseRequest, web.BaseRequest.__init__, "_loop"),
        (web.BaseRequest, web.BaseRequest.__init__, "_message"),
        (web.BaseRequest, web.BaseRequest.__init__, "_method"),
        (web.BaseRequest, web.BaseRequest.__init__, "_protocol"),
        (web.BaseRequest, web.BaseRequest.__init__, "_rel_url"),
        (web.BaseRequest, web.BaseRequest.__init__, "_transport_peername"),
        (web.BaseRequest, web.BaseRequest.__init__, "_transport_sslcontext"),
        (web.BaseRequest, web.BaseRequest.__init__, "_version"),
        (web.Application, web.Application.__getitem__, "_state"),
        (web.UrlMappingMatchInfo, cast("property", web.UrlMappingMatchInfo.current_app).fget, "_current_app"),
        (web.UrlMappingMatchInfo, cast("property", web.UrlMappingMatchInfo.route).fget, "_route"),
    )
    for owner, reader, name in readers:
        if name not in reader.__code__.co_names:
            raise _unsupported(f"{owner.__name__}.{name}")


def _unsupported(name: str) -> UnsupportedLibrary:
    return UnsupportedLibrary(
        f"aiohttp {aiohttp.__version__} has no {name}, which moorline needs; "
        "install the version that moorline asks for: pip install --upgrade moorline"
    )


check()


class ClientConnector(aiohttp.TCPConnector):
    """A connector whose connections are resumed where they were paused, and not at each read of a body."""

    def __init__(self, *, limit: int, keepalive_timeout: float, ssl: SSLContext) -> None:
        super().__init__(limit=limit, keepalive_timeout=keepalive_timeout, ssl=ssl)
        if not hasattr(self, "_factory"):
            raise _unsupported("TCPConnector._factory")
        self._factory = cast("Any", functools.partial(_ClientProtocol, loop=self._loop))


# A server sends one or two before its response.
_MOST_INFORMATIONAL = 16


class _ClientProtocol(ResponseHandler):
    _informational = 0
    """Since the last response that is one."""

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        # aiohttp skips informational responses (1xx), whatever their number, and keeps as many as come meanwhile.
        if self._informational > _MOST_INFORMATIONAL:
            return
        self._informational = self._informational + 1 if data[0].code < 200 else 0
        if self._informational <= _MOST_INFORMATIONAL:
            super().feed_data(data, size)
        else:
            if self.transport is not None:
                self.transport.close()
            self.set_exception(BadHttpMessage("too many informational responses"))

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        # A body that is read as fast as it comes never pauses. To parse nothing, and to resume a transport that reads,
        # would cost a tenth of what an event of an answer does.
        if self._reading_paused:
            super().resume_reading(resume_parser)


class ServerProtocol(RequestHandler):
    """A connection of aiohttp's server that has a task for each request, and none between two requests. The drain
    waits for requests that are being handled.

    aiohttp's own `start` is a task for the connection, which waits for requests and begins another task for each: two
    more iterations of the event loop for a request, and a timer and a task for a connection that becomes a tunnel. A
    task for each request there must be: a variable of one request's context must not be seen by the next one.
    """

    __slots__ = ("_draining", "_is_taken", "_served", "socket_failed")

    _is_taken: bool
    """Whether another protocol has the transport."""
    _served: tuple[Any, StreamReader]
    """The request that is being handled: its message and its body."""
    socket_failed: bool
    """Whether it is a WebSocket that was closed in the middle of a message."""

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        draining: Draining,
        arguments: Mapping[str, Any] = _NO_ARGUMENTS,
    ) -> None:
        """`arguments`: what aiohttp is to do otherwise than by default."""
        # By name: `super` takes four times as long.
        RequestHandler.__init__(self, server, loop=loop, **arguments)
        self._draining = draining

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The loop has set TCP_NODELAY, and the connection has SO_KEEPALIVE from its listener.
        self.transport = cast("asyncio.Transport", transport)
        self._served, self._is_taken, self.socket_failed = _NONE_SERVED, False, False
        if self.transport.can_write_eof():
            # That of TLS cannot. aiohttp asks what uvloop takes long to deny. `stand_for` may have said.
            self._cache.setdefault("ssl_context", None)
        assert self._manager is not None, "until the connection is lost"
        self._manager.connection_made(self, self.transport)

    def data_received(self, data: bytes) -> None:
        self.parse(data)
        self.serve_queued()

    def parse(self, data: bytes) -> bool:
        """Parse what the client sent; whether a request begins with it, which `serve_queued` handles."""
        before = self._request_count
        # Each read asks, and `super` takes four times as long.
        RequestHandler.data_received(self, data)
        return self._request_count > before

    def serve_queued(self) -> None:
        """Handle the next request that was parsed, unless one is being handled."""
        if self._messages and self._task_handler is None and not self._force_close:
            # The loop's `create_task` would give it a number for a name.
            self._task_handler = asyncio.Task(self.serve(), loop=self._loop, name="request")

    async def serve(self) -> None:
        """Handle the request that was parsed first."""
        message, payload = self._served = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        is_usable, draining = False, self._draining
        try:
            request, handler = self._request_of(message, payload)
            try:
                try:
                    draining.begin_request()
                    try:
                        response = await handler(request)
                    finally:
                        draining.end_request()
                except Exception as error:
                    # aiohttp knows what to answer to each.
                    response, is_lost = await self._handle_request(request, None, functools.partial(_raised, error))
                else:
                    if draining.has_successor:
                        # The next one of this client is for another process.
                        response.force_close()
                    # Most are sent already. Behind a handshake that was refused aiohttp goes on parsing.
                    is_lost = False
                    if not self._is_taken and (self._upgraded or not getattr(response, "is_sent", False)):
                        response, is_lost = await self.finish_response(request, response, None)
            finally:
                self._end_request(request)
            if not self._is_taken:
                self.has_responded()
                is_usable = not is_lost
            if is_usable:
                self._keepalive = bool(response.keep_alive)
                if payload is not EMPTY_PAYLOAD:
                    await self._end_payload(payload)
        except ConnectionError:
            is_usable = False
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception:
            self.logger.exception("Unhandled exception")
            self.force_close()
            return
        self._task_handler, self._served = None, _NONE_SERVED
        if self._force_close:
            return
        if is_usable and self._keepalive and not self._close and (self._messages or not draining.has_successor):
            if self._messages:
                self.serve_queued()
        else:
            is_unreadable = isinstance(message, web_protocol._ErrInfo)
            is_sending = is_unreadable or not payload.is_eof() or bool(self._messages) or self.socket_failed
            self.end(is_sending=is_sending)

    def _request_of(self, message: Any, payload: StreamReader) -> tuple[Any, Any]:
        """The request of a message, which begins, and its handler."""
        # None of these is None until the connection is lost.
        served: Any = self
        served._manager.requests_count += 1
        if isinstance(message, web_protocol._ErrInfo):
            message, handler = web_protocol.ERROR, self._make_error_handler(message)
        else:
            status = self.rejection(message)
            handler = served._request_handler if status is None else functools.partial(self.reject, status)
        writer = StreamWriter(self, self._loop, None, self.on_headers_sent)
        request = served._request_factory(message, payload, self, writer, self._task_handler)
        if not request._cache:
            # Where the first question for each would put it, by a call of a method in Python. The target of a proxy's
            # client, which names a host, has filled a part of it. The message gives each part of it by a call.
            request._cache = {
                "method": request._method,
                "version": request._version,
                "headers": request._headers,
                "rel_url": request._rel_url,
                "scheme": "https" if request._transport_sslcontext else "http",
                "body_exists": payload is not EMPTY_PAYLOAD,
            }
            # That of a Unix socket has no address.
            if isinstance(peer := request._transport_peername, tuple):
                request._cache["remote"] = peer[0]
        self._current_request, self._request_in_progress = request, True
        return request, handler

    def rejection(self, message: RawRequestMessage) -> int | None:
        """The status for a request that aiohttp accepted and that its handler must not see; None for the others."""
        return None

    async def reject(self, status: int, request: web.BaseRequest) -> web.StreamResponse:
        """The response to it."""
        return web.Response(status=status)

    def _end_request(self, request: Any) -> None:
        self._current_request, self._request_in_progress = None, False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        # The two refer to each other.
        request._task = None
        if self._is_taken:
            self.leave()

    async def _end_payload(self, payload: StreamReader) -> None:
        if self._keepalive and not self._close and not self._force_close and not payload.is_eof():
            await self.discard(payload)
        payload.set_exception(web_protocol._PAYLOAD_ACCESS_ERROR)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        self.complete(resp)
        if self._force_close:
            resp.force_close()
        return await super().finish_response(request, resp, start_time)

    async def on_headers_sent(self, headers: CIMultiDict[str]) -> None:
        """Change the headers of a response that aiohttp is about to send."""

    def complete(self, response: web.StreamResponse) -> None:
        """Set what is the same in all responses that aiohttp sends."""

    def has_responded(self) -> None:
        """A response has been sent, or what will be sent of it."""

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        # A WebSocket's own method: with it the connection would stay until a search for cycles.
        self._data_received_cb = None

    def leave(self) -> None:
        """Have the server forget the connection, whose transport is another protocol's. aiohttp's `connection_lost`
        would do so as well, and end what the other protocol goes on with.
        """
        self._force_close, self._task_handler = True, None
        if self._manager is not None:
            self._manager.connection_lost(self, None)
        self._manager = self._request_factory = self._request_handler = self._parser = None

    async def discard(self, body: StreamReader) -> None:
        """Read the body that the handler has left, behind which the connection goes on; or end the connection."""
        self.force_close()

    def set_parser(self, parser: Any, data_received_cb: Callable[[], None] | None = None) -> None:
        super().set_parser(parser, data_received_cb)
        # No request comes behind a handshake: the parser of requests would hold 0.8 KiB of an open socket. One that did
        # not stop, as at a handshake with a body, is needed to pause.
        if self._upgraded:
            self._parser = None

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        # aiohttp cancels a handler only as it closes the connection, and waits before that for what does not come: one
        # that is cancelled now can still respond.
        cancel = None
        if self._task_handler is not None and timeout is not None:
            cancel = self._loop.call_later(timeout, self._task_handler.cancel)
        try:
            await super().shutdown(timeout)
        finally:
            if cancel is not None:
                cancel.cancel()

    def close(self) -> None:
        super().close()
        if self._task_handler is None and self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def force_close(self) -> None:
        # asyncio's TLS transport that is closed twice raises AttributeError at every question.
        if self.transport is not None and self.transport.is_closing():
            self.transport = None
        super().force_close()

    def end(self, *, is_sending: bool) -> None:
        """End the connection once what was written is sent, behind its last response. `is_sending`: the client may send
        more than was parsed."""
        if self.transport is not None:
            self.transport.close()

    def drop_input(self) -> None:
        """Forget what was parsed and parse no more."""
        self._messages.clear()
        # It holds the body that it parses.
        self._parser = None

    def refuses_messages(self) -> bool:
        """Whether it is a WebSocket of which nothing more is read, though its client may be sending."""
        return False

    def parses_requests(self) -> bool:
        """Whether what the client sends is parsed as requests."""
        return self._payload_parser is None and not self._upgraded

    @property
    def awaits_request(self) -> bool:
        """Whether no request is parsed or being handled, nor the rest of a request's body awaited."""
        return self._task_handler is None and not self._messages

    @property
    def upgraded(self) -> bool:
        """Whether aiohttp stopped parsing behind a request, as after a WebSocket handshake."""
        return self._upgraded

    @property
    def has_message_parser(self) -> bool:
        """Whether a WebSocket's handler receives messages here."""
        return self._payload_parser is not None

    @property
    def early(self) -> bytes:
        """What has come behind a handshake, before its handler has set a parser for it."""
        return self._message_tail

    @property
    def last_queued_ends(self) -> bool:
        """Whether the request that was parsed last has no body, so that what follows it is another request."""
        messages: deque[Any] = self._messages
        return bool(messages) and messages[-1][1] is EMPTY_PAYLOAD and not self._upgraded

    @property
    def body_left(self) -> int:
        """How many bytes are to come of the body of the request that was parsed last; 0 where its length is not known,
        and behind its end. To parse them costs nothing.
        """
        message, payload = self._last_parsed
        if payload is EMPTY_PAYLOAD or message.chunked:
            return 0
        return int(message.headers.get(hdrs.CONTENT_LENGTH, 0)) - int(payload.total_bytes)

    @property
    def _last_parsed(self) -> tuple[Any, StreamReader]:
        """The message and the body of the request that was parsed last, until it is answered."""
        messages: deque[Any] = self._messages
        return messages[-1] if messages else self._served

    def stand_for(self, transport: asyncio.BaseTransport) -> None:
        """Take the peer and TLS of this transport for its own: what it has itself comes from within the process."""
        self._cache["peername"] = transport.get_extra_info("peername")
        self._cache["ssl_context"] = transport.get_extra_info("sslcontext")

    def resume_if_unpaused(self) -> None:
        """Read on, unless aiohttp itself waits for its handler."""
        if self.transport is not None and not (self._reading_paused or self._buffer_paused):
            self.transport.resume_reading()

    def refuse_request(self, status: int, message: str) -> None:
        """Have `handle_error` answer in the place of the request that is awaited."""
        error = web_protocol._ErrInfo(status, HttpProcessingError(code=status), message)
        self._messages.append((error, EMPTY_PAYLOAD))
        self.serve_queued()

    def refuse_rest(self, refusal: web.HTTPException) -> None:
        """Raise `refusal` in the handler that reads the body which is not complete, or answer with its status in the
        place of the next request. The caller gives nothing more to the parser."""
        _, payload = self._last_parsed
        if payload.is_eof():
            self.refuse_request(refusal.status, refusal.reason)
        else:
            self._close = True
            payload.set_exception(refusal)


async def _raised(error: Exception, _: web.BaseRequest) -> web.StreamResponse:
    raise error


class ServerSocket(web.WebSocketResponse):
    """A WebSocket whose client gets the Close frame although it is still sending the message that is refused: aiohttp
    closes the connection at once, and the kernel answers what comes then with a reset."""

    def _close_transport(self) -> None:
        protocol = None if self._req is None else protocol_of(self._req)
        if isinstance(protocol, ServerProtocol) and (
            protocol.refuses_messages() or isinstance(self.exception(), WebSocketError)
        ):
            # Its handler returns now, and the connection ends then.
            protocol.socket_failed = True
        else:
            super()._close_transport()


# What a request asks at most steps of its way. Through aiohttp's interface each access is a call of a method in Python.
items_of: Callable[[web.BaseRequest | web.Application], dict[Any, Any]] = operator.attrgetter("_state")
"""What a request or an application holds by its keys."""
app_of: Callable[[web.Request], web.Application] = operator.attrgetter("_match_info._current_app")
"""The application of a request, which was routed."""
route_of: Callable[[web.Request], web.AbstractRoute] = operator.attrgetter("_match_info._route")
"""Its route."""
message_of: Callable[[web.BaseRequest], RawRequestMessage] = operator.attrgetter("_message")
"""What the client sent, without the body."""
protocol_of: Callable[[web.BaseRequest], RequestHandler] = operator.attrgetter("_protocol")
"""The client's connection."""
parts_of: Callable[
    [web.Request],
    tuple[RawRequestMessage, RequestHandler, web.Application, dict[Any, Any], asyncio.AbstractEventLoop],
] = operator.attrgetter("_message", "_protocol", "_match_info._current_app", "_state", "_loop")
"""These of one request by one call, and the event loop that handles it: `asyncio.get_running_loop` asks the kernel
whether the process is the one that it was.
"""


def pass_router(request: web.Request, match_info: web.UrlMappingMatchInfo) -> None:
    """Give the request what its handler needs of the router's work: its application."""
    request._match_info = match_info


def is_upgraded(request: web.BaseRequest) -> bool:
    """Whether aiohttp stopped parsing behind this request, as after a WebSocket handshake."""
    return request.protocol._upgraded


def take_over(request: web.BaseRequest, protocol: asyncio.Protocol) -> tuple[bytes, bool]:
    """Give the client's transport to `protocol`: what came behind the handshake, and whether the transport is full.

    Only once `is_upgraded`. The handler of `request` must send nothing and return next.
    """
    handler = request.protocol
    early, handler._message_tail = handler._message_tail, b""
    cast("asyncio.Transport", handler.transport).set_protocol(protocol)
    # aiohttp closes what it finds here when the handler has returned.
    handler.transport = None
    # The server must forget the connection, of whose end it is not told. Earlier would cancel the task.
    if isinstance(handler, ServerProtocol):
        handler._is_taken = True
    else:
        request.task.add_done_callback(lambda _: handler.connection_lost(None))
    return early, handler.writing_paused


class _Gone:
    """What a request asks of its connection, where it has none here."""

    ssl_context = None
    sockname = None
    transport = None

    def __init__(self, peer: str | None) -> None:
        self.peername = None if peer is None else (peer, 0)


async def rebuilt(
    app: web.Application, method: str, target: str, headers: Sequence[tuple[bytes, bytes]], peer: str | None
) -> web.Request:
    """A request that another process received, for a hook that is asked about it again. Nothing can be sent to it."""
    path, _, query = target.partition("?")
    named = CIMultiDict((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")) for name, value in headers)
    message = RawRequestMessage(
        method,
        target,
        HttpVersion11,
        CIMultiDictProxy(named),
        tuple(headers),
        should_close=False,
        compression=None,
        upgrade=True,
        chunked=False,
        url=URL.build(path=path, query_string=query, encoded=True),
    )
    protocol: Any = _Gone(peer)
    loop = asyncio.get_running_loop()
    request = web.Request(message, cast("Any", EMPTY_PAYLOAD), protocol, cast("Any", None), cast("Any", None), loop)
    match = await app.router.resolve(request)
    match.add_app(app)
    match.freeze()
    request._match_info = cast("Any", match)
    return request
