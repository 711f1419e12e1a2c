"""What a tunnel costs, beside other programs that relay WebSockets: `python -m tests.bench tunnel [--quick]`.

All are at work at the same time and are measured in turn, round after round, so that what else happens on the machine
meets each of them; the medians are printed. CPU and memory are the operating system's count for the peer's processes,
never the clock's. Peers and both ends of the sockets share one core: to wake a process on another one costs more than
a relay does, most of all in a virtual machine, and would be most of what is measured.
"""

import argparse
import asyncio
import dataclasses
import functools
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.figures import FIGURES, IDLE_CPU, MEMORY, MEMORY_SECONDS, Figure, Rig, Scale
from tests.bench.marks import MARKS, marks_table
from tests.bench.peers import PEERS
from tests.bench.peers.base import Missing, Peer, Running, connections, running
from tests.bench.peers.gateway import with_heartbeats
from tests.bench.processes import child, raise_file_limit, split_cores
from tests.bench.rounds import Results, all_running, in_turn, ratios
from tests.bench.table import table
from tests.bench.workers import room_for_workers, workers

__all__ = ["main", "measure"]

QUICK = Scale(rounds=1, seconds=0.5, handshakes=300, tunnels=500, idle=500, heartbeat=2)
_FILES = 1 << 16


async def measure(scale: Scale, peers: Sequence[Peer] = PEERS, wanted: str = "") -> Results:
    """Every figure of every peer that is here, or those whose name holds `wanted`."""
    results = Results()
    raise_file_limit(_FILES)
    if (most := connections()) < max(scale.idle, scale.tunnels):
        results.missing[f"more than {most} tunnels"] = "the limit on open files; see ulimit -Hn"
        scale = dataclasses.replace(scale, idle=min(scale.idle, most), tunnels=min(scale.tunnels, most))
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        _, core = split_cores()
        async with child("tests.bench.echo", cores=core) as backend, child("tests.bench.load", cores=core) as load:
            rig = Rig(load, backend, core)
            async with all_running(peers, folder, backend.port, results, cores=core) as started:
                for figure in (figure for figure in FIGURES if figure.has(wanted)):
                    of_peer = functools.partial(_measure, figure, rig, scale)
                    rounds = scale.rounds * figure.rounds
                    await in_turn(figure.rows, figure.unit, started, of_peer, results, rounds=rounds)
            for peer in (peer for peer in peers if MEMORY.has(wanted) and peer.name not in results.missing):
                beating = with_heartbeats(MEMORY_SECONDS // 2) if peer.name == "gateway" else peer
                await _alone(MEMORY, beating, folder / f"{peer.name}-memory", rig, scale, results)
            if IDLE_CPU.has(wanted):
                await _alone(IDLE_CPU, with_heartbeats(scale.heartbeat), folder / "idle", rig, scale, results)
        if not wanted:
            await _workers(folder, scale, results)
    return results


async def _measure(figure: Figure, rig: Rig, scale: Scale, peer: Running) -> Sequence[float]:
    return await figure.measure(rig, peer, scale)


async def _alone(figure: Figure, peer: Peer, folder: Path, rig: Rig, scale: Scale, results: Results) -> None:
    """With a process of its own, which has done nothing else before."""
    print(f"measuring: {figure.rows[0]} of {peer.name}", file=sys.stderr)
    try:
        async with running(peer, folder, rig.backend.port, cores=rig.cores) as started:
            results.add(figure.rows, figure.unit, peer.name, [await figure.measure(rig, started, scale)])
    except Missing as missing:
        results.missing[f"{figure.rows[0]} of {peer.name}"] = str(missing)


async def _workers(folder: Path, scale: Scale, results: Results) -> None:
    try:
        ratios = await workers(scale, folder)
    except Missing as missing:
        results.missing["two workers"] = str(missing)
        return
    for row, ratio in ratios.items():
        results.medians[row] = {"gateway": ratio}
        results.units[row] = ""
    if not room_for_workers():
        results.missing["two workers by the clock"] = f"{os.cpu_count()} cores leave no room for the load beside them"


def main(arguments: Sequence[str]) -> int:
    given = _arguments(arguments)
    scale = QUICK if given.quick else Scale()
    chosen = {name: value for name in ("rounds", "tunnels", "idle") if (value := getattr(given, name))}
    wanted = [peer for peer in PEERS if not given.peers or peer.name in given.peers.split(",")]
    results = asyncio.run(measure(dataclasses.replace(scale, **chosen), wanted, given.figures))
    print(table(results.medians, results.units, against="nginx"))
    print("\nthe gateway beside each, median of the rounds and quartiles\n" + ratios(results, "gateway"))
    print("\n" + marks_table(results.medians, [mark for mark in MARKS if given.figures in mark.row]))
    for name, reason in results.missing.items():
        print(f"not measured: {name} ({reason})")
    return 0


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench tunnel", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what is it worth")
    parser.add_argument("--peers", default="", help=f"only these, comma-separated: {', '.join(p.name for p in PEERS)}")
    parser.add_argument("--figures", default="", help="only those whose name holds this: handshake, round trip, memory")
    parser.add_argument("--rounds", type=int, help=f"of each figure (default: {Scale().rounds})")
    parser.add_argument("--tunnels", type=int, help=f"open for the memory (default: {Scale().tunnels})")
    parser.add_argument("--idle", type=int, help=f"open for the CPU of heartbeats (default: {Scale().idle})")
    return parser.parse_args(arguments)
