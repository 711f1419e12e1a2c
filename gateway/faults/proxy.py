"""A proxy on a port of its own that passes everything on to one server, except what a fault forbids.

It stands beside the gateway, between it and its clients or its upstream, and leaves the gateway's own path untouched.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Self

from moorline.gateway.faults.end import End
from moorline.gateway.faults.network import FaultyNetwork

__all__ = ["FaultProxy"]

_HOST = "127.0.0.1"
_BACKLOG = 1024


class FaultProxy(FaultyNetwork):
    """Listens while it is entered; everything that is open then ends with it."""

    def __init__(self, host: str, port: int, note: Callable[[str], None] = lambda _: None) -> None:
        super().__init__(note)
        self.host = host
        self.port = port
        """The server's."""
        self.listening_port = 0
        self._listener: socket.socket | None = None
        self._reserved: socket.socket | None = None
        """Keeps the port while nothing listens."""

    @property
    def url(self) -> str:
        return f"http://{_HOST}:{self.listening_port}"

    async def __aenter__(self) -> Self:
        self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close_listener()
        await self.aclose()
        if self._reserved is not None:
            self._reserved.close()

    async def _dial(self, end: End) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: end, self.host, self.port)
        except OSError:
            self.note(f"{self.host}:{self.port} cannot be reached")
            raise

    # Listening --------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._listener = _bound(self.listening_port)
        self._listener.listen(_BACKLOG)
        self.listening_port = self._listener.getsockname()[1]
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        # By number: uvloop would put off the closing of a socket object that it watches.
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept, self._listener)

    def _close_listener(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
            # While one socket listens no other may have its port; one that is only bound may be joined by another.
            self._reserved = _bound(self.listening_port)

    def _outage_begins(self) -> None:
        self._close_listener()

    def _outage_ends(self) -> None:
        self._listen()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, _ = listener.accept()
            sock.setblocking(False)
            if not self._hold_if_armed(sock, self._dial):
                self._begin(sock, self._dial)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((_HOST, port))
    return sock
