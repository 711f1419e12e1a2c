"""The seam to aiohttp: both connections leave the handshake for a tunnel without losing a byte."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from moorline.gateway.common.web.aiohttp_private import is_upgraded, take_over
from moorline.gateway.errors import Malformed
from moorline.gateway.tunnel.machine import Limits
from moorline.gateway.tunnel.relay import Relay, Shared

__all__ = ["switch"]


def switch(
    request: web.Request,
    hand_over: Callable[[], tuple[asyncio.Transport, bytes]],
    head: bytes,
    limits: Limits,
    shared: Shared,
) -> Relay:
    """Answer the client with `head` and begin the tunnel. `hand_over` gives the upstream's transport, which does not
    read, and the bytes that came behind its 101. The handler must return `Sent` next.

    Raises:
        Malformed: aiohttp did not take the request for a handshake, and went on parsing.
        UpstreamUnreachable: the upstream reset the connection behind its 101.
        ConnectionResetError: the client is gone.
    """
    client = request.transport
    if client is None or client.is_closing():
        raise ConnectionResetError
    if not is_upgraded(request):
        raise Malformed("This is no WebSocket handshake.")
    upstream, early = hand_over()
    relay = Relay(client, upstream, limits, shared)
    upstream.set_protocol(relay.upstream)
    from_client, client_stalls = take_over(request, relay.client)
    relay.start(head=head, from_client=from_client, from_upstream=early, client_stalls=client_stalls)
    return relay
