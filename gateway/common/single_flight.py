"""One call for all that ask at the same time: what a question costs does not grow with those who ask it."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

__all__ = ["SingleFlight"]

T = TypeVar("T")


@dataclasses.dataclass(slots=True)
class _Flight(Generic[T]):
    """A call under way."""

    task: asyncio.Task[T]
    waiting: int = 0


class SingleFlight(Generic[T]):
    """`await flight.result()` calls `call`, or waits for the call that is under way."""

    def __init__(self, call: Callable[[], Awaitable[T]]) -> None:
        self._call = call
        self._flight: _Flight[T] | None = None

    async def result(self) -> T:
        """What the call returns or raises. It is cancelled with the last one that waits for it."""
        flight = self._flight
        if flight is None or flight.task.done():
            flight = self._flight = _Flight(asyncio.ensure_future(self._called()))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                # Those that ask from now on want another answer than that of a call that is being cancelled.
                self._flight = None
                flight.task.cancel()

    async def _called(self) -> T:
        return await self._call()
