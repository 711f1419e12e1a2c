"""The end of connections whose clients are still sending: RFC 9112 section 9.6, nginx's lingering_close.

A socket that is closed with unread input, or that gets more afterwards, answers with a reset, and a client that gets it
while it sends has lost the response: the 431 of headers that are too long, the 401 of an upload. So the writing side is
shut down behind the response, and what the client sends is read and dropped until it ends, too.

How long, how much and of how many connections is bounded: they are the first ones to be closed when file descriptors
run short. TLS knows no half of a connection: there the client learns from `Connection: close` that nothing follows.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable

from aiohttp import StreamReader, web

from moorline.gateway.common.web.draining import Draining
from moorline.gateway.common.web.idle import IdleConnections
from moorline.gateway.common.web.time_limit import Deadlines

__all__ = ["Lingering", "LingeringConnections", "LingeringLimits"]


@dataclasses.dataclass(frozen=True, slots=True)
class LingeringLimits:
    """How long a client may go on. The times are nginx's, which has no limit of size."""

    timeout: float = 5.0
    """Silence, in seconds: nginx's lingering_timeout. What comes is looked at once in so long: it may be twice that."""
    time: float = 30.0
    """In all: nginx's lingering_time."""
    size: int = 64 << 20
    """Bytes. A browser reads no response before it has sent the file that it uploads."""


class LingeringConnections:
    """Those of one server. The drain waits for them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: LingeringLimits,
        idle_connections: IdleConnections,
        draining: Draining,
    ) -> None:
        self.loop = loop
        self.limits = limits
        self.idle_connections = idle_connections
        self.draining = draining
        self.deadlines = Deadlines(loop, limits.timeout)

    def add(self, transport: asyncio.Transport, protocol: asyncio.Protocol, close: Callable[[], None]) -> None:
        """Drop what comes from now on. `protocol` has sent its last response; it gets the transport back for `close`,
        unless the connection is lost before."""
        transport.set_protocol(Lingering(self, transport, protocol, close))
        if transport.can_write_eof():
            # The client may have reset in the meantime; `connection_lost` comes next then.
            with contextlib.suppress(OSError):
                transport.write_eof()
        transport.resume_reading()

    async def discard(self, body: StreamReader) -> bool:
        """Drop what the handler has left of a request's body, behind which the connection goes on; whether that was all
        of it, within the limits."""
        limits, size, began = self.limits, 0, self.loop.time()
        self.draining.hold()
        try:
            # A body that was refused raises HTTPException.
            with contextlib.suppress(TimeoutError, web.HTTPException):
                async with asyncio.timeout(None) as timeout:
                    while not body.is_eof() and size <= limits.size:
                        timeout.reschedule(min(self.loop.time() + limits.timeout, began + limits.time))
                        size += len(await body.readany())
            return body.is_eof()
        finally:
            self.draining.release()

    def close(self) -> None:
        """Nothing expires from now on."""
        self.deadlines.close()


class Lingering(asyncio.Protocol):
    """One connection behind its last response."""

    def __init__(
        self,
        server: LingeringConnections,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        close: Callable[[], None],
    ) -> None:
        self._server = server
        self._transport = transport
        self._protocol = protocol
        self._close = close
        self._dropped = 0
        # So many when the timer looked last.
        self._seen = 0
        self._until = server.loop.time() + server.limits.time
        self._has_deadline = True
        server.deadlines.add(self)
        server.draining.hold()
        server.idle_connections.linger(self, server.loop.time())

    # As an idle connection ------------------------------------------------------------------------------------------

    def has_asked(self) -> bool:
        """Whether the client sent a request: it has been answered."""
        return True

    def is_waiting(self) -> bool:
        """Whether no request is lost when this connection is closed."""
        return True

    def has_begun(self) -> bool:
        """Whether something of a request has come: none is read here."""
        return False

    def force_close(self) -> None:
        """End it at once."""
        self._transport.abort()

    # As a protocol --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > self._server.limits.size:
            self._end()

    def eof_received(self) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._protocol.connection_lost(exc)

    # The timer ------------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """The time in which something had to come is over."""
        self._has_deadline = False
        if self._dropped > self._seen and self._server.loop.time() < self._until:
            self._seen = self._dropped
            self._has_deadline = True
            self._server.deadlines.add(self)
        else:
            self._end()

    def _end(self) -> None:
        self._forget()
        self._transport.set_protocol(self._protocol)
        self._close()

    def _forget(self) -> None:
        if self._has_deadline:
            self._has_deadline = False
            self._server.deadlines.remove(self)
        self._server.idle_connections.remove(self)
        self._server.draining.release()
