"""Two workers beside one."""

import asyncio
import contextlib
import os
import statistics
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.bench.figures import Scale
from tests.bench.peers.base import Running, running
from tests.bench.peers.gateway import gateway
from tests.bench.processes import Child, child, split_cores
from tests.bench.usage import cpu_by_process

__all__ = ["BY_CLOCK", "BY_CPU", "room_for_workers", "workers"]

BY_CLOCK = "two workers: round trips per second, x one"
BY_CPU = "two workers: round trips per CPU second of the busier, x one"

_CONNECTIONS = 64
# Processes on either side of the gateway; each does about as much as a worker.
_LOADS = 3
_CORES = 2 + 2 * _LOADS
# A second or two of a machine that others use, too, says little.
_TURNS = 3


def room_for_workers() -> bool:
    """Whether the load could keep two workers busy here."""
    return (os.cpu_count() or 1) >= _CORES


async def workers(scale: Scale, folder: Path) -> dict[str, float]:
    """What two workers do beside one.

    By CPU on any machine: what it would be by the clock if the workers' CPU were the only limit, which shows
    connections spread badly and workers in each other's way. All of it is on one core, like the rest of `tunnel`: who
    idles between two messages is woken for each, which costs more than the message, and beside one busy worker that
    would be two that are half idle. By the clock, where there are cores for the load, too.

    Raises:
        Missing: the gateway does not start.
    """
    _, core = split_cores()
    ratios = {BY_CPU: await _ratio(scale, folder / "cpu", loads=1, cores=core, by_cpu=True)}
    if room_for_workers():
        ratios[BY_CLOCK] = await _ratio(scale, folder / "clock", loads=_LOADS, cores=(), by_cpu=False)
    return ratios


async def _ratio(scale: Scale, folder: Path, *, loads: int, cores: Collection[int], by_cpu: bool) -> float:
    """In turn, so that what else happens on the machine meets both."""
    async with contextlib.AsyncExitStack() as stack:
        backend = await stack.enter_async_context(child("tests.bench.echo", cores=cores))
        for _ in range(loads - 1):
            await stack.enter_async_context(child("tests.bench.echo", str(backend.port), cores=cores))
        clients = [await stack.enter_async_context(child("tests.bench.load", cores=cores)) for _ in range(loads)]
        peers = [gateway(f"{number}-workers", workers=str(number)) for number in (1, 2)]
        started = [
            await stack.enter_async_context(running(peer, folder / peer.name, backend.port, cores=cores))
            for peer in peers
        ]
        rates: list[list[float]] = [[], []]
        for _ in range(_TURNS):
            for peer, found in zip(started, rates, strict=True):
                found.append(await _rate(clients, peer, scale, by_cpu=by_cpu))
    one, two = map(statistics.median, rates)
    return two / one


async def _rate(loads: Sequence[Child], peer: Running, scale: Scale, *, by_cpu: bool) -> float:
    """Round trips per second, of the clock or of the busiest worker's CPU."""
    share = _CONNECTIONS // len(loads)
    await asyncio.gather(*(load.ask("open", port=peer.port, count=share) for load in loads))
    before = cpu_by_process(peer.pid)
    seconds = scale.seconds * scale.rounds / _TURNS
    counts = await asyncio.gather(*(load.ask("round_trips", size=128, seconds=seconds) for load in loads))
    after = cpu_by_process(peer.pid)
    await asyncio.gather(*(load.ask("close") for load in loads))
    busiest = max(after[pid] - before.get(pid, 0) for pid in after)
    rate: float = sum(counts) / (busiest if by_cpu else seconds)
    return rate
