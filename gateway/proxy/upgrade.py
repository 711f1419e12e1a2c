"""The seam to aiohttp: its parsers make the handshake, and both transports leave it without losing a byte."""

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import ClientError, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from moorline.gateway.common.web.aiohttp_private import ClientProtocol, is_upgraded, take_over
from moorline.gateway.errors import BackendGarbled, BackendUnreachable, Malformed
from moorline.gateway.proxy.handshake import Answer, fields
from moorline.gateway.tunnel.endings import Side
from moorline.gateway.tunnel.limits import Limits
from moorline.gateway.tunnel.relay import Ended, Relay

__all__ = ["BackendConnection", "Switched", "switch"]

# Of the backend's head, all of it: four times nginx's, because cookies are long.
_MAX_HEAD = 32 << 10


class BackendConnection(ClientProtocol):
    """A connection to the backend up to the head of its answer: then a tunnel's, or the body of a refusal."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._head_size = 0
        self._has_head = False
        self.ended = False
        """The backend sent its FIN right behind the 101."""
        self.set_response_params(
            read_until_eof=True, auto_decompress=False, max_line_size=_MAX_HEAD, max_field_size=_MAX_HEAD
        )

    def send(self, data: bytes) -> None:
        """Write to the backend, which may be gone; reading its answer will tell."""
        if self.transport is not None:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the backend has taken what was sent."""
        try:
            await self.drained()
        except ConnectionError as error:
            raise BackendUnreachable(type(error).__name__) from error

    async def answer(self) -> tuple[Answer, StreamReader]:
        """The head of the final answer; interim ones are passed over.

        Raises:
            BackendUnreachable: the connection ended before.
            BackendGarbled: this is not HTTP.
        """
        try:
            while True:
                message, body = await self.read()
                if message.code == 101 or message.code >= 200:
                    break
        except HttpProcessingError as error:
            raise BackendGarbled(type(error).__name__) from error
        except (ClientError, OSError) as error:
            raise BackendUnreachable(type(error).__name__) from error
        if sum(len(name) + len(value) + 4 for name, value in message.raw_headers) > _MAX_HEAD:
            raise BackendGarbled("the head is too large")
        return Answer(message.code, message.reason, fields(message.raw_headers)), body

    def hand_over(self, protocol: asyncio.Protocol) -> bytes:
        """Give the transport to `protocol`; the bytes that came behind the 101."""
        cast("asyncio.Transport", self.transport).set_protocol(protocol)
        # `abort` has nothing to end any more.
        self.transport = None
        return self.take_early_bytes()

    # asyncio's callbacks ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._has_head:
            return
        # Whatever was parsed waits in the queue; it is never more than a head and the start of a body.
        self._has_head = len(self) > 0
        self._head_size += len(data)
        if not self._has_head and self._head_size > _MAX_HEAD and self.transport is not None:
            self.set_exception(HttpProcessingError(message="the head is too large"))
            self.transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        super().eof_received()
        # Behind a 101 it is the tunnel's to handle, after the bytes before it.
        self.ended = self.upgraded
        return self.upgraded


def switch(
    request: web.Request,
    backend: BackendConnection,
    head: bytes,
    limits: Limits,
    on_end: Callable[[Relay, Ended], None],
    on_round_trip: Callable[[Side, float], None] | None = None,
) -> Relay:
    """Answer the client with `head` and begin the tunnel. The handler must return `Switched` next.

    Raises:
        Malformed: aiohttp did not take the request for a handshake, and went on parsing.
        BackendUnreachable: the backend reset the connection behind its 101.
        ConnectionResetError: the client is gone.
    """
    client = request.transport
    if client is None or client.is_closing():
        raise ConnectionResetError
    if backend.transport is None or backend.transport.is_closing():
        raise BackendUnreachable("reset behind its 101")
    if not is_upgraded(request):
        raise Malformed("This is no WebSocket handshake.")
    relay = Relay(client, backend.transport, limits, on_end, on_round_trip)
    from_client, client_stalls = take_over(request, relay.client)
    relay.start(
        head=head,
        from_client=from_client,
        from_backend=backend.hand_over(relay.backend),
        client_stalls=client_stalls,
        backend_ended=backend.ended,
    )
    return relay


class Switched(web.StreamResponse):
    """What a handler returns when the connection is no longer aiohttp's: nothing is sent."""

    def __init__(self) -> None:
        super().__init__(status=101)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass
