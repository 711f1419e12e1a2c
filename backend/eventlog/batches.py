"""While one batch is carried out the next one gathers: the number of statements does not grow with the callers."""

import asyncio
import functools
import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar, cast

from moorline.backend.eventlog.base import LogUnavailable

__all__ = ["Batches"]

#: Items that wait, above which the log is unavailable. Each caller awaits its item, so each has one here.
MAX_WAITING = 20_000

Item = TypeVar("Item")
Result = TypeVar("Result")
_Results: TypeAlias = asyncio.Future[Sequence[Result | Exception]]
_CarryOut: TypeAlias = Callable[[Sequence[Item]], _Results[Result]]


class Batches(Generic[Item, Result]):
    """Passes items to `carry_out`, up to `size` at a time; it returns a result or an exception for each, in order.

    A submitted item is carried out, whether or not its caller still waits.

    `gap_after` gives the seconds from the beginning of a batch to that of the next by the number of its items: where
    items are rare each is carried out at once, with those of the same iteration of the event loop, and where they are
    many they gather.

    `separate` is asked where `carry_out` failed for all: it begins to carry the items out one by one, or returns None.

    There is no task: to begin one and to wake it takes longer than the rest of what is done for an item alone.
    """

    def __init__(
        self,
        carry_out: _CarryOut[Item, Result],
        *,
        size: int,
        gap_after: Callable[[int], float] = lambda items: 0.0,
        separate: Callable[[Sequence[Item], BaseException], _Results[Result] | None] = lambda items, error: None,
    ) -> None:
        self._carry_out = carry_out
        self._separate = separate
        self._size = size
        self._gap_after = gap_after
        self._began = self._next_at = -math.inf
        self.gap = 0.0
        """Seconds from the beginning of the last batch to the earliest of the next."""
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._is_busy = False
        # The event loop itself refers to a task weakly.
        self._carrying: _Results[Result] | None = None
        self._settled: asyncio.Future[None] | None = None

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
        if not self._is_busy:
            self._is_busy = True
            self._begin_in_time(loop)
        return future

    async def settled(self) -> None:
        """Return when nothing is under way. One task waits at a time."""
        while self._is_busy:
            self._settled = asyncio.get_running_loop().create_future()
            await self._settled

    def _begin_in_time(self, loop: asyncio.AbstractEventLoop) -> None:
        if (early := self._next_at - loop.time()) > 0:
            loop.call_later(early, self._begin, loop)
        else:
            loop.call_soon(self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._began = loop.time()
        batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        self._await(self._carry_out([item for item, _ in batch]), loop, batch)

    def _await(
        self,
        carrying: _Results[Result],
        loop: asyncio.AbstractEventLoop,
        batch: "Sequence[tuple[Item, asyncio.Future[Result]]]",
    ) -> None:
        self._carrying = carrying
        carrying.add_done_callback(functools.partial(self._carried_out, loop, batch))

    def _carried_out(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: "Sequence[tuple[Item, asyncio.Future[Result]]]",
        carrying: _Results[Result],
    ) -> None:
        self._carrying = None
        failed = LogUnavailable("the log is closed") if carrying.cancelled() else carrying.exception()
        results: Sequence[Result | Exception]
        if failed is None:
            results = carrying.result()
        elif (one_by_one := self._separate([item for item, _ in batch], failed)) is not None:
            self._await(one_by_one, loop, batch)
            return
        else:
            results = [cast("Exception", failed)] * len(batch)
        self.gap = self._gap_after(len(batch))
        self._next_at = self._began + self.gap
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():  # its caller was cancelled
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if self._waiting:
            self._begin_in_time(loop)
            return
        self._is_busy = False
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
