"""An upstream's response on its way to the client: status, headers, and the body as it comes.

It is written to the client's connection as bytes. aiohttp would encode surrogates away, add a Content-Type where there
is none and a Server of its own, and take a copy of each header. A small response leaves with one write.
"""

import asyncio
import dataclasses
import functools
import logging
import re
from collections.abc import Set
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, cast

from aiohttp import HttpVersion11, hdrs, web

from moorline.gateway.cause import Cause, Moment, Reason, Who
from moorline.gateway.common.web.request_limits import has_untaken
from moorline.gateway.common.web.sent import Sent
from moorline.gateway.errors import BadUpstreamResponse, GatewayError
from moorline.gateway.keys import CAUSE, DRAINING, REQUEST_ID, TRUSTED
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.response import Response
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.tunnel import kernel

__all__ = ["ProxiedResponse", "begin", "pass_on", "sent_whole"]

log = logging.getLogger("moorline.gateway.upstream")

_CLIENT_STALLED = Cause(Who.CLIENT, Reason.SEND_TIMEOUT, Moment.BODY)
# RFC 9110 section 6.4.1
_NO_CONTENT = 204
_WITHOUT_BODY = frozenset({_NO_CONTENT, HTTPStatus.NOT_MODIFIED})
_CONTENT_LENGTH = b"content-length"
_CURRENT, _EARLIER = "HTTP/1.1", "HTTP/1.0"
# What is smaller costs less to copy than to send in parts.
_SMALL_BODY = 16 << 10


def begin(exchange: Exchange, response: Response) -> "ProxiedResponse | None":
    """Begin to answer the client, in the call in which the headers were read; None where only `pass_on` can: handlers
    of `on_response_prepare` are coroutines, and the response to OPTIONS may be the gateway's own.
    """
    if exchange.app.on_response_prepare or exchange.method == hdrs.METH_OPTIONS:
        return None
    proxied = ProxiedResponse(exchange, response)
    if headers.passes_as_it_is(response):
        proxied.begin(response.status, response.reason, response.lines, response.names.keys())
    else:
        proxied.begin(response.status, response.reason, *_encoded(_fields(exchange, response)))
    return proxied


def sent_whole(exchange: Exchange) -> "ProxiedResponse | None":
    """The response, where the client has all of it already: nothing is to be waited for then."""
    proxied: Any = exchange.sink
    return proxied if proxied is not None and proxied.is_taken else None


async def pass_on(response: Response, exchange: Exchange) -> web.StreamResponse:
    """Answer the client with the exchange's response, unless that has begun. One that breaks off ends the client's
    connection, too, so that it does not look complete.

    Raises:
        ConnectionResetError: the client is gone.
    """
    if exchange.sink is not None:
        proxied = cast("ProxiedResponse", exchange.sink)
    else:
        proxied = ProxiedResponse(exchange, response)
        fields = _fields(exchange, response)
        if handlers := exchange.app.on_response_prepare:
            # They see the headers as aiohttp's, and may change them.
            proxied.headers.extend((headers.text_of(name), headers.text_of(value)) for name, value in fields)
            await handlers.send(exchange.request, proxied)
            fields = [(headers.bytes_of(name), headers.bytes_of(value)) for name, value in proxied.headers.items()]
        proxied.begin(proxied.status, proxied.reason, *_encoded(fields))
        exchange.connection.pass_to(proxied)
    await proxied.finish()
    return proxied


def _fields(exchange: Exchange, response: Response) -> list[tuple[bytes, bytes]]:
    is_backend = exchange.destination.route.owner is Owner.BACKEND
    return headers.response_fields(
        response,
        location=functools.partial(_location, exchange),
        cookie=None if is_backend else functools.partial(_cookie, exchange),
    )


class ProxiedResponse(Sent):
    """The upstream's response on its way to the client, which is what the handler returns to aiohttp."""

    is_taken = False
    """Whether all of it was sent, and the kernel has it but for a small rest."""
    # The status line and headers, until they are sent.
    _begun = b""
    _is_client_gone = False

    def __init__(self, exchange: Exchange, response: Response) -> None:
        # Each response is one, and `super` takes four times as long.
        Sent.__init__(self, status=response.status, reason=response.reason)
        self._exchange = exchange
        self._protocol = exchange.protocol
        message = exchange.message
        self._is_current = is_current = message.version >= HttpVersion11
        is_sized = (
            _CONTENT_LENGTH in response.names or response.status in _WITHOUT_BODY or exchange.method == hdrs.METH_HEAD
        )
        self._is_sized = is_sized
        self._is_chunked = not is_sized and is_current
        # The next request is for the process that takes this one's place; behind the headers it would be too late.
        stays = not (message.should_close or exchange.of_app[DRAINING].has_successor)
        self._persistent = stays and (is_sized or is_current)

    @property
    def keep_alive(self) -> bool:
        return self._persistent

    def begin(self, status: int, reason: str, lines: bytes, names: Set[bytes]) -> None:
        """Send these headers, whose names are in lower case, before the first part of the body."""
        is_current = self._is_current
        parts = [_status_line(_CURRENT if is_current else _EARLIER, status, reason), lines]
        if status == _NO_CONTENT and _CONTENT_LENGTH in names:
            # RFC 9110 section 8.6
            parts[1] = re.sub(rb"(?im)^content-length:.*\r\n", b"", lines)
        if b"x-request-id" not in names:
            parts.append(f"X-Request-ID: {self._exchange.items[REQUEST_ID]}\r\n".encode())
        if b"date" not in names:
            # RFC 9110 section 6.6.1
            parts.append(f"Date: {formatdate(usegmt=True)}\r\n".encode())
        if self._is_chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if not self._persistent:
            parts.append(b"Connection: close\r\n")
        elif not is_current:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        self._begun = b"".join(parts)

    def take(self, part: bytes | memoryview, *, complete: bool) -> bool:
        protocol = self._protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            self._is_client_gone = True
            return False
        # As it comes: a server-sent event must not wait for the next one.
        parts: list[bytes | memoryview] = [self._begun, part]
        self._begun = b""
        if self._is_chunked:
            if part:
                parts[1:] = b"%x\r\n" % len(part), part, b"\r\n"
            if complete:
                parts.append(b"0\r\n\r\n")
        if len(part) >= _SMALL_BODY:
            transport.writelines(parts)
        else:
            transport.write(b"".join(parts))
        self.is_taken = complete and not has_untaken(transport)
        return not protocol.writing_paused

    async def finish(self) -> None:
        """Wait until all of it has been sent.

        Raises:
            ConnectionResetError: the client is gone.
        """
        connection = self._exchange.connection
        try:
            while True:
                if self._is_client_gone:
                    raise ConnectionResetError
                if complete := connection.complete:
                    # The next request may have the connection before this client has taken everything.
                    self._exchange.close()
                if self._protocol.writing_paused:
                    await self._drain()
                if complete:
                    return
                await connection.passed(self._exchange.destination.timeouts.proxy_read_timeout)
        except (GatewayError, TimeoutError) as error:
            cause, items = getattr(error, "cause", _CLIENT_STALLED), self._exchange.items
            items[CAUSE] = dataclasses.replace(cause, moment=Moment.BODY)
            detail = getattr(error, "detail", "send_timeout")
            log.warning("upstream response truncated: %s request_id=%s", detail, items[REQUEST_ID])
            self._break_off()
        except Exception:
            # The error must not become a second response on this connection.
            self._break_off()
            raise

    async def _drain(self) -> None:
        async with asyncio.timeout(self._exchange.destination.timeouts.send_timeout):
            await self._exchange.request.writer.drain()

    def _break_off(self) -> None:
        """End the client's connection in a way that does not pass for the end of the response."""
        self._persistent = False
        transport = self._protocol.transport
        if transport is None:
            return
        if not self._is_sized and not self._is_chunked:
            # Only the end of the connection tells an HTTP/1.0 client the length: it must be a reset. Elsewhere a FIN
            # does, and leaves the client what it has.
            kernel.reset(transport)
        else:
            transport.abort()


@functools.lru_cache(maxsize=64)
def _status_line(version: str, status: int, reason: str) -> bytes:
    return headers.bytes_of(f"{version} {status} {reason}\r\n")


def _encoded(fields: headers.Fields) -> tuple[bytes, Set[bytes]]:
    """The lines of these headers, and their names in lower case."""
    try:
        return headers.encoded(fields), {name.lower() for name, _ in fields}
    except ValueError as error:
        raise BadUpstreamResponse(str(error)) from error


def _location(exchange: Exchange, location: str) -> str:
    """A Location with the scheme and host by which the client knows the gateway."""
    request, route = exchange.request, exchange.destination.route
    # That of TLS in front of the gateway, where a trusted proxy says so.
    forwarded = request.headers.get(hdrs.X_FORWARDED_PROTO) if request[TRUSTED] else None
    return headers.location_for(
        location,
        upstream=exchange.upstream.url,
        scheme=forwarded or request.scheme,
        host=request.headers.get(hdrs.HOST, ""),
        returned=str if route.owner is Owner.BACKEND else route.returned,
    )


def _cookie(exchange: Exchange, cookie: str) -> str:
    return headers.cookie_for(
        cookie, upstream_host=exchange.upstream.host, returned=exchange.destination.route.returned
    )
