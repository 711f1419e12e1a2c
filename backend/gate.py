"""A few turns at a time for work that costs memory and time; each client has the next one in rotation."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from moorline.gateway.common.access.rules import client_network
from moorline.gateway.common.rotation import Rotation

__all__ = ["PAGES_AT_ONCE", "Gate"]

#: Pages of history and snapshots that are built at once: each may hold some hundred KiB until it is encoded.
PAGES_AT_ONCE = 8


class Gate:
    """`async with gate.turn(client):` for each piece of work, of which `turns` are done at once."""

    def __init__(self, turns: int) -> None:
        self._free = turns
        self._waiting = Rotation[asyncio.Future[None]]()

    @contextlib.asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it within this block. `client` is an address."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # One host has all the addresses of an IPv6 network.
        self._waiting.append(client_network(client), mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                # It has got the turn and is cancelled before it learns of it.
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            next_one = self._waiting.popleft()
            if not next_one.done():
                next_one.set_result(None)
                return
        self._free += 1
