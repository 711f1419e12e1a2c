"""Everything that moorline uses of aiohttp beyond its documented interface, under names of its own.

A server connection bounds a request's headers where aiohttp has no hook for it, and a proxy takes the client's
transport out of aiohttp's protocol without losing a byte. No other module may name a private attribute of aiohttp. Each
name is checked when this module is imported: a version of aiohttp that lacks one ends the program with a line that says
so, rather than with an AttributeError in the middle of a handshake.
"""

import asyncio
from collections import deque
from typing import Any, cast

import aiohttp
from aiohttp import web, web_protocol
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from moorline.gateway.common.errors import UnsupportedLibrary

__all__ = [
    "ServerProtocol",
    "check",
    "is_upgraded",
    "take_over",
]

# Of what, and the names that are used of it: methods and slots.
_NAMES: tuple[tuple[object, tuple[str, ...]], ...] = (
    (web_protocol, ("_ErrInfo",)),
    (BaseProtocol, ("_buffer_paused", "_reading_paused", "_upgraded", "transport", "writing_paused")),
    (
        RequestHandler,
        (
            "_message_tail",
            "_messages",
            "_payload_parser",
            "_waiter",
            "finish_response",
            "handle_error",
            "set_parser",
            "start",
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
                raise UnsupportedLibrary(
                    f"aiohttp {aiohttp.__version__} has no {where}.{name}, which moorline needs; "
                    "install the version that moorline asks for: pip install --upgrade moorline"
                )


check()


class ServerProtocol(RequestHandler):
    """A connection of aiohttp's server that tells where it is between two requests."""

    __slots__ = ()

    @property
    def queued(self) -> int:
        """How many requests were parsed and are not handled yet."""
        return len(self._messages)

    @property
    def awaits_request(self) -> bool:
        """Whether no request is parsed or being handled, nor the rest of a request's body awaited."""
        return self._waiter is not None and not self._waiter.done()

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
        assert self._waiter is not None, "only while a request is awaited"
        error = web_protocol._ErrInfo(status, HttpProcessingError(code=status), message)
        self._messages.append((error, EMPTY_PAYLOAD))
        self._waiter.set_result(None)


def is_upgraded(request: web.BaseRequest) -> bool:
    """Whether aiohttp stopped parsing behind this request, as after a WebSocket handshake."""
    return request.protocol._upgraded


def take_over(request: web.BaseRequest, protocol: asyncio.Protocol) -> tuple[bytes, bool]:
    """Give the client's transport to `protocol`: what came behind the handshake, and whether the transport is full.

    Only once `is_upgraded`. The handler of `request` must send nothing and return next.
    """
    handler = request.protocol
    early, handler._message_tail = handler._message_tail, b""
    # Its timer would keep all of it alive.
    handler.keep_alive(False)
    cast("asyncio.Transport", handler.transport).set_protocol(protocol)
    # aiohttp closes what it finds here when the handler has returned.
    handler.transport = None
    # The server must forget the connection, of whose end it is not told. Earlier would cancel the task.
    request.task.add_done_callback(lambda _: handler.connection_lost(None))
    return early, handler.writing_paused
