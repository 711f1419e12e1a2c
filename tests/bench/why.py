"""What it costs to know why a socket ended: `python -m tests.bench why [--quick]`.

The gateway is measured beside itself without causes (`causeless.py`), with the option `faults` on and none armed, and
beside a second process of its own without causes, which shows what two equal processes differ by. What is looked for is
smaller than what the machine does meanwhile. So rounds are short, each meets all of them in turn, in an order that
turns round, and what counts is the quotient of two that were measured in the same round; and since a process differs
from its twin by where its memory happens to lie, all of them are started anew several times. The median of the
quotients is printed with its quartiles. Then what the inspector costs while 1,000 sockets are open, closed and open.
Memory is what an open socket holds so that its end can be named, by Python's own count.
"""

import argparse
import asyncio
import dataclasses
import os
import statistics
import struct
import sys
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from moorline.gateway.proxy.sockets import Socket
from tests.bench.figures import FIGURES, Rig, Scale
from tests.bench.marks import CAUSE_MEMORY, WHY_MARKS, WHY_ROUND_TRIP, marks_table
from tests.bench.peers.base import Peer, Running, connections, running
from tests.bench.peers.gateway import gateway
from tests.bench.processes import child, raise_file_limit, split_cores
from tests.bench.rounds import Results, all_running
from tests.bench.table import columns, number
from tests.bench.usage import cpu_seconds

__all__ = ["main", "measure"]

_LIFE = "CPU of a socket's life: handshake, end"
_CLOSED, _OPEN = "CPU of 1,000 sockets, inspector closed", "CPU of 1,000 sockets, inspector open"
_FIRST = "the inspector's first event with 1,000 sockets"
_AGAINST = "without causes"
_QUOTIENT = f"x {_AGAINST}"
_SOCKETS = 1000
_COUNTED = 10_000
_MICRO, _MILLI = 1e6, 1e3
_FILES = 1 << 14
_SCALE = Scale(rounds=16, seconds=0.25, handshakes=50)
_STARTS = 3
_LOOKS = 5
QUICK = Scale(rounds=2, seconds=0.2, handshakes=50)

Measure = Callable[[Running], Awaitable[float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Quotients:
    """Of one peer and one figure, a number for each round."""

    row: str
    peer: str
    values: list[float]

    def __str__(self) -> str:
        low, middle, high = statistics.quantiles(self.values, n=4)
        return f"{self.row}, {self.peer}: {middle:.3f} {_QUOTIENT} (quartiles {low:.3f} and {high:.3f})"


async def measure(scale: Scale, starts: int = 1) -> tuple[Results, list[Quotients]]:
    """Every figure."""
    results, quotients = Results(), dict[tuple[str, str], Quotients]()
    raise_file_limit(_FILES)
    _, core = split_cores()
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        async with child("tests.bench.echo", cores=core) as backend, child("tests.bench.load", cores=core) as load:
            rig = Rig(load, backend, core)
            figures = _figures(rig, scale)
            peers = (gateway(), _causeless(_AGAINST), _causeless("the same again"), _with_faults())
            for start in range(starts):
                own = folder / str(start)
                async with all_running(peers, own, backend.port, results, cores=core) as started:
                    for row, figure in figures.items():
                        await _compare(row, started, figure, quotients, rounds=scale.rounds)
            alone = gateway("inspected", max_connections_per_address="off")
            async with running(alone, folder / "inspected", backend.port, cores=core) as peer:
                await _inspector(rig, peer, scale, results)
    for each in quotients.values():
        results.add([each.row], _QUOTIENT, each.peer, [[value] for value in each.values])
    results.add([CAUSE_MEMORY], "B", "gateway", [[_memory()]])
    return results, list(quotients.values())


def _figures(rig: Rig, scale: Scale) -> dict[str, Measure]:
    async def round_trip(peer: Running) -> float:
        return (await FIGURES[0].measure(rig, peer, scale))[0]

    async def life(peer: Running) -> float:
        before = cpu_seconds(peer.pid)
        await rig.load.ask("open", port=peer.port, count=scale.handshakes)
        await rig.load.ask("close")
        return (cpu_seconds(peer.pid) - before) / scale.handshakes * _MICRO

    return {WHY_ROUND_TRIP: round_trip, _LIFE: life}


async def _compare(
    row: str, peers: Sequence[Running], measure: Measure, found: dict[tuple[str, str], Quotients], *, rounds: int
) -> None:
    """Each round in turn, and back in the next, so that what slows down or speeds up meets all alike."""
    print(f"measuring: {row}", file=sys.stderr)
    for turn in range(rounds):
        taken = {peer.name: await measure(peer) for peer in (peers if turn % 2 else peers[::-1])}
        against = taken.pop(_AGAINST)
        for name, value in taken.items():
            found.setdefault((row, name), Quotients(row, name, [])).values.append(value / against)


def _causeless(name: str) -> Peer:
    """The gateway of `causeless.py`, with the same options."""
    return _changed(name, lambda own: [sys.executable, "-m", "tests.bench.causeless", *own[3:]])


def _with_faults() -> Peer:
    return _changed("with faults", lambda own: [*own, "--faults"])


def _changed(name: str, change: Callable[[Sequence[str]], Sequence[str]]) -> Peer:
    plain = gateway()

    async def command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
        # python -m moorline gateway OPTIONS
        return change(await plain.command(folder, port, backend_port))

    return dataclasses.replace(plain, name=name, command=command)


async def _inspector(rig: Rig, peer: Running, scale: Scale, results: Results) -> None:
    count = min(_SOCKETS, connections())
    await rig.load.ask("open", port=peer.port, count=count)
    seconds = 4 * scale.seconds
    rounds: list[tuple[float, float, float]] = []
    for _ in range(min(scale.rounds, _LOOKS)):
        closed = await _cpu(peer, seconds)
        async with _viewer(peer) as first:
            rounds.append((closed, await _cpu(peer, seconds), first * _MILLI))
    results.add([_CLOSED, _OPEN], "ms per s", "gateway", [each[:2] for each in rounds])
    results.add([_FIRST], "ms", "gateway", [each[2:] for each in rounds])
    await rig.load.ask("close")


async def _cpu(peer: Running, seconds: float) -> float:
    """Milliseconds of CPU in a second."""
    before = cpu_seconds(peer.pid)
    await asyncio.sleep(seconds)
    return (cpu_seconds(peer.pid) - before) / seconds * _MILLI


@asynccontextmanager
async def _viewer(peer: Running) -> AsyncIterator[float]:
    """One that reads all the time; seconds until it has seen all sockets."""
    began = time.monotonic()
    url = f"http://127.0.0.1:{peer.port}/-/moorline/events"
    async with aiohttp.ClientSession(read_bufsize=1 << 22) as http, http.get(url) as response:
        await response.content.readline()
        seconds = time.monotonic() - began
        reading = asyncio.create_task(_read(response))
        try:
            yield seconds
        finally:
            reading.cancel()


async def _read(response: aiohttp.ClientResponse) -> None:
    async for _ in response.content.iter_any():
        pass


def _memory() -> float:
    """Bytes of what is kept of an open socket for its end alone; its route and upstream are shared by all.

    With a reference to whether its 101 was the answer to its key.
    """
    kept: list[Socket] = []
    tracemalloc.start()
    for opened in range(_COUNTED):
        kept.append(Socket(os.urandom(16).hex(), "/ws", "127.0.0.1", "http://127.0.0.1:8000", float(opened)))
    took = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return took / len(kept) + struct.calcsize("P")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench why", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what is it worth")
    quick = parser.parse_args(arguments).quick
    results, quotients = asyncio.run(measure(QUICK) if quick else measure(_SCALE, _STARTS))
    print("\n".join(map(str, quotients)))
    others = {row: values for row, values in results.medians.items() if results.units[row] != _QUOTIENT}
    print(
        "\n" + columns([[row, results.units[row], number(values["gateway"])] for row, values in others.items()], left=2)
    )
    print("\n" + marks_table(results.medians, WHY_MARKS))
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, reason in results.missing.items():
        print(f"not measured: {name} ({reason})")
    return 0
