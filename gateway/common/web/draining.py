"""The signal that the server is about to stop, for handlers that end in an orderly way.

`create_app` puts one into the application; `server.running` gives it its deadline when the signal comes.

    draining = request.app[DRAINING]
    await draining.wait()
    ...  # tell the peer, then be done before draining.remaining() is 0
"""

import asyncio

from aiohttp import web

__all__ = ["DRAINING", "Draining"]


class Draining:
    """Set once. A handler that goes on past the deadline is cancelled within a second."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        # The same, which each request asks for.
        self._has_begun = False
        self._deadline = 0.0
        self.is_leaving = False
        """Another process accepts connections in place of this one, which ends once nothing is under way."""
        self.has_successor = False
        """Another process accepts connections, or will: the next request of each client is for that one."""
        self._ending = asyncio.Event()
        self.requests = 0
        """Those that are being handled; a socket is none any more once its handler has returned."""
        # Sockets, and what else is under way beside the requests.
        self._held = 0
        self._waiting: list[asyncio.Future[None]] = []

    def hold(self) -> None:
        """Count a request, or a socket that has outlived its handler, as under way until `release`."""
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        if self._waiting:
            self._wake()

    def begin_request(self) -> None:
        """Count a request as being handled, and as under way, until `end_request`."""
        self.requests += 1

    def end_request(self) -> None:
        self.requests -= 1
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        if not (self._held or self.requests):
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)

    async def released(self) -> None:
        """Wait until nothing is under way."""
        while self._held or self.requests:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                self._waiting.remove(waiter)

    def leave(self) -> None:
        """Another process has taken the place of this one."""
        self.is_leaving = True
        self.expect_successor()

    def expect_successor(self) -> None:
        """Connections wait for another process, which takes the place of this one."""
        self.has_successor = True
        self._ending.set()

    async def ending(self) -> None:
        """Wait until this process is about to end: it has been left, accepts no more, or drains. For a response without
        an end of its own, whose client asks again."""
        await self._ending.wait()

    def begin(self, seconds: float) -> None:
        """Ask all handlers to end within `seconds`; a second call can only shorten it."""
        deadline = asyncio.get_running_loop().time() + seconds
        self._deadline = min(self._deadline, deadline) if self.is_set() else deadline
        self._has_begun = True
        self._event.set()
        self._ending.set()

    def is_set(self) -> bool:
        """Whether the drain has begun."""
        return self._has_begun

    def is_over(self) -> bool:
        """Whether the deadline has passed: what is under way is cut."""
        return self.is_set() and self.remaining() == 0

    async def wait(self) -> None:
        """Wait until the drain has begun."""
        await self._event.wait()

    def remaining(self) -> float:
        """Seconds until the deadline, never below 0. Only valid once the drain has begun."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time())


DRAINING = web.AppKey("draining", Draining)
