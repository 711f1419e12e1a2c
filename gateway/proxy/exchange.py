"""One request at an upstream and its response: for plain HTTP, for handshakes and for handshakes that are refused.

The request goes to the upstream that is to be next. Where that one cannot be reached, the next is tried; where none
can, a handshake is held for up to `connect_retry` and tried again: an upstream that restarts costs its clients a moment
and no error. So is each request for the front end's dev server, which may restart at every save. A request is sent
again only where that is the same request (`_repeatable`).
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import hdrs, web

from moorline.gateway.cause import Moment
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.access.rules import client_network
from moorline.gateway.common.web.deadline import latest_end
from moorline.gateway.errors import (
    BadUpstreamResponse,
    ClientBodyTimeout,
    ConnectTimeout,
    GatewayError,
    Malformed,
    ShuttingDown,
    UpstreamTimeout,
    UpstreamTlsError,
    UpstreamUnreachable,
)
from moorline.gateway.keys import DESTINATION, DRAINING, SETTINGS, UPSTREAM
from moorline.gateway.proxy.connection import UpstreamConnection
from moorline.gateway.proxy.handshake import is_switch
from moorline.gateway.proxy.pool import POOLS
from moorline.gateway.proxy.response import Response
from moorline.gateway.proxy.retry_queue import RETRY_QUEUES
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.proxy.tls import tls_for
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["Exchange"]

log = logging.getLogger("moorline.gateway.upstream")

# RFC 9110 section 9.2.2. nginx repeats the same after an error: all but POST, LOCK and PATCH.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# For an upstream that is down and tried for want of another, which may be up before this one: on the way to a host that
# does not answer an attempt would last for all of proxy_connect_timeout.
_DOWN_CONNECT_SECONDS = 1.0
_LAST_STATUS = 599
_UPSTREAM_FAILED = (BadUpstreamResponse, ConnectTimeout, UpstreamTimeout, UpstreamTlsError, UpstreamUnreachable)


class Exchange:
    """`async with Exchange(request, head) as exchange: await exchange.response()`, then read `exchange.connection`.

    `head` gives the request line and headers for an upstream.

    Leaving it, in whatever way, ends the request at the upstream, unless `detach` was called.
    """

    def __init__(self, request: web.Request, head: Callable[[Upstream], bytes], *, upgrade: bool = False) -> None:
        self._request = request
        self._upstreams = request[DESTINATION].upstreams
        self._timeouts = request[DESTINATION].timeouts
        self._head = head
        self._upgrade = upgrade
        self._may_be_held = upgrade or request[DESTINATION].route.owner is Owner.FRONTEND
        self.held = False
        """Whether it waits in the queue, since no upstream can be reached."""
        self._app = request.app
        self._settings = self._app[SETTINGS]
        self._clock = asyncio.get_running_loop().time
        self._upload: asyncio.Task[None] | None = None
        self._sent = False
        self._body_sent = True
        self._upstream: Upstream | None = None
        self._connection: UpstreamConnection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._upload is not None:
            await asyncio.gather(self._upload, return_exceptions=True)

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
        request that was sent whole.
        """
        if self._upload is not None:
            self._upload.cancel()
        upstream, connection = self.detach()
        if upstream is not None:
            upstream.release()
        if connection is not None:
            self._end(upstream, connection)

    def detach(self) -> tuple[Upstream | None, UpstreamConnection | None]:
        """Leave both to the caller, who ends the connection and releases the upstream."""
        held = self._upstream, self._connection
        self._upstream = self._connection = None
        return held

    # The response's headers -------------------------------------------------------------------------------------------

    async def response(self) -> Response:
        """The status line and headers of an upstream's response.

        Raises:
            GatewayError: no upstream sent one in time, or the client's request is at fault.
        """
        was_held = False
        until = self._clock() + ((self._settings.connect_retry or 0.0) if self._may_be_held else 0.0)
        while True:
            try:
                return await self._try_each()
            except (UpstreamUnreachable, ConnectTimeout) as error:
                if not self._may_be_held:
                    raise
                error.retry_after = 1
                left = until - self._clock()
                if left <= 0 or not self._repeatable:
                    if was_held:
                        error.cause = dataclasses.replace(error.cause, moment=Moment.HELD)
                    raise
            self.held = was_held = True
            await self._app[RETRY_QUEUES][self._upstreams].wait_turn(left)
            self.held = False
            if self._app[DRAINING].is_set():
                raise ShuttingDown(cause=dataclasses.replace(ShuttingDown.cause, moment=Moment.HELD))

    @property
    def _repeatable(self) -> bool:
        """Whether it is the same request when it is sent again: what may have been done is not done again, and a body
        that was sent is gone.
        """
        return not self._sent or (self._request.method in _IDEMPOTENT and not self._request.body_exists)

    async def _try_each(self) -> Response:
        """Try the upstreams one after the other until one responds."""
        upstreams = self._upstreams
        failure: GatewayError | None = None
        tried: list[Upstream] = []
        while (upstream := upstreams.choose(self._clock(), besides=tried)) is not None:
            tried.append(upstream)
            try:
                response = await self._try(upstream)
            except _UPSTREAM_FAILED as error:
                if upstreams.failed(upstream, self._clock()):
                    log.warning(
                        "upstream %s marked down for %gs",
                        upstream.url,
                        self._settings.fail_timeout,
                        extra={"upstream": upstream.url},
                    )
                if isinstance(error, BadUpstreamResponse) or not self._repeatable:
                    raise
                failure = error
            else:
                if upstreams.responded(upstream):
                    log.info("upstream %s is up again", upstream.url, extra={"upstream": upstream.url})
                return response
        assert failure is not None, "there is at least one upstream"
        raise failure

    async def _try(self, upstream: Upstream) -> Response:
        self._upstream = upstream
        upstream.take()
        try:
            response = await self._send(upstream)
            self._check(response)
        except BaseException:
            self._request[UPSTREAM] = upstream.url
            self.close()
            raise
        return response

    async def _send(self, upstream: Upstream) -> Response:
        """Send the request and wait for the response's headers."""
        head = self._head(upstream)
        # An upstream may close an idle connection just when a request is on its way. Only what can be sent again takes
        # that risk.
        repeatable = self._request.method in _IDEMPOTENT and not self._request.body_exists
        connection = await self._connect(upstream, reuse=repeatable)
        try:
            return await self._send_on(connection, head)
        except UpstreamUnreachable:
            if not connection.was_stale:
                raise
        self._end(upstream, connection)
        return await self._send_on(await self._connect(upstream, reuse=False), head)

    def _check(self, response: Response) -> None:
        if not is_switch(response):
            if response.status > _LAST_STATUS:
                raise BadUpstreamResponse(f"status {response.status}")
        elif not self._upgrade:
            raise BadUpstreamResponse("101 to a request that did not ask for it")

    # The connection ---------------------------------------------------------------------------------------------------

    async def _connect(self, upstream: Upstream, *, reuse: bool) -> UpstreamConnection:
        """One of the pool's for plain HTTP, one of its own for a handshake."""
        seconds = self._timeouts.proxy_connect_timeout
        if self._upgrade:
            self._connection, established = UpstreamConnection(), False
        else:
            self._connection, established = await self._app[POOLS][upstream].take(
                reuse=reuse, seconds=seconds, client=client_network(client_address(self._request))
            )
        if not established:
            if self._upstreams.is_down(upstream, self._clock()):
                seconds = min(seconds, _DOWN_CONNECT_SECONDS)
            tls = tls_for(self._app, upstream)
            await self._connection.connect(upstream.host, upstream.port, seconds, tls=tls, through=upstream.through)
            self._app[RETRY_QUEUES][self._upstreams].wake_all()
        return self._connection

    def _end(self, upstream: Upstream | None, connection: UpstreamConnection) -> None:
        self._connection = None
        if self._upgrade or upstream is None:
            connection.abort()
        else:
            self._app[POOLS][upstream].give_back(connection, keep=connection.reusable and self._body_sent)

    # The request ------------------------------------------------------------------------------------------------------

    async def _send_on(self, connection: UpstreamConnection, head: bytes) -> Response:
        self._sent = True
        connection.send(self._request.method, head)
        if not self._request.body_exists:
            return await connection.response(self._timeouts.proxy_read_timeout)
        self._body_sent = False
        self._upload = asyncio.create_task(self._send_body(connection))
        # The timer of the response begins when the body was sent; until then the upload has its own.
        return await connection.response(None)

    async def _send_body(self, connection: UpstreamConnection) -> None:
        """Send the client's body as it comes, beside the wait for the response, which may come before its end."""
        chunked = hdrs.TRANSFER_ENCODING in self._request.headers
        began, size = self._clock(), 0
        try:
            while data := await self._read_body(began, size):
                size += len(data)
                connection.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
                drained = self._clock()
                await connection.drain(self._timeouts.proxy_send_timeout)
                # The time that the upstream takes is not the client's.
                began += self._clock() - drained
        except GatewayError as error:
            connection.fail(error)
            return
        if chunked:
            connection.write(b"0\r\n\r\n")
        self._body_sent = True
        connection.request_sent(self._timeouts.proxy_read_timeout)

    async def _read_body(self, began: float, size: int) -> bytes:
        """The next part of a body of which `size` bytes have come since `began`."""
        until = self._clock() + self._timeouts.client_body_timeout
        if self._settings.message_timeout is not None:
            until = min(until, latest_end(began, size, self._settings.message_timeout))
        try:
            async with asyncio.timeout_at(until):
                return await self._request.content.readany()
        except TimeoutError:
            raise ClientBodyTimeout from None
        except Exception as error:
            raise Malformed("The body of the request is malformed.") from error
