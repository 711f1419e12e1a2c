"""A tunnel that another process began goes on here: its state and the two connections' descriptors make a relay."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from moorline.gateway.tunnel.machine import Limits
from moorline.gateway.tunnel.relay import Relay, Shared
from moorline.gateway.tunnel.state import TunnelState

__all__ = ["resume"]


class _Opening(asyncio.Protocol):
    """A connection until the relay has both: event loops read from a new transport before its caller goes on."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.received = b""
        self.ended = False
        self.error: Exception | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        assert self.transport is not None
        self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc or ConnectionResetError()

    def give(self, protocol: asyncio.Protocol) -> None:
        """Tell `protocol` what has happened here beside the bytes."""
        if self.error is not None:
            protocol.connection_lost(self.error)
        elif self.ended:
            protocol.eof_received()


async def resume(
    state: TunnelState,
    client: socket.socket,
    upstream: socket.socket,
    limits: Limits,
    shared: Shared,
    *,
    on_start: Callable[[Relay], None],
) -> Relay:
    """Go on. `on_start` gets the relay before any event of it.

    Raises:
        OSError: a descriptor is no connection. Both are closed.
    """
    loop = asyncio.get_running_loop()
    openings = (_Opening(), _Opening())
    try:
        for opening, sock in zip(openings, (client, upstream), strict=True):
            await loop.connect_accepted_socket(lambda opening=opening: opening, sock)  # type: ignore[misc]
        first, second = (opening.transport for opening in openings)
        if first is None or second is None:
            raise ConnectionResetError
    except BaseException:
        for opening, sock in zip(openings, (client, upstream), strict=True):
            if opening.transport is not None:
                opening.transport.abort()
            else:
                sock.close()
        raise
    relay = Relay(first, second, limits, shared, state=state)
    on_start(relay)
    protocols = (relay.client, relay.upstream)
    for transport, protocol in zip((first, second), protocols, strict=True):
        transport.set_protocol(protocol)
    relay.resume(state, from_client=openings[0].received, from_upstream=openings[1].received)
    for opening, protocol in zip(openings, protocols, strict=True):
        opening.give(protocol)
    return relay
