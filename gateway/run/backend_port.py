"""The backend's port under `moorline serve`: one listening socket, which outlives the backend's processes.

This process binds it, listens, and hands it on to each life of the backend. A port that was merely kept by a bound
socket could be taken by any user of the machine while no backend listened (SO_REUSEADDR), and a patient's message with
it. Listening all the time also means that connections wait in the socket's queue while the backend restarts, and are
served by its next life, instead of being refused.

That wait is bounded: once the backend has been down for `connect_retry`, the time for which the gateway holds
handshakes, what waits and what comes is answered with 503 until it is up. An answer, and not a reset: for the gateway
a connection that opens and breaks is one to try again.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Iterator

from moorline.gateway.common.web.listen import BACKLOG
from moorline.gateway.run.supervisor import SpawnExtras

__all__ = ["BackendPort"]

log = logging.getLogger("moorline.serve")

_BODY = json.dumps(
    {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The backend is not running; the log of `moorline serve` says why.",
    }
).encode()
_UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
# The gateway sends the headers with its connection; another client may be slow.
_HEAD_SECONDS = 2.0


class BackendPort:
    """Use it in one event loop. The socket is closed with it."""

    def __init__(self, sock: socket.socket, hold: float) -> None:
        self._sock = sock
        self._hold = hold
        self._was_up = False
        self._standing_in: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def life(self) -> Iterator[SpawnExtras]:
        """Held around each life of the backend's process."""
        self._down()
        try:
            yield SpawnExtras((self._sock.fileno(),), {"listener": self._sock.fileno()})
        finally:
            self._down()

    def up(self) -> None:
        """The backend accepts connections itself."""
        self._was_up = True
        if self._standing_in is not None:
            self._standing_in.cancel()
            self._standing_in = None

    async def close(self) -> None:
        """Reset what waits, and give the port up."""
        if self._standing_in is not None:
            self._standing_in.cancel()
            await asyncio.wait([self._standing_in])
        self._sock.close()

    def _down(self) -> None:
        if self._standing_in is None:
            self._standing_in = asyncio.create_task(self._stand_in())

    async def _stand_in(self) -> None:
        """Answer for the backend, once it has been down for too long."""
        await asyncio.sleep(self._hold)
        state = "been down for" if self._was_up else "not started within"
        log.warning("the backend has %s %gs: requests to it are answered with 503", state, self._hold)
        try:
            server = await asyncio.start_server(_answer, sock=self._sock.dup(), backlog=BACKLOG)
        except OSError as error:
            log.error("cannot answer for the backend: %s", error.strerror)
            return
        async with server:
            await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(_HEAD_SECONDS):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_UNAVAILABLE)
            await writer.drain()
    writer.close()
