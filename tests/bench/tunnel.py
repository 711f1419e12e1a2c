"""What a tunnel costs, beside other programs that relay WebSockets: `python -m tests.bench tunnel [--quick]`.

All run on one machine at the same time and are measured in turn, round after round, so that what else happens there
meets each of them; the medians are printed. CPU and memory are the operating system's count for the peer's processes,
never the clock's.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.bench.figures import FIGURES, Scale, memory_per_tunnel
from tests.bench.peers import PEERS, Missing, Peer, Relaying, relaying
from tests.bench.processes import Child, child, raise_file_limit
from tests.bench.table import table

__all__ = ["Results", "main", "measure"]

QUICK = Scale(rounds=1, seconds=0.5, handshakes=100, tunnels=500)
_MEMORY = "memory per idle tunnel"


@dataclasses.dataclass(slots=True)
class Results:
    """Medians by figure and peer, and who could not be measured."""

    medians: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, name: str, unit: str, rounds: dict[str, list[float]]) -> None:
        self.medians[name] = {peer: statistics.median(values) for peer, values in rounds.items()}
        self.units[name] = unit


async def measure(scale: Scale, peers: Sequence[Peer] = PEERS) -> Results:
    """Every figure of every peer that is here."""
    results = Results()
    raise_file_limit(1 << 16)
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        async with child("tests.bench.echo") as backend, child("tests.bench.load") as load:
            async with _all_relaying(peers, folder, backend, results) as at_work:
                for figure in FIGURES:
                    rounds: dict[str, list[float]] = {peer.name: [] for peer in at_work}
                    for _ in range(scale.rounds):
                        for peer in at_work:
                            rounds[peer.name].append(await figure.measure(load, peer, scale))
                    results.add(figure.name, figure.unit, rounds)
            memories = {}
            for candidate in (peer for peer in peers if peer.name not in results.missing):
                async with relaying(candidate, folder / f"{candidate.name}-memory", backend.port) as peer:
                    memories[peer.name] = [await memory_per_tunnel(load, peer, scale)]
            results.add(f"{_MEMORY}, {scale.tunnels} open", "KiB", memories)
    return results


@contextlib.asynccontextmanager
async def _all_relaying(
    peers: Sequence[Peer], folder: Path, backend: Child, results: Results
) -> AsyncIterator[list[Relaying]]:
    async with contextlib.AsyncExitStack() as stack:
        started = []
        for peer in peers:
            try:
                started.append(await stack.enter_async_context(relaying(peer, folder / peer.name, backend.port)))
            except Missing as missing:
                results.missing[peer.name] = str(missing)
        yield started


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench tunnel", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what is it worth")
    parser.add_argument("--peers", default="", help="only these, comma-separated")
    given = parser.parse_args(arguments)
    wanted = [peer for peer in PEERS if not given.peers or peer.name in given.peers.split(",")]
    results = asyncio.run(measure(QUICK if given.quick else Scale(), wanted))
    print(table(results.medians, results.units, against="nginx"))
    for name, remedy in results.missing.items():
        print(f"missing: {name} ({remedy})")
    return 0
