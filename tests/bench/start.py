"""How long it takes to start: `python -m tests.bench start [--quick]`.

CPU is the operating system's count for the process and its children, and says the same on a busy machine as on an idle
one; the time until `serve` is ready is the clock's. An interpreter that does nothing, and one that imports aiohttp, are
the floor of what can be reached.
"""

import argparse
import asyncio
import os
import resource
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from pathlib import Path

from tests.bench.marks import CHECK, FIRST, READY, START_MARKS, VERSION, marks_table
from tests.bench.processes import environment, free_port
from tests.bench.rounds import Results
from tests.bench.table import number

__all__ = ["main", "measure"]

_ROUNDS = 7
_MILLI = 1e3
_NAME = "moorline"
_MOORLINE = (sys.executable, "-m", "moorline")
_PATIENCE = 60.0
# With what a test run has imported anyway.
_FIRST = """
import asyncio, time
import aiohttp.web, pytest
from moorline.gateway.testing.story import Story
from moorline.testing import Moorline
async def start():
    began = time.process_time()
    async with Moorline(Story()).gateway(upstream=aiohttp.web.Application()):
        print(time.process_time() - began)
asyncio.run(start())
"""
# Compiled code must be kept, as it is once a package is installed.
_UNWANTED = ("PYTHONDONTWRITEBYTECODE",)


async def measure(rounds: int) -> Results:
    """CPU of each command, and the clock's time until `serve` is ready."""
    results = Results()
    commands = {
        "python -c pass": (sys.executable, "-c", "pass"),
        "python -c 'import aiohttp'": (sys.executable, "-c", "import aiohttp"),
        VERSION: (*_MOORLINE, "--version"),
        "moorline serve --help": (*_MOORLINE, "serve", "--help"),
        CHECK: (*_MOORLINE, "check", f"http://127.0.0.1:{free_port()}"),
    }
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        for row, command in commands.items():
            # The first run compiles what was not compiled yet.
            taken = [await _cpu(command, Path(name)) for _ in range(rounds + 1)][1:]
            results.add([row], "ms of CPU", _NAME, [[each * _MILLI] for each in taken])
        first = [await _first(Path(name)) for _ in range(rounds + 1)][1:]
        results.add([FIRST], "ms of CPU", _NAME, [[each * _MILLI] for each in first])
        ready = [await _ready(Path(name)) for _ in range(rounds + 1)][1:]
        results.add([READY], "ms by the clock", _NAME, [[each * _MILLI] for each in ready])
    return results


def _environment() -> dict[str, str]:
    return {name: value for name, value in environment().items() if name not in _UNWANTED}


async def _cpu(command: Sequence[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=_environment(), stdout=DEVNULL, stderr=DEVNULL
    )
    await process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def _first(folder: Path) -> float:
    """CPU seconds of a test run's first gateway, imports included."""
    command = (sys.executable, "-c", _FIRST)
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=_environment(), stdout=PIPE)
    out, _ = await process.communicate()
    return float(out)


async def _ready(folder: Path) -> float:
    """Seconds from the command to its start block, which it prints when page, gateway and backend answer."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *_MOORLINE, "serve", "--port", str(free_port()), cwd=folder, env=_environment(), stdout=PIPE, stderr=DEVNULL
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            await process.stdout.readuntil(b"  page ")
        return time.monotonic() - began
    finally:
        process.terminate()
        await process.communicate()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench start", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round: does it run, not what is it worth")
    results = asyncio.run(measure(1 if parser.parse_args(arguments).quick else _ROUNDS))
    width = max(map(len, results.medians))
    for row, values in results.medians.items():
        print(f"{row.ljust(width)}  {number(values[_NAME]):>6} {results.units[row]}")
    print(f"\nload of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("\n" + marks_table(results.medians, START_MARKS))
    return 0
