"""The connections for plain HTTP to each upstream, kept for the next request.

At most `upstream_connections` requests of short duration are under way at an upstream; more wait in order of arrival. A
request that has lasted for a second does not count any more: it is a held poll or a stream, of which 64 would otherwise
keep all other requests waiting for as long as they last. So the limit evens out bursts, such as the thousand modules
of a page, and a place in the queue is worth a second at most.

A connection is kept only where the exchange vouches for it; see `Exchange.close`.
"""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from moorline.gateway.common.rotation import Rotation
from moorline.gateway.errors import Unavailable
from moorline.gateway.keys import ROUTES, SETTINGS
from moorline.gateway.proxy.connection import UpstreamConnection
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["POOLS", "Pool", "pools"]

_LONG_SECONDS = 1.0


class Pool:
    """The connections to one upstream. `keepalive` None: each serves one request."""

    def __init__(self, *, limit: int, keepalive: float | None) -> None:
        self._limit = limit
        self._keepalive = keepalive
        # The one that was used last serves first, so that those beyond the need expire.
        self._idle: list[UpstreamConnection] = []
        # Those that count, with the time of their beginning, the oldest first.
        self._busy: dict[UpstreamConnection, float] = {}
        self._waiting = Rotation[asyncio.Future[None]]()
        # Places that were given to a waiting request which has not run yet.
        self._given = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> int:
        return len(self._idle)

    def is_full(self) -> bool:
        """Whether the next request has to `wait`."""
        return len(self._busy) + self._given >= self._limit or bool(self._waiting.clients)

    def take_idle(self, now: float) -> UpstreamConnection | None:
        """A connection that is established already, to be given back; None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.end_idle():
                self._busy[connection] = now
                return connection
        return None

    def take(self, now: float, *, reuse: bool) -> UpstreamConnection:
        """A connection, to be given back; it is not established where there is none to `reuse`."""
        if reuse and (idle := self.take_idle(now)) is not None:
            return idle
        if len(self._idle) + len(self._busy) >= self._limit and self._idle:
            self._idle.pop(0).abort()
        connection = UpstreamConnection(asyncio.get_running_loop())
        self._busy[connection] = now
        return connection

    def give_back(self, connection: UpstreamConnection, *, keep: bool) -> None:
        """Keep it for another request, or end it."""
        busy, idle, keepalive = self._busy, self._idle, self._keepalive
        busy.pop(connection, None)
        if keep and keepalive is not None and len(idle) + len(busy) < self._limit:
            idle.append(connection)
            connection.begin_idle(keepalive, idle.remove)
        else:
            connection.abort()
        if self._waiting.clients:
            self._wake()

    def close(self) -> None:
        """End those that are idle."""
        while self._idle:
            self._idle.pop().abort()
        if self._timer is not None:
            self._timer.cancel()

    async def wait(self, seconds: float, client: str) -> None:
        """Wait until a connection may be taken, which the caller does at once. Each `client` has the next place in
        rotation.

        Raises:
            Unavailable: there was no place in so many seconds.
        """
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(client, place)
        self._watch()
        try:
            async with asyncio.timeout(seconds):
                await place
        except BaseException as error:
            if not self._waiting.discard(client, place) and not place.cancelled():
                # The client has left just when it was its request's turn.
                self._given -= 1
                self._wake()
            if isinstance(error, TimeoutError):
                raise Unavailable("Too many requests wait for the backend (upstream_connections).") from None
            raise
        self._given -= 1

    def _wake(self) -> None:
        """Give the places that are free to those that wait."""
        while self._waiting and len(self._busy) + self._given < self._limit:
            place = self._waiting.popleft()
            if not place.done():
                self._given += 1
                place.set_result(None)

    def _watch(self) -> None:
        """Look again when the oldest request is a long one."""
        if self._timer is None and self._waiting and self._busy:
            oldest = next(iter(self._busy.values()))
            self._timer = asyncio.get_running_loop().call_at(oldest + _LONG_SECONDS, self._pass_over_long)

    def _pass_over_long(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection, began in list(self._busy.items()):
            if now - began < _LONG_SECONDS:
                break
            del self._busy[connection]
        self._wake()
        self._watch()


POOLS = web.AppKey("pools", dict[Upstream, Pool])


async def pools(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that holds the pool of each upstream."""
    settings = app[SETTINGS]
    app[POOLS] = {
        upstream: Pool(limit=settings.upstream_connections, keepalive=settings.upstream_keepalive)
        for upstream in app[ROUTES].each_upstream()
    }
    yield
    for pool in app[POOLS].values():
        pool.close()
