"""While one batch is under way the next gathers: the number of statements does not grow with that of callers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from moorline.backend.eventlog.base import LogUnavailable

__all__ = ["Batches"]

#: Items that wait, beyond which the log says that it is unavailable. Each caller awaits its item, so each waits once.
MAX_WAITING = 20_000

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batches(Generic[Item, Answer]):
    """Hands items to `carry_out`, up to `size` at a time; it answers each in its place, with an exception if need be.

    An item once submitted is carried out, whether or not its caller still waits.
    """

    def __init__(
        self, carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], *, size: int
    ) -> None:
        self._carry_out = carry_out
        self._size = size
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, item: Item) -> Answer:
        """The answer to `item`.

        Raises:
            LogUnavailable: too many wait.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise LogUnavailable("too many wait for the database")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return await future

    async def settled(self) -> None:
        """Return when nothing is under way."""
        while self._task is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._task)

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
                answers: Sequence[Answer | Exception]
                try:
                    answers = await self._carry_out([item for item, _ in batch])
                except Exception as error:
                    answers = [error] * len(batch)
                for (_, future), answer in zip(batch, answers, strict=True):
                    if future.done():  # cancelled: the caller went away
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._task = None
