"""One request at an upstream and its response: for plain HTTP, for handshakes and for handshakes that are refused.

The request goes to the upstream that is to be next. Where that one cannot be reached, the next is tried; where none
can, a handshake is held for up to `connect_retry` and tried again: an upstream that restarts costs its clients a moment
and no error. So is each request for the front end's dev server, which may restart at every save, and one for a backend
that is a command of `serve`, as long as it was not sent. A request is sent again only where that is the same request
(`_repeatable`).
"""

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from moorline.gateway.cause import Moment
from moorline.gateway.common.access.middleware import CLIENT
from moorline.gateway.common.access.rules import client_network
from moorline.gateway.common.web.aiohttp_private import items_of, parts_of
from moorline.gateway.common.web.deadline import latest_end
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS
from moorline.gateway.errors import (
    CUT,
    BadUpstreamResponse,
    ClientBodyTimeout,
    ConnectTimeout,
    GatewayError,
    Malformed,
    ShuttingDown,
    Unavailable,
    UpstreamTimeout,
    UpstreamTlsError,
    UpstreamUnreachable,
)
from moorline.gateway.keys import DESTINATION, DRAINING, SETTINGS, TIME_LIMITS, UPSTREAM
from moorline.gateway.proxy.connection import Sink, UpstreamConnection
from moorline.gateway.proxy.handshake import is_switch
from moorline.gateway.proxy.pool import POOLS, Pool
from moorline.gateway.proxy.response import Response
from moorline.gateway.proxy.retry_queue import RETRY_QUEUES
from moorline.gateway.proxy.routes import Destination, Owner
from moorline.gateway.proxy.tls import tls_for
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["Begin", "Exchange"]

log = logging.getLogger("moorline.gateway.upstream")

# RFC 9110 section 9.2.2. nginx repeats the same after an error: all but POST, LOCK and PATCH.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# For an upstream that is down and tried for want of another, which may be up before this one: on the way to a host that
# does not answer an attempt would last for all of proxy_connect_timeout.
_DOWN_CONNECT_SECONDS = 1.0
_LAST_STATUS = 599
# Of a body that is sent with the headers; asyncio's high-water mark is twice as much.
_SMALL_BODY = 32 << 10
_LAST_CHUNK = b"0\r\n\r\n"
_BODY = "The body of the request is malformed."
_FRONTEND = Owner.FRONTEND
_UPSTREAM_FAILED = (BadUpstreamResponse, ConnectTimeout, UpstreamTimeout, UpstreamTlsError, UpstreamUnreachable)


Head = Callable[["Exchange", Upstream], bytes]
"""Gives the request line and headers of an exchange for an upstream."""


Begin = Callable[["Exchange", Response], Sink | None]
"""Called with a response's headers before `Exchange.response` returns them; what takes the body, if it is known."""


class Exchange:
    """One request on its way to an upstream, with the retries that it may have, until the response's headers are here.

    Use: `await exchange.response()`, then read `exchange.connection`. The caller ends it in whatever case, with
    `close` and `upload_ended`, which end the request at the upstream unless `detach` was called.
    """

    # Defaults, in the class: to set ten attributes in `__init__` took a third of the time to make an exchange.
    sink: Sink | None = None
    """What `begin` has returned."""
    held = False
    """Whether it waits in the queue, since no upstream can be reached."""
    _sent = False
    _upstream: Upstream | None = None
    _connection: UpstreamConnection | None = None
    # Of the connection, which a handshake has for itself.
    _pool: Pool | None = None

    def __init__(self, request: web.Request, head: Head, begin: Begin | None = None, *, upgrade: bool = False) -> None:
        self.request = request
        message, protocol, app, items, self._loop = parts_of(request)
        self._clock = self._loop.time
        self.message = message
        """What the client sent, without the body."""
        # The message gives each part of it by a call.
        self.method = method = message.method
        self.protocol = protocol
        self.app = app
        self.items = items
        """What the request holds by its keys."""
        self.of_app = items_of(app)
        """What the application of the request holds by its keys."""
        self.client: str = items[CLIENT]
        destination: Destination = items[DESTINATION]
        self.destination = destination
        self.is_upgrade = upgrade
        self._upstreams = destination.upstreams
        self._head = head
        self._begin = begin
        self._is_always_held = upgrade or destination.route.owner is _FRONTEND
        self._has_body = request.body_exists
        self.upload: asyncio.Task[None] | None = None
        """Sends the request's body, unless that was sent with the headers."""
        self._body_sent = True
        # A body that was sent is gone.
        self._idempotent = not self._has_body and method in _IDEMPOTENT

    async def upload_ended(self) -> None:
        """Return when nothing more of the request's body is read."""
        if self.upload is not None:
            await asyncio.gather(self.upload, return_exceptions=True)

    @property
    def upstream(self) -> Upstream:
        """The one that responded."""
        assert self._upstream is not None, "there is a response"
        return self._upstream

    @property
    def connection(self) -> UpstreamConnection:
        """Where the body of the response comes from, or the frames behind a 101."""
        assert self._connection is not None, "there is a response"
        return self._connection

    def close(self) -> None:
        """End the request. Its connection serves another one only behind a response that has ended by itself, on a
        request that was sent whole. Where there is an `upload`, it is over once `upload_ended` returns.
        """
        # The two refer to each other.
        self.sink = None
        if self.upload is not None:
            self.upload.cancel()
        upstream, connection = self._upstream, self._connection
        self._upstream = None
        if upstream is not None:
            upstream.connections -= 1
        if connection is not None:
            self._end(connection)

    def detach(self) -> tuple[Upstream | None, UpstreamConnection | None]:
        """Leave both to the caller, who ends the connection and releases the upstream."""
        held = self._upstream, self._connection
        self._upstream = self._connection = None
        return held

    # The response's headers -------------------------------------------------------------------------------------------

    def response(self) -> Awaitable[Response]:
        """The status line and headers of an upstream's response.

        Raises:
            GatewayError: no upstream sent one in time, or the client's request is at fault.
        """
        return self._retried() if self._is_always_held or self._upstreams.command else self._try_each()

    async def _retried(self) -> Response:
        """Try again while no upstream can be reached, for up to `connect_retry`."""
        was_held = False
        seconds = self.of_app[SETTINGS].connect_retry or 0.0
        until = self._clock() + seconds
        while True:
            try:
                return await self._try_each()
            except (UpstreamUnreachable, ConnectTimeout) as error:
                error.retry_after = 1
                left = until - self._clock()
                if left <= 0 or not self._may_wait(error):
                    if was_held:
                        error.cause = dataclasses.replace(error.cause, moment=Moment.HELD)
                    raise
            queue = self.of_app[RETRY_QUEUES][self._upstreams]
            if not was_held and not queue:
                # A browser shows nothing meanwhile.
                urls = ", ".join(upstream.url for upstream in self._upstreams)
                log.info("%s cannot be reached: requests wait for up to %gs", urls, seconds, extra={"upstream": urls})
            self.held = was_held = True
            await queue.wait_turn(left)
            self.held = False
            if self.of_app[DRAINING].is_set():
                raise ShuttingDown(cause=dataclasses.replace(ShuttingDown.cause, moment=Moment.HELD))

    def _may_wait(self, error: GatewayError) -> bool:
        """Whether it is tried again. A backend may crash by a request: that one is not sent to each life of it."""
        if not self._upstreams.is_expected:
            return False
        return self._repeatable if self._is_always_held else error.cause.moment is Moment.CONNECT

    @property
    def _repeatable(self) -> bool:
        """Whether it is the same request when it is sent again: what may have been done is not done again."""
        return self._idempotent or not self._sent

    async def _try_each(self) -> Response:
        """Try the upstreams one after the other until one responds."""
        upstreams = self._upstreams
        failure: GatewayError | None = None
        tried: list[Upstream] = []
        while (upstream := upstreams.choose(self._clock(), besides=tried)) is not None:
            tried.append(upstream)
            self._upstream = upstream
            upstream.connections += 1
            try:
                head = self._head(self, upstream)
                # An upstream may close an idle connection just when a request is on its way. Only what can be sent
                # again takes that risk.
                connection = self._take_idle(upstream) if self._idempotent else None
                if connection is None:
                    connection = await self._connect(upstream, reuse=self._idempotent)
                try:
                    response = await self._send(connection, head)
                except UpstreamUnreachable:
                    if not connection.was_stale:
                        raise
                    self._end(connection)
                    response = await self._send(await self._connect(upstream, reuse=False), head)
            except BaseException as error:
                self.request[UPSTREAM] = upstream.url
                has_begun = self.sink is not None
                self.close()
                if isinstance(error, asyncio.CancelledError) and self.of_app[DRAINING].is_over() and not has_begun:
                    raise self._cut() from None
                if not isinstance(error, _UPSTREAM_FAILED):
                    raise
                self._note_failure(upstream)
                if isinstance(error, BadUpstreamResponse) or not self._repeatable:
                    raise
                failure = error
            else:
                if upstreams.responded(upstream):
                    log.info("upstream %s is up again", upstream.url, extra={"upstream": upstream.url})
                return response
        assert failure is not None, "there is at least one upstream"
        try:
            raise failure
        finally:
            # Its traceback refers to this call: both would stay until a search for cycles.
            del failure

    def _cut(self) -> ShuttingDown:
        """The upstream has not begun to respond, and the process ends."""
        error = ShuttingDown(cause=CUT)
        # No client is asked to send again what may have been done.
        error.retry_after = 1 if self._repeatable else None
        return error

    def _note_failure(self, upstream: Upstream) -> None:
        if self._upstreams.failed(upstream, self._clock()):
            seconds = self.of_app[SETTINGS].fail_timeout
            log.warning("upstream %s marked down for %gs", upstream.url, seconds, extra={"upstream": upstream.url})

    def _received(self, response: Response) -> Sink | None:
        if response.status > _LAST_STATUS:
            raise BadUpstreamResponse(f"status {response.status}")
        if response.status == SWITCHING_PROTOCOLS and is_switch(response) and not self.is_upgrade:
            raise BadUpstreamResponse("101 to a request that did not ask for it")
        if self._begin is not None:
            self.sink = self._begin(self, response)
        return self.sink

    # The connection ---------------------------------------------------------------------------------------------------

    def _take_idle(self, upstream: Upstream) -> UpstreamConnection | None:
        """One of the pool's that serves at once, if there is one."""
        if self.is_upgrade:
            return None
        pool: Pool = self.of_app[POOLS][upstream]
        if pool.is_full() or (connection := pool.take_idle(self._clock())) is None:
            return None
        self._pool, self._connection = pool, connection
        return connection

    async def _connect(self, upstream: Upstream, *, reuse: bool) -> UpstreamConnection:
        """One of the pool's for plain HTTP, one of its own for a handshake."""
        seconds = self.destination.timeouts.proxy_connect_timeout
        if self.is_upgrade:
            connection = self._connection = UpstreamConnection(self._loop)
        else:
            pool: Pool = self.of_app[POOLS][upstream]
            self._pool = pool
            if pool.is_full():
                await pool.wait(seconds, client_network(self.client))
            connection = self._connection = pool.take(self._clock(), reuse=reuse)
            if connection.established:
                return connection
        if self._upstreams.is_down(upstream, self._clock()):
            seconds = min(seconds, _DOWN_CONNECT_SECONDS)
        tls = tls_for(self.app, upstream) if upstream.tls else None
        limits = None if self.is_upgrade and self._handshake_ends_first(seconds) else self.of_app[TIME_LIMITS]
        await connection.connect(
            upstream.host, upstream.port, seconds, limits=limits, tls=tls, through=upstream.through
        )
        self.of_app[RETRY_QUEUES][self._upstreams].wake_all()
        return connection

    def _end(self, connection: UpstreamConnection) -> None:
        self._connection = None
        if self._pool is None:
            connection.abort()
        else:
            self._pool.give_back(connection, keep=self._body_sent and connection.is_reusable())

    # The request ------------------------------------------------------------------------------------------------------

    def _send(self, connection: UpstreamConnection, head: bytes) -> Awaitable[Response]:
        """Send the request; the response's headers."""
        self._sent = True
        read_timeout = self.destination.timeouts.proxy_read_timeout
        seconds = None if self.is_upgrade and self._handshake_ends_first(read_timeout) else read_timeout
        body = self._complete_body() if self._has_body else b""
        connection.send(self.method, head + body if body else head, self._received)
        if body is None:
            self._body_sent = False
            self.upload = asyncio.create_task(self._send_body(connection))
            # The timer of the response begins when the body was sent; until then the upload has its own.
            seconds = None
        return connection.response(seconds)

    def _handshake_ends_first(self, seconds: float) -> bool:
        """Whether the limit of the whole handshake, which has begun before, leaves one of so many nothing to end."""
        limit = self.of_app[SETTINGS].handshake_timeout
        return limit is not None and limit <= seconds

    @property
    def _is_chunked(self) -> bool:
        return hdrs.TRANSFER_ENCODING in self.message.headers

    def _complete_body(self) -> bytes | None:
        """A small body as it is sent, if all of it has come."""
        content = self.request.content
        if not content.is_eof() or content.total_bytes > _SMALL_BODY:
            return None
        try:
            data = content.read_nowait()
        except Exception as error:
            raise Malformed(_BODY) from error
        return _chunk(data) + _LAST_CHUNK if self._is_chunked else data

    async def _send_body(self, connection: UpstreamConnection) -> None:
        """Send the client's body as it comes, beside the wait for the response, which may come before its end."""
        began, size = self._clock(), 0
        try:
            while data := await self._read_body(began, size):
                size += len(data)
                connection.write(_chunk(data) if self._is_chunked else data)
                drained = self._clock()
                await connection.drain(self.destination.timeouts.proxy_send_timeout)
                # The time that the upstream takes is not the client's.
                began += self._clock() - drained
        except GatewayError as error:
            connection.fail(error)
            return
        if self._is_chunked:
            connection.write(_LAST_CHUNK)
        self._body_sent = True
        connection.request_sent(self.destination.timeouts.proxy_read_timeout)

    async def _read_body(self, began: float, size: int) -> bytes:
        """The next part of a body of which `size` bytes have come since `began`."""
        until = self._clock() + self.destination.timeouts.client_body_timeout
        if (timeout := self.of_app[SETTINGS].message_timeout) is not None:
            until = min(until, latest_end(began, size, timeout))
        try:
            async with asyncio.timeout_at(until):
                return await self.request.content.readany()
        except TimeoutError:
            raise ClientBodyTimeout from None
        except web.HTTPServiceUnavailable as error:
            # The connection had no room for more of it.
            raise Unavailable(error.text or "") from error
        except Exception as error:
            raise Malformed(_BODY) from error


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
