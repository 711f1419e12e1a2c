"""Peers that run at the same time and are measured in turn, round after round; the medians, and how rounds differ."""

import contextlib
import dataclasses
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path

from tests.bench.peers.base import Missing, Peer, Running, running
from tests.bench.table import columns

__all__ = ["Results", "all_running", "in_turn", "ratios"]

# With less there are no quartiles.
_FEWEST = 3


@dataclasses.dataclass(slots=True)
class Results:
    """Medians by row and peer, and what could not be measured."""

    medians: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)
    rounds: dict[str, dict[str, Sequence[float]]] = dataclasses.field(default_factory=dict)
    """What the medians are of."""

    def add(self, rows: Sequence[str], unit: str, peer: str, rounds: Sequence[Sequence[float]]) -> None:
        for row, values in zip(rows, zip(*rounds, strict=True), strict=True):
            self.medians.setdefault(row, {})[peer] = statistics.median(values)
            self.rounds.setdefault(row, {})[peer] = values
            self.units[row] = unit

    def ratio(self, row: str, peer: str, against: str) -> tuple[float, float, float] | None:
        """The quartiles of one peer's figure beside another's of the same round; None where there are few rounds.

        What slows a machine down for a while slows both, so that this differs less than the figures themselves.
        """
        both = [self.rounds.get(row, {}).get(name, ()) for name in (peer, against)]
        ratios = [one / other for one, other in zip(*both, strict=False) if other > 0]
        if len(ratios) < _FEWEST:
            return None
        low, middle, high = statistics.quantiles(ratios, n=4)
        return low, middle, high


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
    """What else happens on the machine meets each peer, since all have their turn in each round, each time behind
    another one.
    """
    print(f"measuring: {rows[0]}", file=sys.stderr)
    found: dict[str, list[Sequence[float]]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        first = number % max(1, len(peers))
        for peer in (*peers[first:], *peers[:first]):
            found[peer.name].append(await measure(peer))
    for name, values in found.items():
        results.add(rows, unit, name, values)


def ratios(results: Results, subject: str) -> str:
    """A table: of each row the subject beside each other peer, the median of the rounds and their quartiles."""
    others = [
        name for name in dict.fromkeys(name for row in results.rounds.values() for name in row) if name != subject
    ]
    rows = [["", *others]]
    for row in results.rounds:
        found = [results.ratio(row, subject, other) for other in others]
        if any(found):
            rows.append([row, *("-" if ratio is None else _shown(*ratio) for ratio in found)])
    return columns(rows, left=1)


def _shown(low: float, middle: float, high: float) -> str:
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
