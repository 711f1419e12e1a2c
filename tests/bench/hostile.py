"""What hostile clients, providers and files cost: `python -m tests.bench hostile [--quick] [NAME …]`.

Each figure of the review that found them stands beside the bound that it is held to. All of it is on loopback and
bounded in count and time; the clock's figures say little on a busy machine.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from tests.bench.attacks import ATTACKS, Figure, Scale
from tests.bench.processes import raise_file_limit
from tests.bench.table import columns, number

__all__ = ["QUICK", "main", "measure"]

_FILES = 1 << 14
_SECONDS = 600.0
_NAMES = [attack.__name__ for attack in ATTACKS]
QUICK = Scale(requests=200, sockets=100, messages=100, event=20 << 20, bomb=64 << 20, flooding=10, paths=154, races=200)


async def measure(scale: Scale, names: Collection[str] = ()) -> list[Figure]:
    """The figures of the attacks that are named, or of all; each has moorline to itself."""
    raise_file_limit(_FILES)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        for attack in ATTACKS:
            if not names or attack.__name__ in names:
                async with asyncio.timeout(_SECONDS):
                    figures += await attack(Path(folder, attack.__name__), scale)
    return figures


def main(arguments: Sequence[str]) -> int:
    """Print each figure beside its bound; 1 where one does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench hostile", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*_NAMES, []], help="attacks to measure (default: all)")
    parser.add_argument("--quick", action="store_true", help="a twentieth of each")
    options = parser.parse_args(arguments)
    figures = asyncio.run(measure(QUICK if options.quick else Scale(), options.names))
    rows = [
        [each.name, each.unit, number(each.value), f"<= {number(each.bound)}", "holds" if each.holds else "EXCEEDED"]
        for each in figures
    ]
    print(columns([["", "", "is", "bound", ""], *rows], left=2))
    return 0 if all(each.holds for each in figures) else 1
