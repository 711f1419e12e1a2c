"""Peers that run at the same time and are measured in turn, round after round; the medians."""

import contextlib
import dataclasses
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path

from tests.bench.peers.base import Missing, Peer, Running, running

__all__ = ["Results", "all_running", "in_turn"]


@dataclasses.dataclass(slots=True)
class Results:
    """Medians by row and peer, and what could not be measured."""

    medians: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, rows: Sequence[str], unit: str, peer: str, rounds: Sequence[Sequence[float]]) -> None:
        for row, values in zip(rows, zip(*rounds, strict=True), strict=True):
            self.medians.setdefault(row, {})[peer] = statistics.median(values)
            self.units[row] = unit


@contextlib.asynccontextmanager
async def all_running(
    peers: Sequence[Peer], folder: Path, backend_port: int, results: Results, *, cores: Collection[int]
) -> AsyncIterator[list[Running]]:
    """Those that can be had here; `results` say what the others lack."""
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for peer in peers:
            try:
                entered = running(peer, folder / peer.name, backend_port, cores=cores)
                started.append(await stack.enter_async_context(entered))
            except Missing as missing:
                results.missing[peer.name] = str(missing)
        yield started


async def in_turn(
    rows: Sequence[str],
    unit: str,
    peers: Sequence[Running],
    measure: Callable[[Running], Awaitable[Sequence[float]]],
    results: Results,
    *,
    rounds: int,
) -> None:
    """What else happens on the machine meets each peer, since all have their turn in each round."""
    print(f"measuring: {rows[0]}", file=sys.stderr)
    found: dict[str, list[Sequence[float]]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            found[peer.name].append(await measure(peer))
    for name, values in found.items():
        results.add(rows, unit, name, values)
