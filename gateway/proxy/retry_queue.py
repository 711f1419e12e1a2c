"""Handshakes and requests that wait for an upstream that can be reached."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from moorline.gateway.keys import ROUTES
from moorline.gateway.proxy.upstreams import Upstreams

__all__ = ["RETRY_QUEUES", "RetryQueue", "retry_queues"]

_RETRY_SECONDS = 0.25
# Of all that try again, in one iteration of the event loop: 5 ms. Ten thousand in one would hold up every socket for
# more than a second.
_PER_ITERATION = 32


class RetryQueue:
    """One of the waiting handshakes tries every 250 ms, in order of arrival; once a connection is made, all of them do.
    Ten thousand that tried at each interval would take the processor from an upstream that starts on this machine.
    """

    def __init__(self) -> None:
        # A dict, because clients leave from the middle of the queue.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        # So many of the first ones are to try now.
        self._to_wake = 0

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait_turn(self, seconds: float) -> None:
        """Return when it is time to try again, after so many seconds at the latest."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[turn] = None
        if self._timer is None:
            self._timer = loop.call_later(_RETRY_SECONDS, self._next)
        try:
            await asyncio.wait([turn], timeout=seconds)
        finally:
            self._waiting.pop(turn, None)

    def wake_all(self) -> None:
        """Have all of them try now, or see why not to: the first ones at once, others in the iterations that follow."""
        is_waking, self._to_wake = self._to_wake > 0, len(self._waiting)
        if self._to_wake and not is_waking:
            self._wake_some()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> None:
        self._timer = None
        if self._waiting:
            self._wake_first()
            self._timer = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._next)

    def _wake_some(self) -> None:
        for _ in range(min(_PER_ITERATION, self._to_wake, len(self._waiting))):
            self._wake_first()
        # Some may have left.
        self._to_wake = min(self._to_wake - _PER_ITERATION, len(self._waiting))
        if self._to_wake > 0:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_first(self) -> None:
        turn = next(iter(self._waiting))
        del self._waiting[turn]
        turn.set_result(None)


RETRY_QUEUES = web.AppKey("retry_queues", dict[Upstreams, RetryQueue])
"""One for each group of upstreams: that one of them can be reached says nothing of the others."""


async def retry_queues(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that holds the queue of each group of upstreams."""
    app[RETRY_QUEUES] = {group: RetryQueue() for group in app[ROUTES].upstreams}
    yield
    for queue in app[RETRY_QUEUES].values():
        queue.close()
