"""A connection to an upstream: one request after another, each with its response, or one handshake and then a tunnel.

It has one timer, for whatever it waits for at the moment. The timer is only ever set to an earlier time: one that fires
before its time is set again, which costs less than setting it for each wait.
"""

import asyncio
import math
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from moorline.gateway.cause import Cause, Moment, Reason, Who, is_unreachable
from moorline.gateway.common import unread
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS
from moorline.gateway.common.web.time_limit import TimeLimits
from moorline.gateway.errors import (
    BadUpstreamResponse,
    ConnectTimeout,
    GatewayError,
    Unavailable,
    UpstreamTimeout,
    UpstreamTlsError,
    UpstreamUnreachable,
    is_shortage,
)
from moorline.gateway.proxy.response import Response, ResponseParser
from moorline.gateway.proxy.upstreams import Through

__all__ = ["Sink", "UpstreamConnection"]

# Of a body that the client does not take as fast as it comes: asyncio's high-water mark. One read may go beyond it.
_MAX_UNREAD = 64 << 10
_LOCALHOST = "localhost"


class Sink(Protocol):
    """Takes the body of a response as it comes."""

    def take(self, part: bytes | memoryview, *, complete: bool) -> bool:
        """Take the next part, which may be empty; whether it can take more at once. It raises nothing."""


class UpstreamConnection(asyncio.Protocol):
    """Use: `connect`, then for each request `send`, `response`, `pass_to` and `passed` until `complete`. The caller
    ends it, with `abort` or by giving it to a pool or a tunnel.

    A sink that is there when the headers are gets the body in the call in which it was read. The task that awaits the
    response runs when all other connections have been read: of 32 with 64 KiB each, 2 MiB would wait for it.
    """

    __slots__ = (
        "_awaited",
        "_body",
        "_deadline",
        "_descriptor",
        "_drained",
        "_due",
        "_error",
        "_loop",
        "_on_end",
        "_on_response",
        "_parser",
        "_read_seconds",
        "_reading_paused",
        "_received",
        "_requests",
        "_response",
        "_sink",
        "_timer",
        "_transport",
        "_unread",
        "_waiter",
        "_writing_paused",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # `asyncio.get_running_loop` asks the kernel whether the process is the one that it was.
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1
        self._parser: ResponseParser | None = None
        self._requests = 0
        self._received = False
        self._response: Response | None = None
        self._on_response: Callable[[Response], Sink | None] | None = None
        self._sink: Sink | None = None
        self._read_seconds = math.inf
        self._reading_paused = False
        self._body: list[bytes | memoryview] = []
        self._unread = 0
        self._error: GatewayError | None = None
        # Of the headers, and of the body.
        self._awaited: asyncio.Future[Response] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._writing_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._deadline = math.inf
        self._on_end: Callable[[UpstreamConnection], None] | None = None

    async def connect(
        self,
        host: str,
        port: int,
        seconds: float,
        *,
        limits: TimeLimits | None,
        tls: ssl.SSLContext | None = None,
        through: Through | None = None,
    ) -> None:
        """Establish it, with TLS where there is a context; the host's name is resolved anew. `limits` None: a limit of
        the caller's ends it before.

        Raises:
            GatewayError: it cannot be established, or not in time.
        """
        try:
            if limits is None:
                await self._established(host, port, seconds, tls, through)
            else:
                with limits.of(seconds):
                    await self._established(host, port, seconds, tls, through)
        except TimeoutError as error:
            # The operating system's own limit may be the shorter one.
            raise ConnectTimeout(f"{host}:{port}") from error
        except ssl.SSLError as error:
            raise UpstreamTlsError(_tls_problem(error)) from error
        except OSError as error:
            if is_shortage(error):
                raise Unavailable("The gateway has no file descriptor left for another connection.") from error
            detail = f"{type(error).__name__} {error.strerror or ''}".rstrip()
            # One of the event loop's calls in it refers to the error: both would stay until a search for cycles.
            error.__traceback__ = None
            raise UpstreamUnreachable(detail, _unreachable_by(error)) from error

    def _established(
        self, host: str, port: int, seconds: float, tls: ssl.SSLContext | None, through: Through | None
    ) -> Awaitable[object]:
        if tls is not None:
            # asyncio's own limit of a TLS handshake is a minute; the one here may be longer.
            return self._dial(host, port, ssl=tls, ssl_handshake_timeout=seconds, server_hostname=host)
        if through is not None:
            return through(self, host, port)
        # No coroutine of its own, which each handshake would run twice.
        return self._dial(host, port) if host == _LOCALHOST else self._loop.create_connection(lambda: self, host, port)

    async def _dial(self, host: str, port: int, **options: Any) -> None:
        try:
            await self._loop.create_connection(lambda: self, host, port, **options)
        except ConnectionRefusedError as refused:
            # RFC 6761 section 6.3: localhost is both loopback addresses. The hosts file of a container may name one,
            # and a dev server listens on ::1 alone.
            if host != _LOCALHOST:
                raise
            try:
                await self._loop.create_connection(lambda: self, "::1", port, **options)
            except ssl.SSLError:
                raise
            except OSError:
                raise refused from None

    # One request and its response -------------------------------------------------------------------------------------

    def send(self, method: str, head: bytes, on_response: Callable[[Response], Sink | None] | None = None) -> None:
        """Begin a request with its request line and headers. `on_response` is called with the final response's headers
        as soon as they are there, and may return what takes the body; it raises BadUpstreamResponse for one that is
        not to be used.
        """
        self._parser = ResponseParser(method)
        self._requests += 1
        self._received = False
        self._response, self._on_response, self._sink = None, on_response, None
        self.write(head)

    def write(self, data: bytes) -> None:
        """Send a part of the request's body, to an upstream that may be gone: waiting for the response will tell."""
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self, seconds: float) -> None:
        """Return when the upstream has taken what was sent to it, or is gone.

        Raises:
            UpstreamTimeout: it took too long, and there are no headers of a response yet.
        """
        while self._writing_paused:
            self._drained = self._loop.create_future()
            try:
                async with asyncio.timeout(None if self._has_headers() else seconds):
                    await self._drained
            except TimeoutError:
                if not self._has_headers():
                    raise UpstreamTimeout("proxy_send_timeout while the body of the request was sent") from None

    def response(self, seconds: float | None) -> "asyncio.Future[Response]":
        """The status line and headers of the final response; interim ones are dropped. A future and no coroutine, which
        each request would run twice.

        Raises:
            UpstreamUnreachable: the connection ended before.
            BadUpstreamResponse: what came is not HTTP/1.1.
            UpstreamTimeout: it took longer than `seconds`.
        """
        awaited = self._awaited = self._loop.create_future()
        if self._response is not None or self._error is not None:
            self._wake()
        elif seconds is not None:
            self._expire_in(seconds)
        return awaited

    def pass_to(self, sink: Sink) -> None:
        """Give the body to `sink`: what has come of it now, and from now on each part as it comes."""
        self._sink = sink
        complete = self.complete
        if not sink.take(self._unread_body(), complete=complete) and not complete:
            self._pause_reading()

    async def passed(self, seconds: float) -> None:
        """Return once the body is complete, or its sink takes no more. To be called again reads on.

        Raises:
            GatewayError: the body breaks off, or nothing of it comes for `seconds`.
        """
        if not self.complete and self._error is None:
            if self._reading_paused:
                self._resume_reading()
            self._read_seconds = seconds
            try:
                await self._wait(seconds)
            finally:
                self._read_seconds = math.inf
        if not self.complete and self._has_failed():
            raise self._failure()

    @property
    def complete(self) -> bool:
        """Whether all of the response has come."""
        return self._parser is not None and self._parser.complete

    def is_reusable(self) -> bool:
        """Whether another request may be sent: the response ended by its own framing, with nothing behind it, and was
        read: what is left of its body would be taken for the next one's.
        """
        parser, transport = self._parser, self._transport
        return (
            parser is not None
            and parser.complete
            and parser.persistent
            and not parser.excess
            and not (self._body or self._reading_paused)
            and self._error is None
            and transport is not None
            and not transport.is_closing()
            and not self._writing_paused
        )

    @property
    def established(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    @property
    def was_stale(self) -> bool:
        """Whether it had served a request before, and has ended without a byte of the response to this one."""
        return self._requests > 1 and not self._received

    def fail(self, error: GatewayError) -> None:
        """End the wait for the response with `error`, unless its headers are there."""
        if not self._has_headers():
            self._end(error)

    def request_sent(self, seconds: float) -> None:
        """The request's body has been sent: the wait for the response may take so long from now on."""
        if self._awaited is not None and not self._awaited.done():
            self._expire_in(seconds)

    def abort(self) -> None:
        """End it at once. It may have ended already, or be another protocol's."""
        self._on_end = self._on_response = self._sink = None
        if self._transport is not None:
            self._transport.abort()
        self._release_timer()

    def hand_over(self) -> tuple[asyncio.Transport, bytes]:
        """The transport and the bytes that came behind the 101. The caller sets its protocol.

        Raises:
            UpstreamUnreachable: the upstream has reset the connection behind its 101.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            raise UpstreamUnreachable("reset behind its 101")
        assert self._parser is not None, "it has received a 101"
        # `abort` has nothing to end from now on.
        self._transport = self._on_response = None
        self._release_timer()
        return transport, self._parser.excess

    # Between two requests ---------------------------------------------------------------------------------------------

    def begin_idle(self, seconds: float, on_end: Callable[["UpstreamConnection"], None]) -> None:
        """Wait for the next request, for so long at most. `on_end` is called once it cannot be used any more."""
        self._parser = self._response = self._on_response = self._sink = None
        self._on_end = on_end
        if self._descriptor < 0 and self._transport is not None:
            # Of those alone that serve again: the event loop asks the kernel for what it makes of it.
            self._descriptor = unread.descriptor(self._transport)
        self._expire_in(seconds)

    def end_idle(self) -> bool:
        """Take it for the next request; False: it cannot be used, and has ended.

        What the upstream has sent meanwhile would be taken for the response to a request that it has not seen.
        """
        self._on_end = None
        self._deadline = math.inf
        transport = self._transport
        if transport is None or transport.is_closing() or unread.has_unread_at(self._descriptor):
            self.abort()
            return False
        return True

    # asyncio's callbacks ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None or parser.complete:
            # It belongs to no request.
            self._end(BadUpstreamResponse("bytes behind the response"))
            return
        self._received = True
        is_first = False
        try:
            part = parser.receive_data(data)
            if self._response is None and (response := parser.response) is not None:
                if self._on_response is not None:
                    self._sink = self._on_response(response)
                self._response, is_first = response, True
        except BadUpstreamResponse as error:
            self._end(error)
            return
        if self._sink is not None:
            takes_more = self._sink.take(part, complete=parser.complete)
            if not takes_more and not parser.complete:
                self._pause_reading()
            if is_first or parser.complete or not takes_more:
                self._wake()
            else:
                self._deadline = self._loop.time() + self._read_seconds
            return
        if part:
            self._body.append(part)
            self._unread += len(part)
        if self._unread > _MAX_UNREAD or (self._response and self._response.status == SWITCHING_PROTOCOLS):
            # Whatever follows a 101 is for the tunnel's protocol.
            self._pause_reading()
        if is_first:
            self._wake()

    def eof_received(self) -> None:
        if self._parser is not None and self._parser.receive_eof() and self._sink is not None:
            self._sink.take(b"", complete=True)
        self._end(UpstreamUnreachable("closed before the end of the response"))

    def connection_lost(self, exc: Exception | None) -> None:
        how = "closed" if exc is None else type(exc).__name__
        self._end(UpstreamUnreachable(f"{how} before the end of the response", _lost_by(exc)))
        self._transport = None
        self.resume_writing()

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # ------------------------------------------------------------------------------------------------------------------

    def _has_headers(self) -> bool:
        return self._response is not None

    def _unread_body(self) -> bytes | memoryview:
        """What has come of the body before its sink."""
        parts, self._body, self._unread = self._body, [], 0
        if self._reading_paused:
            self._resume_reading()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _has_failed(self) -> bool:
        return self._error is not None

    def _failure(self) -> GatewayError:
        return self._error or UpstreamUnreachable("the connection has ended")

    def _pause_reading(self) -> None:
        transport = self._transport
        # uvloop's transport refuses when it is closing.
        if transport is not None and not transport.is_closing():
            transport.pause_reading()
            self._reading_paused = True

    def _resume_reading(self) -> None:
        transport = self._transport
        self._reading_paused = False
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    def _end(self, error: GatewayError) -> None:
        """Use it for nothing else. A response that is complete stays so."""
        if self._error is None:
            self._error = error
        on_end = self._on_end
        self.abort()
        if on_end is not None:
            on_end(self)
        self._wake()

    async def _wait(self, seconds: float | None) -> None:
        waiter = self._waiter = self._loop.create_future()
        if seconds is not None:
            self._expire_in(seconds)
        try:
            await waiter
        finally:
            self._waiter = None
            self._deadline = math.inf

    def _wake(self) -> None:
        awaited = self._awaited
        if awaited is not None:
            self._awaited, self._deadline = None, math.inf
            if not awaited.done():
                if self._response is not None:
                    awaited.set_result(self._response)
                else:
                    awaited.set_exception(self._failure())
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire_in(self, seconds: float) -> None:
        self._deadline = self._loop.time() + seconds
        if self._timer is None or self._deadline < self._due:
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._deadline
        self._timer = self._loop.call_at(self._due, self._timer_fired)

    def _release_timer(self) -> None:
        self._deadline = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timer_fired(self) -> None:
        self._timer = None
        if self._deadline == math.inf:
            return
        if self._loop.time() < self._deadline:
            self._set_timer()
        else:
            self._end(UpstreamTimeout("proxy_read_timeout"))


def _tls_problem(error: ssl.SSLError) -> str:
    """`certificate verify failed: self-signed certificate`, `wrong version number`"""
    reason = (error.reason or "TLS handshake failed").replace("_", " ").lower()
    return f"{reason}: {error.verify_message}" if isinstance(error, ssl.SSLCertVerificationError) else reason


def _unreachable_by(error: OSError) -> Cause:
    """Why no connection to an upstream could be established."""
    if isinstance(error, socket.gaierror):
        return Cause(Who.NETWORK, Reason.UNKNOWN_NAME, Moment.CONNECT)
    if is_unreachable(error):
        return Cause(Who.NETWORK, Reason.UNREACHABLE, Moment.CONNECT)
    return Cause(Who.UPSTREAM, Reason.REFUSED, Moment.CONNECT)


def _lost_by(error: Exception | None) -> Cause:
    """Why an upstream's connection ended before its response; None is a FIN."""
    if is_unreachable(error):
        return Cause(Who.NETWORK, Reason.UNREACHABLE, Moment.RESPONSE)
    return Cause(Who.UPSTREAM, Reason.FIN if error is None else Reason.RESET, Moment.RESPONSE)
