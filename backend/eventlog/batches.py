"""While one batch is carried out the next one gathers: the number of statements does not grow with the callers."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from moorline.backend.eventlog.base import LogUnavailable

__all__ = ["Batches", "failed"]

#: Items that wait, above which the log is unavailable. Each caller awaits its item, so each has one here.
MAX_WAITING = 20_000

Item = TypeVar("Item")
Result = TypeVar("Result")
_Begun = tuple[list[tuple[Item, "asyncio.Future[Result]"]], Awaitable[Sequence[Result | Exception]]]


def failed(error: Exception) -> "asyncio.Future[Any]":
    """What a call returns whose operation has failed already."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    future.set_exception(error)
    return future


class Batches(Generic[Item, Result]):
    """Passes items to `carry_out`, up to `size` at a time; it returns a result or an exception for each, in order.

    A submitted item is carried out, whether or not its caller still waits.

    `gap_after` gives the seconds from the beginning of a batch to that of the next by the number of its items: where
    items are rare each is carried out at once, and where they are many they gather.

    `eager`: `carry_out`, which then raises nothing itself, is called in `submit` where one item came alone before. What
    it begins before it returns does not wait for a turn of the event loop.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        size: int,
        gap_after: Callable[[int], float] = lambda items: 0.0,
        eager: bool = False,
    ) -> None:
        self._carry_out = carry_out
        self._size = size
        self._gap_after = gap_after
        self._eager = eager
        self._last_size = 0
        self._next_at = -math.inf
        self.gap = 0.0
        """Seconds from the beginning of the last batch to the earliest of the next."""
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """The result for `item`.

        Raises:
            LogUnavailable: too many wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise LogUnavailable("too many operations wait for the database")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if self._task is None:
            # Where the last batch was of more, others come in this turn of the event loop, too.
            alone = self._eager and self._last_size == 1 and self._next_at <= loop.time()
            self._task = loop.create_task(self._work(self._begin() if alone else None))
        return future

    async def settled(self) -> None:
        """Return when nothing is under way."""
        while self._task is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._task)

    async def _work(self, begun: "_Begun[Item, Result] | None") -> None:
        clock = asyncio.get_running_loop().time
        try:
            while begun is not None or self._waiting:
                if begun is None:
                    if (early := self._next_at - clock()) > 0:
                        await asyncio.sleep(early)
                    begun = self._begin()
                batch, carried_out = begun
                begun = None
                results: Sequence[Result | Exception]
                try:
                    results = await carried_out
                except Exception as error:
                    results = [error] * len(batch)
                for (_, future), result in zip(batch, results, strict=True):
                    if future.done():  # its caller was cancelled
                        continue
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
        finally:
            self._task = None

    def _begin(self) -> "_Begun[Item, Result]":
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        self._last_size = len(batch)
        self.gap = self._gap_after(len(batch))
        self._next_at = asyncio.get_running_loop().time() + self.gap
        return batch, self._carry_out([item for item, _ in batch])
