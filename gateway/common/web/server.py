"""An application on real listeners: what `create_app` alone cannot set, from the listening sockets to the drain.

At the end the server goes on listening while it drains, so that health checks and late requests get an answer instead
of a refusal. It is over when no request and no socket is left, at the latest at the deadline.
"""

import asyncio
import contextlib
import dataclasses
import logging
import math
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Protocol, cast

from aiohttp import web

from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.web.aiohttp_private import BaseHandler
from moorline.gateway.common.web.connection import (
    BAD_REQUEST_HANDLER,
    CONNECTION_TIMEOUTS,
    Connection,
    ConnectionTimeouts,
    Shared,
    default_bad_request,
)
from moorline.gateway.common.web.draining import DRAINING, Draining
from moorline.gateway.common.web.idle import Descriptors, IdleConnections
from moorline.gateway.common.web.lingering import LingeringConnections
from moorline.gateway.common.web.listen import BACKLOG, address, listen
from moorline.gateway.common.web.messages import MESSAGE_LIMITS, Unfinished
from moorline.gateway.common.web.time_limit import Deadlines
from moorline.gateway.common.web.tls import SERVER_TLS
from moorline.gateway.common.web.tls_handshake import TlsHandshakes
from moorline.gateway.common.web.turns import Turns

__all__ = [
    "ACCEPT_THROUGH",
    "DIRECT_HANDLER",
    "Accept",
    "DirectHandler",
    "Listener",
    "Running",
    "SocketListener",
    "begin_drain",
    "running",
]

Accept = Callable[[], asyncio.Protocol]
ACCEPT_THROUGH: web.AppKey[Callable[[Callable[[], Connection]], Accept]] = web.AppKey("accept_through")
"""Only where something stands between the accepted connections and their protocols."""
DirectHandler = Callable[[BaseHandler], BaseHandler]
"""Given aiohttp's router, a handler that leaves it only the requests that need it."""
DIRECT_HANDLER = web.AppKey[DirectHandler]("direct_handler")
"""Set by an application that knows the handler of most requests without the router."""

# nginx's 8 kB for the request line, and for a header.
_MAX_LINE = 8190
# For handlers whose deadline has passed to send their close frames, taken out of `drain` where that is long enough.
_CLOSE_FRAMES = 0.5
# For what is left of a process that has waited for `drain` already, as another has taken its place.
_LAST_SECONDS = 2.0
# For requests that are under way when no more connections are accepted.
_REQUEST_SECONDS = 1.0
_REQUEST_CHECK_SECONDS = 0.05
# For connections that are accepted and silent then: the peer of a process that is restarted sends at once.
_SILENT_SECONDS = 0.5
# Of the time for the drain, so much for them at most.
_REQUEST_SHARE = 0.5
# Bytes that wait for a turn to be parsed, in a server without `max_unfinished`; its default.
_MOST_WAITING = 64 << 20
# For handlers that are cancelled after that to release what they hold.
_CANCEL_TIMEOUT = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A server that accepts connections."""

    addresses: tuple[str, ...]
    """`http://127.0.0.1:4321` and, for localhost, `http://[::1]:4321`."""
    port: int
    draining: Draining
    _drain: float
    _listener: "Listener"
    _idle_connections: IdleConnections

    def leave(self) -> None:
        """Accept no more connections, for another process does. Requests and sockets that are under way have `drain` to
        end by themselves, from when `running` is left."""
        self.draining.leave()
        self._listener.close()

    def stop_accepting(self) -> None:
        """Accept no more connections: they wait in the queue of a socket that outlives this process. Then as
        `give_way`."""
        self._listener.close()
        self.give_way()

    def give_way(self) -> None:
        """Leave what comes to other processes. Requests that were on their way are handled before the drain begins,
        when `running` is left. Connections end behind them, and those that wait for another one at once, as in nginx:
        it would be refused, or have no upstream any more."""
        self.draining.expect_successor()
        self._idle_connections.close_idle()

    async def finish_accepted(self) -> None:
        """As `stop_accepting`, for handlers that end at once when the drain begins: return when each connection that
        was accepted has sent its request, or half a second is over. One whose request came behind the begin of the
        drain would be refused, and the next process could have served it."""
        self.stop_accepting()
        await _finish(self.draining, self._unread, 0.0, _SILENT_SECONDS)

    async def finish_requests(self) -> float:
        """As `stop_accepting`, where the upstream ends before the drain begins: return when the requests that were on
        their way have been handled, or a second is over; how long it took."""
        self.stop_accepting()
        return await _finish(self.draining, self._under_way, 0.0, _REQUEST_SECONDS)

    async def finish_and_drain(self, within: float | None = None) -> None:
        """As `finish_requests`, and begin the drain in what that leaves of the time."""
        took = await self.finish_requests()
        self.drain(max(0.0, (self._drain if within is None else within) - took))

    def _under_way(self) -> int:
        return self._unread() + self.draining.requests

    def _unread(self) -> int:
        """Connections whose request is still to come, as a whole or in part."""
        return self._listener.opening + self._idle_connections.silent + self._idle_connections.begun

    def drain(self, within: float | None = None) -> None:
        """Begin the drain, which leaving `running` completes, `within` so many seconds if that is less than `drain`."""
        begin_drain(self.draining, self._drain if within is None else min(within, self._drain))


def begin_drain(draining: Draining, seconds: float) -> None:
    """Begin the drain of a server, which is over in so many seconds. Handlers get what the last steps leave of them."""
    draining.begin(max(0.0, seconds - _CLOSE_FRAMES - 2 * _CANCEL_TIMEOUT))


class Listener(Protocol):
    """Where connections come from."""

    addresses: tuple[str, ...]
    port: int
    closed: bool

    @property
    def opening(self) -> int:
        """Connections that have been accepted, and have no protocol yet."""

    async def open(self, connection: Callable[[], asyncio.Protocol]) -> None:
        """Accept them, each with a protocol of its own."""

    def close(self) -> None:
        """Stop accepting."""


class SocketListener:
    """Listening sockets of this process."""

    def __init__(self, sockets: Sequence[socket.socket], *, scheme: str = "http") -> None:
        self.addresses = tuple(address(sock, scheme) for sock in sockets)
        self.port: int = sockets[0].getsockname()[1]
        self._sockets = sockets
        self._listeners: list[asyncio.Server] = []
        self.closed = False
        self.opening = 0

    async def open(self, connection: Callable[[], asyncio.Protocol]) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            # asyncio accepts so many connections at a time before it reports the first one, and logs a traceback for
            # each that it had no descriptor for.
            self._listeners.append(await loop.create_server(connection, sock=sock, backlog=1))
            sock.listen(BACKLOG)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        for listener in self._listeners:
            listener.close()
        for sock in self._sockets:
            sock.close()


@contextlib.asynccontextmanager
async def running(
    app: web.Application, settings: CommonSettings, *, listener: Listener | None = None
) -> AsyncIterator[Running]:
    """Serve `app` at `settings.host` and `settings.port`, or on another `listener`; drain at the end, for at most
    `settings.drain`.

    Raises:
        UsageError: the address cannot be listened on.
    """
    tls = app.get(SERVER_TLS)
    scheme = "http" if tls is None else "https"
    listener = listener or SocketListener(listen(settings.host, settings.port), scheme=scheme)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_CANCEL_TIMEOUT)
    draining = app.setdefault(DRAINING, Draining())
    ending = contextlib.ExitStack()
    try:
        await runner.setup()
        server = cast("web.Server", runner.server)
        if DIRECT_HANDLER in app:
            server.request_handler = app[DIRECT_HANDLER](server.request_handler)
        if tls is not None:
            tls.warn()
        idle_connections = IdleConnections(Descriptors.of_process())
        await listener.open(ending.enter_context(_connections(app, server, idle_connections, draining)))
        started = Running(listener.addresses, listener.port, draining, settings.drain, listener, idle_connections)
        yield started
        took = 0.0
        if draining.has_successor and not draining.is_set():
            took = await _finish(draining, started._under_way, _REQUEST_SHARE * settings.drain, _REQUEST_SECONDS)
        if draining.is_leaving:
            await _released_or_draining(draining, settings.drain)
            if not draining.is_set():
                started.drain(_LAST_SECONDS)
        started.drain(settings.drain - took)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(draining.released(), draining.remaining() + _CLOSE_FRAMES)
    finally:
        listener.close()
        ending.close()
        await runner.cleanup()


async def _finish(draining: Draining, under_way: Callable[[], int], most: float, patience: float) -> float:
    """Return when none is under way, or none has ended for `patience`, at the latest `most` seconds behind that, and
    when the drain begins, which waits for no more of them: how long it took. The request of a connection that was
    accepted last is still to come; a browser also opens some ahead of need, and a poll is held for longer. A process
    that has many to answer, as it may after the last restart, goes on for as long as it gets on with them.
    """
    clock = asyncio.get_running_loop().time
    began = since = clock()
    fewest, was_none = math.inf, False
    while not draining.is_set() and clock() < min(since, began + most) + patience:
        left = under_way()
        # Twice: on the way from its connection to its handler a request is counted at neither for a moment.
        if was_none and left == 0:
            break
        was_none = left == 0
        if left < fewest:
            fewest, since = left, clock()
        await asyncio.sleep(_REQUEST_CHECK_SECONDS)
    return clock() - began


async def _released_or_draining(draining: Draining, seconds: float) -> None:
    """Return when nothing is under way, when the drain begins, or after so many seconds."""
    waiting = [asyncio.create_task(draining.released()), asyncio.create_task(draining.wait())]
    try:
        await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@contextlib.contextmanager
def _connections(
    app: web.Application, server: web.Server, idle_connections: IdleConnections, draining: Draining
) -> Iterator[Callable[[], asyncio.Protocol]]:
    """Makes the protocol of each accepted connection; at the end, TLS handshakes that are not over are ended."""
    loop = asyncio.get_running_loop()
    timeouts = app.get(CONNECTION_TIMEOUTS, ConnectionTimeouts())
    header_deadlines = Deadlines(loop, timeouts.client_header)
    lingering = LingeringConnections(loop, timeouts.lingering, idle_connections, draining)
    message_limits = app.get(MESSAGE_LIMITS)
    shared = Shared(
        loop=loop,
        draining=draining,
        idle_connections=idle_connections,
        turns=Turns(loop),
        room=Unfinished(_MOST_WAITING) if message_limits is None else message_limits.unfinished,
        timeouts=timeouts,
        header_deadlines=header_deadlines,
        lingering=lingering,
        bad_request_handler=app.get(BAD_REQUEST_HANDLER, default_bad_request),
        message_limits=message_limits,
        arguments={
            "max_line_size": _MAX_LINE,
            "max_field_size": _MAX_LINE,
            # The parts log requests themselves; a line with the path of each would hold the ids of patients.
            "access_log": None,
            # The gateway passes bodies on as they are, and a small one could decompress to gigabytes in the backend.
            "auto_decompress": False,
            "logger": logging.getLogger("moorline.http"),
        },
    )

    def connection() -> Connection:
        return Connection(server, shared)

    through = app.get(ACCEPT_THROUGH)
    accept: Accept = connection if through is None else through(connection)
    handshakes = None
    if SERVER_TLS in app:
        handshakes = TlsHandshakes(app[SERVER_TLS], accept, idle_connections, lingering, timeouts.client_header)
    try:
        yield accept if handshakes is None else handshakes.protocol
    finally:
        header_deadlines.close()
        lingering.close()
        if handshakes is not None:
            handshakes.close()
