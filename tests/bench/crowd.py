"""More clients than one process of `chatters` would leave the servers time for: several of them, each with a part."""

import asyncio
import contextlib
import dataclasses
import math
import statistics
from collections.abc import AsyncIterator, Sequence
from typing import Any

from tests.bench.processes import Child, child

__all__ = ["Crowd", "Reconnects", "crowd"]

# Of one command to a process that opens sockets: it has a time limit.
_BATCH = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Reconnects:
    """How clients came back after a restart; seconds."""

    last: float
    """From when the last client's time began until all were back."""
    median: float
    """Of a handshake with its hello."""
    p99: float
    turned_away: int
    """How often a client was, and dialled again."""


class Crowd:
    """The clients of several processes."""

    def __init__(self, parts: Sequence[Child]) -> None:
        self._parts = parts

    async def open(self, port: int, sessions: Sequence[str]) -> None:
        """Open these sessions, each process its part of them."""

        async def share(number: int, part: Child) -> None:
            own = sessions[number :: len(self._parts)]
            for begun in range(0, len(own), _BATCH):
                await part.ask("open", port=port, sessions=own[begun : begun + _BATCH], hello=True, again=True)

        await asyncio.gather(*(share(number, part) for number, part in enumerate(self._parts)))

    async def told(self) -> float:
        """See `Chatters.told`."""
        told: float = max(await self._ask("told"))
        return told

    async def come_back_as_told(self, port: int) -> Reconnects:
        """See `Chatters.come_back_as_told`."""
        found = await self._ask("come_back_as_told", port=port)
        handshakes = statistics.quantiles([each for part in found for each in part["handshakes"]], n=100)
        # Of one clock, which all processes have.
        last = max(part["ended"] for part in found) - max(part["began"] for part in found)
        return Reconnects(last, handshakes[49], handshakes[98], sum(part["turned_away"] for part in found))

    async def close(self) -> int:
        """Leave; how many have left."""
        return sum(await self._ask("close"))

    async def _ask(self, command: str, **arguments: Any) -> list[Any]:
        return await asyncio.gather(*(part.ask(command, **arguments) for part in self._parts))


@contextlib.asynccontextmanager
async def crowd(clients: int, *, each: int) -> AsyncIterator[Crowd]:
    """Processes for so many clients, of which one has `each` at most."""
    async with contextlib.AsyncExitStack() as stack:
        parts = [
            await stack.enter_async_context(child("tests.bench.chatters"))
            for _ in range(max(1, math.ceil(clients / each)))
        ]
        yield Crowd(parts)
