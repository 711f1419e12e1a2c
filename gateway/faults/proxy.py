"""A proxy on a port of its own that passes everything on to one server, except what a fault forbids.

It stands beside the gateway, between it and its clients or its upstream, and leaves the gateway's own path untouched.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Self

from moorline.gateway.faults.armed import Armed
from moorline.gateway.faults.catalogue import Phase
from moorline.gateway.faults.link import Link

__all__ = ["FaultProxy"]

_HOST = "127.0.0.1"
_BACKLOG = 1024


class FaultProxy:
    """Listens while it is entered; everything that is open then ends with it."""

    def __init__(self, host: str, port: int, note: Callable[[str], None] = lambda _: None) -> None:
        self.host = host
        self.port = port
        """The server's."""
        self.note = note
        self.armed: list[Armed] = []
        self.listening_port = 0
        self._links: set[Link] = set()
        self._held: dict[socket.socket, tuple[Armed, asyncio.TimerHandle | None]] = {}
        self._outages: dict[Armed, asyncio.TimerHandle | None] = {}
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
        self.armed.clear()
        for timer in self._outages.values():
            if timer is not None:
                timer.cancel()
        self._close_listener()
        for link in list(self._links):
            await link.aclose()
        for sock in list(self._held):
            self._unhold(sock).close()
        if self._reserved is not None:
            self._reserved.close()

    # Faults -----------------------------------------------------------------------------------------------------------

    def arm(self, armed: Armed) -> None:
        """From now on connections meet this fault, open ones as well where it acts on open ones."""
        self.armed.append(armed)
        if armed.fault.phase is Phase.OUTAGE and armed.after_bytes is None:
            self.outage(armed)
        else:
            for link in list(self._links):
                link.meet(armed)

    def disarm(self, armed: Armed) -> None:
        """The fault is over; an application that still runs meets it no more."""
        self.armed.remove(armed)
        self._end_outage(armed)
        for link in list(self._links):
            link.disarm(armed)
        for sock in [sock for sock, (each, _) in self._held.items() if each is armed]:
            self._begin(self._unhold(sock))

    def outage(self, armed: Armed) -> None:
        """Refuse new connections, and do to the open ones what the fault does."""
        if armed.met or not armed.claims():
            return
        self.note(f"{armed}")
        self._close_listener()
        for link in list(self._links):
            link.play_outage(armed.make())
        seconds = armed.parameters["seconds"]
        loop = asyncio.get_running_loop()
        self._outages[armed] = None if seconds is None else loop.call_later(seconds, self._end_outage, armed)

    def _end_outage(self, armed: Armed) -> None:
        if armed not in self._outages:
            return
        timer = self._outages.pop(armed)
        if timer is not None:
            timer.cancel()
        if not self._outages:
            self._listen()

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

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sock, _ = listener.accept()
            sock.setblocking(False)
            for armed in self.armed:
                if armed.fault.phase is Phase.CONNECT and armed.claims():
                    self._hold(armed, sock)
                    return
            self._begin(sock)

    def _hold(self, armed: Armed, sock: socket.socket) -> None:
        self.note(f"{armed} met a connection")
        seconds = armed.resets_after
        loop = asyncio.get_running_loop()
        timer = None if seconds is None else loop.call_later(seconds, lambda: self._unhold(sock).close())
        self._held[sock] = (armed, timer)

    def _unhold(self, sock: socket.socket) -> socket.socket:
        _, timer = self._held.pop(sock)
        if timer is not None:
            timer.cancel()
        return sock

    def _begin(self, sock: socket.socket) -> None:
        link = Link(self)
        self._links.add(link)
        link.begin(sock)

    def discard(self, link: Link) -> None:
        self._links.discard(link)


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((_HOST, port))
    return sock
