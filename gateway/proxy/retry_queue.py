"""Handshakes that wait for an upstream that can be reached."""

import asyncio

from aiohttp import web

from moorline.gateway.proxy.upstreams import Upstreams

__all__ = ["RETRY_QUEUES", "RetryQueue"]

_RETRY_SECONDS = 0.25


class RetryQueue:
    """One of the waiting handshakes tries every 250 ms, in order of arrival; once a connection is made, all of them do:
    ten thousand that all tried would leave an upstream that starts on this machine no processor to do it with.
    """

    def __init__(self) -> None:
        # A dict, because clients leave from the middle of the queue.
        self._waiting: dict[asyncio.Future[None], None] = {}
        self._timer: asyncio.TimerHandle | None = None

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
        """Have all of them try now, or see why not to."""
        while self._waiting:
            self._wake_first()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> None:
        self._timer = None
        if self._waiting:
            self._wake_first()
            self._timer = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._next)

    def _wake_first(self) -> None:
        turn = next(iter(self._waiting))
        del self._waiting[turn]
        turn.set_result(None)


RETRY_QUEUES = web.AppKey("retry_queues", dict[Upstreams, RetryQueue])
"""One for each group of upstreams: that one of them can be reached says nothing of the others."""
