"""A connection of a TLS port until its handshake is over; then it is a `Connection` like that of any other port.

asyncio's own TLS server closes the connection of a client that speaks plain HTTP without a response, and counts no
connection before the end of its handshake, so that only time would bound clients that begin none. Here the first byte
decides: a letter begins an HTTP request, which gets nginx's 400; all else is for TLS. A connection counts as idle from
the accept to its first request, and `client_header_timeout` bounds its handshake, as in nginx.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import cast

from moorline.gateway.common.access.rules import client_network
from moorline.gateway.common.web.idle import IdleConnections
from moorline.gateway.common.web.lingering import LingeringConnections
from moorline.gateway.common.web.tls import ServerTls

__all__ = ["TlsHandshake", "TlsHandshakes"]

log = logging.getLogger("moorline.http")

# From the close_notify to the client's; nginx does not wait for it at all.
_SHUTDOWN_SECONDS = 5.0
# nginx's sentence, by which `moorline check` and others recognize the mistake.
_PLAIN_HTTP = b"The plain HTTP request was sent to HTTPS port. Write https:// in the address.\n"
_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\nServer: moorline\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_PLAIN_HTTP), _PLAIN_HTTP)
)


class TlsHandshakes:
    """Those of one server. `connection` makes the protocol that follows."""

    def __init__(
        self,
        tls: ServerTls,
        connection: Callable[[], asyncio.Protocol],
        idle_connections: IdleConnections,
        lingering: LingeringConnections,
        timeout: float,
    ) -> None:
        self.tls = tls
        self.connection = connection
        self.idle_connections = idle_connections
        self.lingering = lingering
        self.timeout = timeout
        self.open: set[TlsHandshake] = set()

    def protocol(self) -> "TlsHandshake":
        """For a connection that was accepted."""
        return TlsHandshake(self)

    def close(self) -> None:
        """End those that are not over."""
        for handshake in list(self.open):
            handshake.force_close()


class TlsHandshake(asyncio.Protocol):
    """One connection up to the end of its handshake."""

    def __init__(self, server: TlsHandshakes) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._handshake: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Of the client's first request, decrypted before the task that awaits the handshake goes on.
        self._early = bytearray()
        self._eof = False

    # As an idle connection ------------------------------------------------------------------------------------------

    def has_asked(self) -> bool:
        """Whether the client sent a request: never yet."""
        return False

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.open.add(self)
        peer, descriptor = transport.get_extra_info("peername"), transport.get_extra_info("socket").fileno()
        address = client_network(peer[0]) if isinstance(peer, tuple) else ""
        if not self._server.idle_connections.admit(self, descriptor, self._loop.time(), address):
            self.force_close()
            return
        self._timer = self._loop.call_later(self._server.timeout, self.force_close)

    def data_received(self, data: bytes) -> None:
        if self._handshake is not None:
            self._early += data
        elif data[:1].isalpha():
            log.debug("a plain HTTP request on a TLS port")
            self._transport.write(_BAD_REQUEST)
            self._stop_timer()
            self._server.idle_connections.set_busy(self)
            self._server.lingering.add(self._transport, self, self.force_close)
        else:
            self._transport.pause_reading()
            self._handshake = self._loop.create_task(self._shake_hands(data))

    def eof_received(self) -> None:
        self._eof = True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._forget()

    # The handshake --------------------------------------------------------------------------------------------------

    async def _shake_hands(self, first: bytes) -> None:
        try:
            starting = self._loop.create_task(self._start_tls())
            # One turn, in which the loop sets its protocol and calls for `connection_made`; what is called for next
            # follows that, and comes before any input.
            await asyncio.sleep(0)
            self._loop.call_soon(_feed, self._transport, first)
            transport = await starting
        except OSError as error:
            # Each port scan is one.
            log.debug("TLS handshake failed: %s", error)
            self.force_close()
            self._forget()
            return
        self._forget()
        if transport is not None and not transport.is_closing():
            self._go_on(transport)

    async def _start_tls(self) -> asyncio.Transport | None:
        # Asked in the same step, as this would wait for ever: a connection is closed for another while it begins.
        if self._transport.is_closing():
            return None
        return await self._loop.start_tls(
            self._transport,
            self,
            self._server.tls.context(time.monotonic()),
            server_side=True,
            ssl_handshake_timeout=self._server.timeout,
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS,
        )

    def _go_on(self, transport: asyncio.Transport) -> None:
        connection = self._server.connection()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if self._early:
            connection.data_received(bytes(self._early))
        if self._eof:
            connection.eof_received()

    def _forget(self) -> None:
        self._server.open.discard(self)
        self._server.idle_connections.remove(self)
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _feed(raw: asyncio.Transport, first: bytes) -> None:
    """Give what was read before TLS began to the loop's own protocol for it, as documented for a BufferedProtocol."""
    if raw.is_closing():
        return
    # uvloop's is one by its methods alone.
    protocol = cast("asyncio.BufferedProtocol", raw.get_protocol())
    left = memoryview(first)
    while left:
        buffer = memoryview(protocol.get_buffer(len(left)))
        size = min(len(buffer), len(left))
        buffer[:size] = left[:size]
        protocol.buffer_updated(size)
        left = left[size:]
