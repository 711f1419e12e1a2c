"""What a chat costs, beside the server that people write today: `python -m tests.bench chat [--quick] [--part stages]`.

The provider is a local server whose tokens carry the time at which they were written. CPU and memory are the operating
system's count for the server's process, which has a core of its own where there are several.
"""

import argparse
import asyncio
import dataclasses
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.chat_servers import ChatServer, moorline, plain
from tests.bench.processes import Child, child, raise_file_limit, split_cores
from tests.bench.sessions import opening, resume
from tests.bench.stages import stages
from tests.bench.streams import Streams, streams
from tests.bench.table import columns, number
from tests.bench.usage import memory

__all__ = ["Results", "Scale", "main", "measure"]

_FILES = 1 << 16
# The marks: seconds of the median of a single answer, CPU of a token beside the plain server's, and seconds of the 99th
# percentile, each with so many answers at once.
_MEDIAN, _SINGLE = 0.002, 1
_CPU, _CPU_AT = 0.5, 100
_P99, _P99_AT = 0.25, 500
# Answers at once, of which the stages are printed.
_STAGED, _STAGED_QUICK = (1, 100, 500), (1,)


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of each is done."""

    levels: tuple[int, ...] = (1, 50, 100, 250, 500, 1000)
    """Answers at once."""
    seconds: float = 8.0
    resumed: int = 1000
    messages: int = 100_000
    rounds: int = 5


QUICK = Scale(levels=(1, 50), seconds=2.0, resumed=50, messages=4000, rounds=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Results:
    """Of each level the two servers'; of the rest what moorline alone can do."""

    levels: list[dict[str, Streams]]
    """Without a server that did not keep up with fewer."""
    resumed: tuple[float, float, float]
    openings: list[tuple[float, float]]


async def measure(scale: Scale) -> Results:
    """All of it."""
    raise_file_limit(_FILES)
    ours, theirs = cores = split_cores()
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        async with (
            child("tests.bench.provider", cores=ours) as provider,
            child("tests.bench.chatters", cores=ours) as chatters,
        ):
            async with (
                moorline(folder / "moorline", folder / "chat.db", provider.port, cores=theirs) as subject,
                plain(folder / "plain", provider.port, cores=theirs) as other,
            ):
                levels = await _levels((subject, other), provider, chatters, scale)
            print("measuring: a restart", file=sys.stderr)
            resumed = await resume(provider, chatters, folder, count=scale.resumed, cores=cores)
            print("measuring: a long history", file=sys.stderr)
            openings = await opening(
                provider, chatters, folder, messages=scale.messages, rounds=scale.rounds, cores=cores
            )
    return Results(levels, resumed, openings)


async def _levels(
    servers: Sequence[ChatServer], provider: Child, chatters: Child, scale: Scale
) -> list[dict[str, Streams]]:
    bases = {server.name: memory(server.pid) for server in servers}
    levels: list[dict[str, Streams]] = []
    for count in scale.levels:
        print(f"measuring: {count} answers at once", file=sys.stderr)
        found: dict[str, Streams] = {}
        for server in servers:
            if all(server.name in level and level[server.name].keeps_up for level in levels):
                base = bases[server.name]
                found[server.name] = await streams(
                    server, provider, chatters, count=count, seconds=scale.seconds, base=base
                )
        levels.append(found)
    return levels


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench chat", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, not what is it worth")
    parser.add_argument("--part", choices=["stages"], help="only where the time of a token goes")
    given = parser.parse_args(arguments)
    if given.part == "stages":
        print(asyncio.run(stages(_STAGED_QUICK if given.quick else _STAGED)))
        return 0
    scale = QUICK if given.quick else Scale()
    results = asyncio.run(measure(scale))
    print(_table(results))
    half, all_clients, cpu = results.resumed
    print(f"\n{scale.resumed} sessions come back at once after a restart")
    print(f"  half within {half:.2f} s, all within {all_clients:.2f} s, {cpu * 1e3:.2f} ms of CPU each")
    (alone, alone_cpu), (among, among_cpu) = results.openings
    print("opening a session of 100 messages")
    print(f"  alone in the database   {alone_cpu * 1e3:.2f} ms of CPU, {alone * 1e3:.1f} ms by the clock")
    print(f"  among {scale.messages} messages    {among_cpu * 1e3:.2f} ms of CPU, {among * 1e3:.1f} ms by the clock\n")
    print("\n".join(_marks(dict(zip(scale.levels, results.levels, strict=True)))))
    return 0


def _table(results: Results) -> str:
    head = [
        "answers at once",
        "",
        "median ms",
        "p99 ms",
        "CPU ms / 1000 tokens",
        "% of a core",
        "KiB / session",
        "commits / s",
    ]
    rows = [head]
    for name, found in ((name, found) for level in results.levels for name, found in level.items()):
        begun = f"{found.wanted}" if found.begun == found.wanted else f"{found.begun} of {found.wanted}"
        figures = (found.median * 1e3, found.p99 * 1e3, found.cpu * 1e3, found.busy * 100, found.memory)
        commits = number(found.commits) if name == "moorline" else "-"
        rows.append([begun, name, *map(number, figures), commits])
    return columns(rows, left=2)


def _marks(levels: Mapping[int, Mapping[str, Streams]]) -> list[str]:
    """A line for each mark whose level was measured. A server that did not keep up with fewer answers has missed it."""
    single, many, most = (levels.get(count) for count in (_SINGLE, _CPU_AT, _P99_AT))
    lines = []
    if single is not None:
        lines.append(_mark("median of a single answer, ms", single["moorline"].median * 1e3, _MEDIAN * 1e3))
    if many is not None:
        ratio = many["moorline"].cpu / many["plain"].cpu if len(many) == 2 else None
        lines.append(_mark(f"CPU of a token with {_CPU_AT} answers, x plain", ratio, _CPU))
    if most is not None:
        found = most.get("moorline")
        late = None if found is None or found.begun < found.wanted else found.p99 * 1e3
        lines.append(_mark(f"p99 with {_P99_AT} answers, ms", late, _P99 * 1e3))
    return lines


def _mark(what: str, value: float | None, limit: float) -> str:
    is_reached = value is not None and value <= limit
    return f"mark: {what} <= {limit:g}: {number(value)}, {'reached' if is_reached else 'MISSED'}"
