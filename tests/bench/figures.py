"""What is measured of a peer, each as one number per round; CPU is the peer's own, from the operating system."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from tests.bench.peers import Relaying
from tests.bench.processes import Child
from tests.bench.usage import cpu_seconds, memory

__all__ = ["FIGURES", "Figure", "Scale", "memory_per_tunnel"]

_KIB = 1 << 10
_MICRO = 1e6
# For a peer to finish what is behind an answer: lines of a log, timers, freed memory.
_SETTLE = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of each is done."""

    rounds: int = 5
    seconds: float = 2.0
    """Of messages in each round."""
    handshakes: int = 500
    tunnels: int = 5000
    """Open and idle, for the memory."""


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    unit: str
    measure: Callable[[Child, Relaying, Scale], Awaitable[float]]


def _round_trips(size: int, connections: int) -> Callable[[Child, Relaying, Scale], Awaitable[float]]:
    async def measure(load: Child, peer: Relaying, scale: Scale) -> float:
        await load.ask("open", port=peer.port, count=connections)
        await load.ask("round_trips", size=size, seconds=scale.seconds / 10)
        before = cpu_seconds(peer.pid)
        count: int = await load.ask("round_trips", size=size, seconds=scale.seconds)
        took = cpu_seconds(peer.pid) - before
        await load.ask("close")
        return took / count * _MICRO

    return measure


async def _stream(load: Child, peer: Relaying, scale: Scale) -> float:
    await load.ask("open", port=peer.port, count=100)
    before = cpu_seconds(peer.pid)
    count: int = await load.ask("listen", seconds=scale.seconds)
    took = cpu_seconds(peer.pid) - before
    await load.ask("close")
    return took / count * _MICRO


async def _handshake(load: Child, peer: Relaying, scale: Scale) -> float:
    before = cpu_seconds(peer.pid)
    await load.ask("open", port=peer.port, count=scale.handshakes)
    took = cpu_seconds(peer.pid) - before
    await load.ask("close")
    return took / scale.handshakes * _MICRO


async def memory_per_tunnel(load: Child, peer: Relaying, scale: Scale) -> float:
    """Of a fresh process: freed memory of earlier connections would be counted for nothing."""
    await load.ask("open", port=peer.port, count=20)
    await asyncio.sleep(_SETTLE)
    before = memory(peer.pid)
    await load.ask("open", port=peer.port, count=scale.tunnels)
    await asyncio.sleep(_SETTLE)
    took = memory(peer.pid) - before
    await load.ask("close")
    return took / scale.tunnels / _KIB


FIGURES = (
    Figure("CPU per round trip, 128 B, 32 connections", "us", _round_trips(128, 32)),
    Figure("CPU per round trip, 16 KiB, 32 connections", "us", _round_trips(16 * _KIB, 32)),
    Figure("CPU per round trip, 1 MiB, 4 connections", "us", _round_trips(_KIB * _KIB, 4)),
    Figure("CPU per message of a stream, 60 B", "us", _stream),
    Figure("CPU per handshake", "us", _handshake),
)
