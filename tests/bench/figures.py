"""What is measured of a peer in each round; CPU is the peer's own, from the operating system."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Sequence

from tests.bench.marks import HANDSHAKE, HANDSHAKE_AND_END
from tests.bench.peers.base import Running
from tests.bench.processes import Child
from tests.bench.usage import cpu_seconds, memory

__all__ = ["FIGURES", "IDLE_CPU", "LATENCY", "MEMORY", "MEMORY_SECONDS", "Figure", "Rig", "Scale"]

_KIB = 1 << 10
_MICRO = 1e6
# For a peer to finish what is behind an answer: lines of a log, timers, freed memory.
_SETTLE = 0.5
# The same behind the end of sockets, which their clients have seen.
_END_SETTLE = 0.05
MEMORY_SECONDS = 3
"""How old the tunnels are when memory is read: heartbeats of half of it have left what they leave."""
_LISTENERS = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of each is done."""

    rounds: int = 5
    seconds: float = 1.5
    """Of messages in each round."""
    handshakes: int = 400
    """Sockets of each round that are opened and closed."""
    tunnels: int = 5000
    """Open and idle, for the memory."""
    idle: int = 10_000
    """Open and idle, for the CPU of heartbeats."""
    heartbeat: int = 20
    """Seconds between two of a hop."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rig:
    """Both ends."""

    load: Child
    backend: Child
    cores: Collection[int]
    """Where all of it runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """Rows of the table that are measured together."""

    rows: tuple[str, ...]
    unit: str
    measure: Callable[[Rig, Running, Scale], Awaitable[Sequence[float]]]
    rounds: int = 1
    """Times those of the scale: more where a round is short, and others' collections of garbage fall into some."""

    def has(self, wanted: str) -> bool:
        """Whether a row's name holds this."""
        return any(wanted in row for row in self.rows)


def _round_trips(size: int, connections: int) -> Callable[[Rig, Running, Scale], Awaitable[Sequence[float]]]:
    async def measure(rig: Rig, peer: Running, scale: Scale) -> Sequence[float]:
        await rig.load.ask("open", port=peer.port, count=connections)
        await rig.load.ask("round_trips", size=size, seconds=scale.seconds / 10)
        before = cpu_seconds(peer.pid)
        count = await rig.load.ask("round_trips", size=size, seconds=scale.seconds)
        took = cpu_seconds(peer.pid) - before
        await rig.load.ask("close")
        return [took / count * _MICRO]

    return measure


async def _stream(rig: Rig, peer: Running, scale: Scale) -> Sequence[float]:
    await rig.load.ask("open", port=peer.port, count=_LISTENERS)
    before = cpu_seconds(peer.pid)
    count = await rig.load.ask("listen", seconds=scale.seconds)
    took = cpu_seconds(peer.pid) - before
    await rig.load.ask("close")
    return [took / count * _MICRO]


async def _handshakes(rig: Rig, peer: Running, scale: Scale) -> Sequence[float]:
    """From accept to 101, with the peer's own connection to the backend; and with the end of both connections."""
    before = cpu_seconds(peer.pid)
    await rig.load.ask("open", port=peer.port, count=scale.handshakes)
    opened = cpu_seconds(peer.pid)
    await rig.load.ask("close")
    await asyncio.sleep(_END_SETTLE)
    closed = cpu_seconds(peer.pid)
    return [(until - before) / scale.handshakes * _MICRO for until in (opened, closed)]


async def _latency(rig: Rig, peer: Running, scale: Scale) -> Sequence[float]:
    """Beside a direct connection in the same moment."""
    arguments = {"seconds": scale.seconds / 2, "size": 128}
    direct = await rig.load.ask("latency", port=rig.backend.port, **arguments)
    relayed = await rig.load.ask("latency", port=peer.port, **arguments)
    return [(there - here) * _MICRO for there, here in zip(relayed, direct, strict=True)]


async def _memory(rig: Rig, peer: Running, scale: Scale) -> Sequence[float]:
    """Of a fresh process: freed memory of earlier connections would be counted for nothing."""
    await rig.load.ask("open", port=peer.port, count=20)
    await asyncio.sleep(_SETTLE)
    before = memory(peer.pid)
    await rig.load.ask("open", port=peer.port, count=scale.tunnels)
    await asyncio.sleep(MEMORY_SECONDS)
    took = memory(peer.pid) - before
    await rig.load.ask("close")
    return [took / scale.tunnels / _KIB]


async def _idle_cpu(rig: Rig, peer: Running, scale: Scale) -> Sequence[float]:
    """Over a whole interval: the sockets were opened in a burst, and so are their Pings."""
    opened = await rig.load.ask("open", port=peer.port, count=scale.idle)
    await asyncio.sleep(_SETTLE)
    before = cpu_seconds(peer.pid)
    await asyncio.sleep(2 * scale.heartbeat)
    took = cpu_seconds(peer.pid) - before
    if (alive := await rig.load.ask("alive")) < opened:
        raise RuntimeError(f"{peer.name} lost {opened - alive} idle sockets")
    await rig.load.ask("close")
    return [took / (2 * scale.heartbeat) * 100]


LATENCY = Figure(("added latency, median", "added latency, 99th percentile"), "us", _latency)
FIGURES = (
    Figure(("CPU per round trip, 128 B, 32 connections",), "us", _round_trips(128, 32)),
    Figure(("CPU per round trip, 16 KiB, 32 connections",), "us", _round_trips(16 * _KIB, 32)),
    Figure(("CPU per round trip, 1 MiB, 4 connections",), "us", _round_trips(_KIB * _KIB, 4)),
    Figure(("CPU per message of a stream, 60 B",), "us", _stream),
    Figure((HANDSHAKE, HANDSHAKE_AND_END), "us", _handshakes, rounds=5),
    LATENCY,
)
MEMORY = Figure(("memory per idle tunnel",), "KiB", _memory)
IDLE_CPU = Figure(("CPU of idle tunnels with heartbeats",), "% of a core", _idle_cpu)
