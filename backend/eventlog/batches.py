"""While one batch is carried out the next one gathers: the number of statements does not grow with the callers."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from moorline.backend.eventlog.base import LogUnavailable

__all__ = ["Batches"]

#: Items that wait, above which the log is unavailable. Each caller awaits its item, so each has one here.
MAX_WAITING = 20_000

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Passes items to `carry_out`, up to `size` at a time; it returns a result or an exception for each, in order.

    A submitted item is carried out, whether or not its caller still waits.

    `gap_after` gives the seconds from the beginning of a batch to that of the next by the number of its items: where
    items are rare each is carried out at once, and where they are many they gather.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        size: int,
        gap_after: Callable[[int], float] = lambda items: 0.0,
    ) -> None:
        self._carry_out = carry_out
        self._size = size
        self._gap_after = gap_after
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
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return future

    async def settled(self) -> None:
        """Return when nothing is under way."""
        while self._task is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._task)

    async def _work(self) -> None:
        clock = asyncio.get_running_loop().time
        try:
            while self._waiting:
                if (early := self._next_at - clock()) > 0:
                    await asyncio.sleep(early)
                began = clock()
                batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
                self.gap = self._gap_after(len(batch))
                self._next_at = began + self.gap
                results: Sequence[Result | Exception]
                try:
                    results = await self._carry_out([item for item, _ in batch])
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
