"""An upstream's response on its way to the client: status, headers, and the body as it comes.

It is written to the client's connection as bytes. aiohttp would encode surrogates away, add a Content-Type where there
is none and a Server of its own, and take a copy of each header.
"""

import asyncio
import dataclasses
import logging
import socket
import struct
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter

from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.errors import BadUpstreamResponse, GatewayError
from moorline.gateway.keys import CAUSE, DESTINATION, REQUEST_ID, TRUSTED
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.response import Response
from moorline.gateway.proxy.routes import Owner

__all__ = ["ProxiedResponse", "pass_on"]

log = logging.getLogger("moorline.gateway.upstream")

_CLIENT_STALLED = Cause(Who.CLIENT, Reason.SEND_TIMEOUT, Moment.BODY)
# RFC 9110 section 6.4.1
_WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


async def pass_on(request: web.Request, response: Response, exchange: Exchange) -> web.StreamResponse:
    """Answer the client with the exchange's response. One that breaks off ends the client's connection, too, so that it
    does not look complete.
    """
    proxied = ProxiedResponse(request, response, exchange)
    await request.app.on_response_prepare.send(request, proxied)
    await proxied.send()
    return proxied


class ProxiedResponse(web.StreamResponse):
    """What the handler returns: aiohttp has nothing left to send then."""

    def __init__(self, request: web.Request, response: Response, exchange: Exchange) -> None:
        route = request[DESTINATION].route
        passed = headers.response_headers(
            response.headers,
            request_id=request[REQUEST_ID],
            upstream=exchange.upstream.url,
            scheme=_scheme(request),
            host=request.headers.get(hdrs.HOST, ""),
            returned=None if route.owner is Owner.BACKEND else route.returned,
        )
        super().__init__(status=response.status, reason=response.reason, headers=passed)
        self._request = request
        self._exchange = exchange
        self._timeouts = request[DESTINATION].timeouts
        self._has_body = request.method != hdrs.METH_HEAD and response.status not in _WITHOUT_BODY
        self._is_sized = hdrs.CONTENT_LENGTH in passed or not self._has_body
        self._is_chunked = not self._is_sized and request.version >= HttpVersion11
        self._persistent = request.keep_alive and (self._is_sized or self._is_chunked)

    @property
    def keep_alive(self) -> bool:
        return self._persistent

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass

    async def send(self) -> None:
        """Send all of it.

        Raises:
            ConnectionResetError: the client is gone.
            BadUpstreamResponse: the headers cannot be sent as they are; nothing was sent.
        """
        head = self._head()
        try:
            await self._stream(head)
        except (GatewayError, TimeoutError) as error:
            cause = getattr(error, "cause", _CLIENT_STALLED)
            self._request[CAUSE] = dataclasses.replace(cause, moment=Moment.BODY)
            detail = getattr(error, "detail", "send_timeout")
            log.warning("upstream response truncated: %s request_id=%s", detail, self._request[REQUEST_ID])
            self._break_off()
        except Exception:
            # The error must not become a second response on this connection.
            self._break_off()
            raise

    def _head(self) -> bytes:
        fields = self.headers
        if hdrs.DATE not in fields:
            # RFC 9110 section 6.6.1
            fields[hdrs.DATE] = formatdate(usegmt=True)
        if self.status == HTTPStatus.NO_CONTENT:
            # RFC 9110 section 8.6
            fields.popall(hdrs.CONTENT_LENGTH, None)
        if self._is_chunked:
            fields[hdrs.TRANSFER_ENCODING] = "chunked"
        if not self._persistent:
            fields[hdrs.CONNECTION] = "close"
        elif self._request.version < HttpVersion11:
            fields[hdrs.CONNECTION] = "keep-alive"
        version = "1.1" if self._request.version >= HttpVersion11 else "1.0"
        try:
            return headers.encoded(f"HTTP/{version} {self.status} {self.reason}", fields)
        except ValueError as error:
            raise BadUpstreamResponse(str(error)) from error

    async def _stream(self, head: bytes) -> None:
        # As it comes: a server-sent event must not wait for the next one.
        connection, seconds = self._exchange.connection, self._timeouts.proxy_read_timeout
        parts = [head]
        data = connection.read_nowait()
        while True:
            if data:
                parts += self._framed(data)
            complete = connection.complete
            if complete and self._is_chunked:
                parts.append(b"0\r\n\r\n")
            self._write(parts)
            if complete:
                # The next request may have the connection before this client has taken everything.
                self._exchange.close()
            await self._drain()
            if complete:
                return
            parts = []
            data = await connection.read(seconds)

    def _framed(self, data: bytes) -> list[bytes]:
        return [b"%x\r\n" % len(data), data, b"\r\n"] if self._is_chunked else [data]

    def _write(self, parts: list[bytes]) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError
        transport.writelines(parts)

    async def _drain(self) -> None:
        if self._request.protocol.writing_paused:
            async with asyncio.timeout(self._timeouts.send_timeout):
                await self._request.writer.drain()

    def _break_off(self) -> None:
        """End the client's connection in a way that does not pass for the end of the response."""
        self._persistent = False
        transport = self._request.transport
        if transport is None:
            return
        if not self._is_sized and not self._is_chunked:
            # Only the end of the connection tells an HTTP/1.0 client the length: it must be a reset. Elsewhere a FIN
            # does, and leaves the client what it has.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()


def _scheme(request: web.Request) -> str:
    """The client's: that of TLS in front of the gateway, where a trusted proxy says so."""
    forwarded = request.headers.get(hdrs.X_FORWARDED_PROTO) if request[TRUSTED] else None
    return forwarded or request.scheme
