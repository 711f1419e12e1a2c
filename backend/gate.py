"""A few turns at a time for work that costs memory and time, shared fairly: each client has the next one in rotation.

In one queue for all, a client that asks for hundreds of pages at once would keep the others waiting for all of them.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

__all__ = ["Gate"]


class Gate:
    """`async with gate.turn(client):` for each piece of work, of which `turns` are done at once."""

    def __init__(self, turns: int) -> None:
        self._free = turns
        # By client, the one that is next first. Each has one that waits at least.
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it within this block."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str) -> None:
        mine = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                # It has got the turn and is cancelled before it learns of it.
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            client = next(iter(self._waiting))
            queue = self._waiting.pop(client)
            next_one = queue.popleft()
            if queue:
                # Behind all others.
                self._waiting[client] = queue
            if not next_one.done():
                next_one.set_result(None)
                return
        self._free += 1
