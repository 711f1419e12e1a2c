"""Clients that come back all at once, as after a restart: `python -m tests.bench reconnect [--quick]`.

Every client dials in the same moment and waits for its 101; one that is turned away dials again. What is printed: the
time until all are in, the median and the 99th percentile of a handshake from its dial on, and the CPU of the peer's
processes for each. As in `tunnel`, all share one core and are measured in turn. Where a process may not have as many
files as the clients need, the gateway gets more workers, and peers that are one process are left out.
"""

import argparse
import asyncio
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.marks import RECONNECT_CPU, RECONNECT_MARKS, marks_table
from tests.bench.peers.base import Peer, Running, connections, workers_for
from tests.bench.peers.caddy import CADDY
from tests.bench.peers.gateway import gateway
from tests.bench.peers.nginx import NGINX
from tests.bench.processes import Child, child, raise_file_limit, split_cores
from tests.bench.rounds import Results, all_running, in_turn
from tests.bench.table import table
from tests.bench.usage import cpu_seconds

__all__ = ["PEERS", "Scale", "main", "measure"]

PEERS: tuple[Peer, ...] = (gateway(max_connections_per_address="off"), NGINX, CADDY)
_ROWS = (
    "all are in",
    "handshake, median",
    "handshake, 99th percentile",
    "turned away, and dialled again",
    RECONNECT_CPU,
)
_UNITS = ("ms", "ms", "ms", "", "us")
_FILES = 1 << 16
_MILLI, _MICRO = 1e3, 1e6


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of it is done."""

    clients: int = 10_000
    rounds: int = 3


QUICK = Scale(clients=300, rounds=1)


async def measure(scale: Scale, peers: Sequence[Peer] = PEERS) -> Results:
    """Every peer that is here."""
    results = Results()
    raise_file_limit(_FILES)
    if (most := connections()) < scale.clients:
        results.missing |= {
            peer.name: f"one process has files for {most} clients; see ulimit -Hn" for peer in peers[1:]
        }
        workers = str(workers_for(scale.clients))
        peers = [gateway(max_connections_per_address="off", max_connections=str(2 * scale.clients), workers=workers)]
    _, core = split_cores()
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        async with (
            child("tests.bench.echo", cores=core) as backend,
            child("tests.bench.load", cores=core) as load,
            all_running(peers, Path(name), backend.port, results, cores=core) as started,
        ):

            async def of_peer(peer: Running) -> Sequence[float]:
                return await _return(load, peer, scale.clients)

            await in_turn(_ROWS, "", started, of_peer, results, rounds=scale.rounds)
    results.units.update(zip(_ROWS, _UNITS, strict=True))
    return results


async def _return(load: Child, peer: Running, clients: int) -> Sequence[float]:
    before = cpu_seconds(peer.pid)
    *seconds, turned_away = await load.ask("come_back", port=peer.port, count=clients)
    took = cpu_seconds(peer.pid) - before
    await load.ask("close")
    return [*(each * _MILLI for each in seconds), turned_away, took / clients * _MICRO]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench reconnect", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what is it worth")
    parser.add_argument("--clients", type=int, help=f"that come back (default: {Scale().clients})")
    given = parser.parse_args(arguments)
    scale = QUICK if given.quick else Scale()
    results = asyncio.run(measure(dataclasses.replace(scale, clients=given.clients or scale.clients)))
    print(table(results.medians, results.units, against="caddy"))
    print("\n" + marks_table(results.medians, RECONNECT_MARKS))
    for name, reason in results.missing.items():
        print(f"not measured: {name} ({reason})")
    return 0
