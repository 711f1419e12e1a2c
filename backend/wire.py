"""The connection below a socket of aiohttp's: what of its frames waits for the client, and writing past aiohttp."""

from aiohttp import web

__all__ = ["Wire"]


class Wire:
    """Of one socket. One object with three methods: as callables each would hold a closure for as long as the socket
    is open."""

    __slots__ = ("_protocol", "_socket")

    def __init__(self, protocol: web.RequestHandler, socket: web.WebSocketResponse) -> None:
        self._protocol = protocol
        self._socket = socket

    def unsent(self) -> int:
        """How many bytes wait for the client."""
        transport = self._protocol.transport
        return 0 if transport is None else transport.get_write_buffer_size()

    def write(self, data: bytes) -> bool:
        """Write frames past aiohttp's writer, whose layers cost more than the frames; False where the socket is closed
        or bytes wait for the client."""
        transport = self._protocol.transport
        if self._socket.closed or transport is None or transport.is_closing() or transport.get_write_buffer_size():
            return False
        if data:
            transport.write(data)
        return True

    def abort(self) -> None:
        """Abort the connection, if it is not lost already: asyncio's own transport then raises AttributeError."""
        if self._protocol.transport is not None:
            self._protocol.transport.abort()
