"""How cost grows with what there is: `python -m tests.bench growth [PART ...] [--quick]`.

Each part is a table: what grows in its columns, what it costs in its rows. CPU is the operating system's count for the
processes that are measured; where it grows faster than the work, something is to be mended.
"""

import argparse
import asyncio
import dataclasses
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from tests.bench.figures import Scale as TunnelScale
from tests.bench.growth_log import backends, database, history
from tests.bench.growth_sockets import FIRST, clients, sockets
from tests.bench.processes import raise_file_limit
from tests.bench.table import columns, number
from tests.bench.workers import BY_CPU, workers

__all__ = ["PARTS", "Scale", "main", "measure"]

_FILES = 1 << 16
Rows = Mapping[str, Sequence[float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of each there is."""

    messages: tuple[int, ...] = (10, 1000, 100_000, 1_000_000)
    sockets: tuple[int, ...] = (100, 1000, 10_000, 20_000)
    clients: tuple[int, ...] = (1, 10, 100, 1000)
    backends: tuple[int, ...] = (1, 2, 4)
    repeats: int = 100
    """Of each operation; the mean is printed."""
    seconds: float = 20.0
    """Of idle sockets, and of an answer."""
    tunnels: TunnelScale = dataclasses.field(default_factory=TunnelScale)


QUICK = Scale(
    messages=(10, 1000),
    sockets=(50, 100),
    clients=(1, 10),
    backends=(1, 2),
    repeats=10,
    seconds=2.0,
    tunnels=TunnelScale(rounds=1, seconds=0.5),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """One table."""

    grows: str
    sizes: Callable[[Scale], Sequence[int]]
    measure: Callable[[Path, Sequence[int], Scale], Awaitable[Rows]]


def _of_log(
    work: Callable[..., Awaitable[Rows]], store: str
) -> Callable[[Path, Sequence[int], Scale], Awaitable[Rows]]:
    return lambda folder, sizes, scale: work(store, folder, sizes=sizes, repeats=scale.repeats)


async def _workers(folder: Path, sizes: Sequence[int], scale: Scale) -> Rows:
    ratios = await workers(scale.tunnels, folder)
    return {"round trips per CPU second of the busier, x one": [1.0, ratios[BY_CPU]]}


PARTS: Mapping[str, Part] = {
    "sqlite": Part("messages in the SQLite file", lambda scale: scale.messages, _of_log(database, "sqlite")),
    "postgres": Part("messages in PostgreSQL", lambda scale: scale.messages, _of_log(database, "postgres")),
    "sqlite-history": Part("messages of one session, SQLite", lambda scale: scale.messages, _of_log(history, "sqlite")),
    "postgres-history": Part(
        "messages of one session, PostgreSQL", lambda scale: scale.messages, _of_log(history, "postgres")
    ),
    "backends": Part(
        "backends on one PostgreSQL",
        lambda scale: scale.backends,
        lambda folder, sizes, scale: backends(folder, counts=sizes, repeats=scale.repeats),
    ),
    "clients": Part(
        "clients of one session",
        lambda scale: scale.clients,
        lambda folder, sizes, scale: clients(folder, sizes=sizes, seconds=scale.seconds),
    ),
    "sockets": Part(
        "idle chat sockets",
        lambda scale: scale.sockets,
        lambda folder, sizes, scale: sockets(folder, sizes=sizes, seconds=scale.seconds),
    ),
    "workers": Part("workers of the gateway", lambda scale: (1, 2), _workers),
}


async def measure(name: str, scale: Scale) -> str:
    """The table of one part."""
    raise_file_limit(_FILES)
    part = PARTS[name]
    sizes = part.sizes(scale)
    print(f"measuring: {part.grows}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        rows = await part.measure(Path(folder), sizes, scale)
    cells = [[what, *map(number, values)] for what, values in rows.items()]
    return columns([[part.grows, *map(str, sizes)], *cells], left=1)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench growth", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all without one")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what is it worth")
    parser.add_argument("--sockets", type=_sizes, metavar="N,...", help="how many idle chat sockets, growing")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"{unknown[0]}: there is no such part; there are {', '.join(PARTS)}")
    scale = QUICK if given.quick else Scale()
    if given.sockets:
        scale = dataclasses.replace(scale, sockets=given.sockets)
    for name in given.parts or PARTS:
        print(asyncio.run(measure(name, scale)), flush=True)
        print(flush=True)
    return 0


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(map(int, text.split(",")))
    if sizes != tuple(sorted(set(sizes))) or sizes[0] <= FIRST:
        raise ValueError
    return sizes
