"""A handshake on its way to a backend that takes it.

Where a backend cannot be reached, the next is asked; where none can, the client's handshake is held for up to
`connect_retry` and tried again: a backend that restarts costs its clients a moment and no error. The request goes to a
backend once per attempt, and again only where that does no harm (`_repeatable`).
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator

from aiohttp import StreamReader, web
from moorline.gateway.errors import (
    BackendGarbled,
    BackendSilent,
    BackendUnreachable,
    ClientStalled,
    ConnectTimedOut,
    GatewayError,
    HandshakeTimedOut,
    Malformed,
    Refused,
    is_shortage,
)
from moorline.gateway.keys import DRAINING, SETTINGS, UPSTREAMS
from moorline.gateway.proxy import handshake
from moorline.gateway.proxy.upgrade import BackendConnection
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["KNOCKING", "Knocking", "Reached", "reach"]

log = logging.getLogger("moorline.gateway.ws")

_RETRY_SECONDS = 0.25
# For a backend that failed lately and is asked for want of a better one, which may be back while this one is not: on
# its way to a host that is down an attempt would stand still for all of proxy_connect_timeout.
_DOUBTFUL_CONNECT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Reached:
    """A backend that has answered. Whoever gets it ends the connection, and releases the upstream then."""

    upstream: Upstream
    connection: BackendConnection
    answer: handshake.Answer
    body: StreamReader
    switches: bool


class Knocking:
    """Handshakes that wait for a backend. One of them tries every 250 ms, each in its turn; once it gets through, all
    do: ten thousand that all tried would leave a backend that starts on this machine no processor to do it with.
    """

    def __init__(self) -> None:
        # A dict, because clients leave from the middle of the queue.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    async def turn(self, seconds: float) -> None:
        """Return when it is time to try again, after so many seconds at the latest."""
        loop = asyncio.get_running_loop()
        called: asyncio.Future[None] = loop.create_future()
        self._waiting[called] = None
        if self._timer is None:
            self._timer = loop.call_later(_RETRY_SECONDS, self._next)
        try:
            await asyncio.wait([called], timeout=seconds)
        finally:
            self._waiting.pop(called, None)

    def all(self) -> None:
        """Have everybody try, or look why not to."""
        while self._waiting:
            self._call()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> None:
        self._timer = None
        if self._waiting:
            self._call()
            self._timer = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._next)

    def _call(self) -> None:
        called = next(iter(self._waiting))
        del self._waiting[called]
        called.set_result(None)


KNOCKING = web.AppKey("knocking", Knocking)


async def reach(request: web.Request, head: bytes) -> Reached:
    """The first backend that answers `head`, and its answer.

    Raises:
        GatewayError: none did in time, or the client's request is at fault.
    """
    async with _bounded(request.app[SETTINGS].handshake_timeout, HandshakeTimedOut):
        return await _Dial(request, head).reach()


class _Dial:
    def __init__(self, request: web.Request, head: bytes) -> None:
        self._request = request
        self._head = head
        self._settings = request.app[SETTINGS]
        self._upstreams = request.app[UPSTREAMS]
        self._knocking = request.app[KNOCKING]
        self._draining = request.app[DRAINING]
        self._clock = asyncio.get_running_loop().time
        self._sent = False

    @property
    def _repeatable(self) -> bool:
        """Whether asking again is asking for the same, and no more than once as far as anybody can tell."""
        return not self._sent or (self._request.method == "GET" and not self._request.body_exists)

    async def reach(self) -> Reached:
        until = self._clock() + (self._settings.connect_retry or 0.0)
        while True:
            try:
                return await self._round()
            except (BackendUnreachable, ConnectTimedOut) as error:
                error.retry_after = 1
                left = until - self._clock()
                if left <= 0 or not self._repeatable:
                    raise
            await self._knocking.turn(left)
            if self._draining.is_set():
                raise Refused("The gateway is shutting down.")

    async def _round(self) -> Reached:
        """Ask every backend, one after the other, until one answers."""
        failure: GatewayError | None = None
        tried: list[Upstream] = []
        while (upstream := self._upstreams.choose(self._clock(), besides=tried)) is not None:
            tried.append(upstream)
            try:
                return await self._ask(upstream)
            except (BackendUnreachable, ConnectTimedOut, BackendSilent) as error:
                self._failed(upstream)
                failure = error
                if not self._repeatable:
                    break
            except BackendGarbled:
                self._failed(upstream)
                raise
        assert failure is not None, "there is at least one"
        raise failure

    def _failed(self, upstream: Upstream) -> None:
        if self._upstreams.failed(upstream, self._clock()):
            log.warning("%s does not answer; others are asked for %gs", upstream.url, self._settings.fail_timeout)

    async def _ask(self, upstream: Upstream) -> Reached:
        """One attempt: dial, pass the handshake on, and wait for the head of the answer."""
        connection = BackendConnection(asyncio.get_running_loop())
        upstream.take()
        try:
            await self._connect(connection, upstream)
            self._sent = True
            connection.send(self._head)
            if self._request.body_exists:
                await self._upload(connection)
            async with _bounded(self._settings.proxy_read_timeout, BackendSilent):
                answer, body = await connection.answer()
            switches = handshake.is_switch(answer)
        except BaseException:
            connection.abort()
            upstream.release()
            raise
        if self._upstreams.answered(upstream):
            log.info("%s answers again", upstream.url)
        return Reached(upstream, connection, answer, body, switches)

    async def _connect(self, connection: BackendConnection, upstream: Upstream) -> None:
        seconds = self._settings.proxy_connect_timeout
        if self._upstreams.rests(upstream, self._clock()):
            seconds = min(seconds, _DOUBTFUL_CONNECT_SECONDS)
        loop = asyncio.get_running_loop()
        try:
            async with _bounded(seconds, ConnectTimedOut):
                await loop.create_connection(lambda: connection, upstream.host, upstream.port)
        except TimeoutError as error:
            raise ConnectTimedOut("by the operating system") from error
        except OSError as error:
            if is_shortage(error):
                raise Refused("The gateway has no room for more connections at the moment.") from error
            raise BackendUnreachable(f"{type(error).__name__} {error.strerror or ''}".rstrip()) from error
        self._knocking.all()

    async def _upload(self, connection: BackendConnection) -> None:
        """A handshake may have a body, which comes before the socket's first byte."""
        chunked = "chunked" in self._request.headers.get("Transfer-Encoding", "").lower()
        while True:
            async with _bounded(self._settings.client_body_timeout, ClientStalled):
                try:
                    piece = await self._request.content.readany()
                except web.RequestPayloadError as error:
                    raise Malformed("The body of the request is malformed.") from error
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if not piece:
                return
            async with _bounded(self._settings.proxy_send_timeout, BackendSilent):
                await connection.drain()


@contextlib.asynccontextmanager
async def _bounded(seconds: float | None, error: type[GatewayError]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as clock:
            yield
    except TimeoutError:
        if clock.expired():
            raise error from None
        raise
