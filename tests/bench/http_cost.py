"""What an HTTP request costs, beside other servers: `python -m tests.bench http [--quick]`.

As in `tunnel`, all run at the same time on one core and are measured in turn, and CPU is the operating system's count
for the peer's processes. Requests come one after the other on each of some keep-alive connections. The gateway,
nginx and `aiohttp logged` write access logs, each to a file.
"""

import argparse
import asyncio
import dataclasses
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.marks import API_LARGE, API_SMALL, ASSET, HTTP_MARKS, NO_WORK, marks_table
from tests.bench.peers import HTTP_PEERS
from tests.bench.peers.base import SITE, Peer, Running
from tests.bench.processes import Child, child, raise_file_limit, split_cores
from tests.bench.rounds import Results, all_running, in_turn
from tests.bench.table import number, table
from tests.bench.usage import cpu_seconds

__all__ = ["FIGURES", "Figure", "Scale", "main", "measure"]

_KIB = 1 << 10
_MICRO = 1e6
_FILES = 1 << 12
_GATEWAY, _UNLOGGED = "gateway", "gateway unlogged"
_PROXIES = (_GATEWAY, "nginx", "caddy", "http-proxy-3", "http-proxy-3 unpooled", "aiohttp proxy")
_SERVERS = (_GATEWAY, "nginx", "caddy", "sirv")
_LOGGING = (_GATEWAY, _UNLOGGED, "aiohttp logged", "aiohttp")
_HEALTHZ_SIZE = len('{"status": "ok"}')


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of each is done."""

    rounds: int = 7
    each: int = 40
    """Requests of a connection in each round."""
    warm_up: int = 60
    """Requests of a connection before the first round: code is compiled, connections are opened."""


QUICK = Scale(rounds=3, each=10, warm_up=40)


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table: what is asked of whom."""

    row: str
    peers: Sequence[str]
    path: str
    size: int
    """Of the response's body."""
    against: str
    """The peer whose ratio the table has."""
    connections: int = 32
    body: int = 0
    """Of the request; more than none makes it a POST."""


FIGURES = (
    Figure(API_SMALL, _PROXIES, "/api/400", 400, "http-proxy-3"),
    Figure(API_LARGE, _PROXIES, f"/api/{64 * _KIB}", 64 * _KIB, "http-proxy-3"),
    Figure("POST /api, 4 KiB", _PROXIES, "/api/400", 400, "http-proxy-3", body=4 * _KIB),
    Figure(ASSET, _SERVERS, "/small.js", 4 * _KIB, "sirv"),
    Figure("asset, 1 MiB", _SERVERS, "/large.bin", _KIB * _KIB, "sirv", connections=4),
    Figure(NO_WORK, _LOGGING, "/healthz", _HEALTHZ_SIZE, "aiohttp"),
)


async def measure(scale: Scale, peers: Sequence[Peer] = HTTP_PEERS) -> Results:
    """Every figure of every peer that is here."""
    results = Results()
    raise_file_limit(_FILES)
    _, core = split_cores()
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        _write_site(folder / SITE.name)
        async with (
            child("tests.bench.http_responder", cores=core) as upstream,
            child("tests.bench.http_load", cores=core) as load,
            all_running(peers, folder, upstream.port, results, cores=core) as started,
        ):
            for figure in FIGURES:
                asked = [peer for peer in started if peer.name in figure.peers]
                for peer in asked:
                    await _cost(figure, load, scale.warm_up, peer)
                of_peer = functools.partial(_cost, figure, load, scale.each)
                await in_turn([figure.row], "us", asked, of_peer, results, rounds=scale.rounds)
    return results


def _write_site(folder: Path) -> None:
    folder.mkdir()
    (folder / "index.html").write_text("<title>index</title>", encoding="utf-8")
    (folder / "small.js").write_bytes(b"x" * 4 * _KIB)
    (folder / "large.bin").write_bytes(b"x" * _KIB * _KIB)


async def _cost(figure: Figure, load: Child, each: int, peer: Running) -> Sequence[float]:
    await load.ask("open", port=peer.port, count=figure.connections)
    before = cpu_seconds(peer.pid)
    count = await load.ask("requests", path=figure.path, size=figure.size, body=figure.body, each=each)
    took = cpu_seconds(peer.pid) - before
    await load.ask("close")
    return [took / count * _MICRO]


def main(arguments: Sequence[str]) -> int:
    given = _arguments(arguments)
    wanted = [peer for peer in HTTP_PEERS if not given.peers or peer.name in given.peers.split(",")]
    results = asyncio.run(measure(QUICK if given.quick else Scale(), wanted))
    for against in dict.fromkeys(figure.against for figure in FIGURES):
        rows = [figure.row for figure in FIGURES if figure.against == against and figure.row in results.medians]
        if rows:
            print(table({row: results.medians[row] for row in rows}, results.units, against=against), end="\n\n")
    for line in _log_shares(results):
        print(line)
    print("\n" + marks_table(results.medians, HTTP_MARKS))
    for name, reason in results.missing.items():
        print(f"not measured: {name} ({reason})")
    return 0


def _log_shares(results: Results) -> list[str]:
    """What the access log is of a request that does nothing else."""
    values = results.medians.get(NO_WORK, {})
    pairs = [(_GATEWAY, _UNLOGGED), ("aiohttp logged", "aiohttp")]
    return [
        f"access log of {logged}: {number(values[logged] - values[unlogged])} us, "
        f"{(1 - values[unlogged] / values[logged]) * 100:.0f} % of a request"
        for logged, unlogged in pairs
        if logged in values and unlogged in values
    ]


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench http", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what is it worth")
    names = ", ".join(peer.name for peer in HTTP_PEERS)
    parser.add_argument("--peers", default="", help=f"only these, comma-separated: {names}")
    return parser.parse_args(arguments)
