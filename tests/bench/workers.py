"""Two workers beside one."""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import Scale
from tests.bench.peers.base import Relaying, relaying
from tests.bench.peers.gateway import gateway
from tests.bench.processes import Child, child
from tests.bench.usage import cpu_by_process

__all__ = ["BY_CLOCK", "BY_CPU", "room_for_workers", "workers"]

BY_CLOCK = "two workers: round trips per second, x one"
BY_CPU = "two workers: round trips per CPU second of the busier, x one"

_CONNECTIONS = 64
# Processes on either side of the gateway; each does about as much as a worker.
_LOADS = 3
_CORES = 2 + 2 * _LOADS


def room_for_workers() -> bool:
    """Whether the load could keep two workers busy here."""
    return (os.cpu_count() or 1) >= _CORES


async def workers(scale: Scale, folder: Path) -> dict[str, float]:
    """What two workers do beside one.

    By the clock where there are cores for the load, too; by CPU on any machine: that is what it would be by the clock
    if the workers' CPU were the only limit. It shows connections spread badly, and workers in each other's way.

    Raises:
        Missing: the gateway has no workers.
    """
    by_clock: dict[int, float] = {}
    by_cpu: dict[int, float] = {}
    async with contextlib.AsyncExitStack() as stack:
        backend = await stack.enter_async_context(child("tests.bench.echo"))
        loads = [await stack.enter_async_context(child("tests.bench.load"))]
        for _ in range(_LOADS - 1 if room_for_workers() else 0):
            await stack.enter_async_context(child("tests.bench.echo", str(backend.port)))
            loads.append(await stack.enter_async_context(child("tests.bench.load")))
        for number in (1, 2):
            peer = gateway(f"{number}-workers", workers=str(number))
            async with relaying(peer, folder / peer.name, backend.port) as started:
                by_clock[number], by_cpu[number] = await _measure(loads, started, scale)
    ratios = {BY_CPU: by_cpu[2] / by_cpu[1]}
    return ratios | {BY_CLOCK: by_clock[2] / by_clock[1]} if room_for_workers() else ratios


async def _measure(loads: Sequence[Child], peer: Relaying, scale: Scale) -> tuple[float, float]:
    share = _CONNECTIONS // len(loads)
    await asyncio.gather(*(load.ask("open", port=peer.port, count=share) for load in loads))
    before = cpu_by_process(peer.pid)
    seconds = scale.seconds * scale.rounds
    counts = await asyncio.gather(*(load.ask("round_trips", size=128, seconds=seconds) for load in loads))
    after = cpu_by_process(peer.pid)
    await asyncio.gather(*(load.ask("close") for load in loads))
    busiest = max(after[pid] - before.get(pid, 0) for pid in after)
    return sum(counts) / seconds, sum(counts) / busiest
