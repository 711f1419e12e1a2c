"""Where the time of a token goes, from the provider's byte to the client's socket: `chat --part stages`."""

import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.chat_servers import moorline
from tests.bench.processes import child, raise_file_limit, split_cores
from tests.bench.provider import TOKENS_PER_SECOND
from tests.bench.streams import ASKS_PER_SECOND, SETTLE
from tests.bench.table import columns, number

__all__ = ["STAGES", "measure", "stages", "table"]

_FILES = 1 << 16
_FLUSHES = 50
_PAGE = 4096
# What ends each stage, in the order in which a token passes them.
STAGES = {
    "received": "provider's write to the backend's read",
    "read": "its task is woken; HTTP, events and JSON are parsed",
    "gathered": "text gathers for a commit",
    "in the thread": "the commit thread is woken",
    "flushed": "the row is written and flushed to disk",
    "in the loop": "the event loop is woken",
    "written": "the frame is made and written",
    "arrived": "the client's read",
}

_SECONDS = 4.0

Times = Mapping[str, float]


async def stages(levels: Sequence[int]) -> str:
    """The table for so many answers at once."""
    found = {count: await measure(count, _SECONDS) for count in levels}
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        flush = _bare_flush(Path(name))
    return f"{table(found)}\n\na page that another program appends to a file and flushes: {number(flush * 1e3)} ms"


async def measure(count: int, seconds: float) -> list[Times]:
    """Of each token of one of `count` answers: seconds that it took to each stage from the one before."""
    raise_file_limit(_FILES)
    ours, theirs = split_cores()
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        async with (
            child("tests.bench.provider", cores=ours) as provider,
            child("tests.bench.chatters", cores=ours) as chatters,
        ):
            async with moorline(
                folder / "moorline", folder / "chat.db", provider.port, cores=theirs, module="tests.bench.staged"
            ) as server:
                await chatters.ask("open", port=server.port, sessions=list(map(str, range(count))), hello=True)
                await chatters.ask("ask", per_second=ASKS_PER_SECOND)
                await asyncio.sleep(SETTLE)
                await chatters.ask("listen", seconds=seconds)
                await provider.ask("finish")
                await chatters.ask("answered")
                arrivals = await chatters.ask("arrivals")
                await chatters.ask("close")
            passed = json.loads((folder / "moorline" / "stages").read_text(encoding="utf-8"))
    return [
        _steps(float(text), times | {"arrived": arrivals[text]}) for text, times in passed.items() if text in arrivals
    ]


def _steps(begin: float, times: Times) -> Times:
    points = [begin, *(times[stage] for stage in STAGES)]
    return {stage: points[at + 1] - points[at] for at, stage in enumerate(STAGES)}


def _bare_flush(folder: Path) -> float:
    """Median seconds of a page appended to a file and flushed, which is what a commit waits for at least.

    At the pace of an answer: a disk that is not idle between two flushes is faster.
    """
    took = []
    descriptor = os.open(folder / "flushed", os.O_WRONLY | os.O_CREAT)
    try:
        for page in range(_FLUSHES):
            os.pwrite(descriptor, os.urandom(_PAGE), page * _PAGE)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
            time.sleep(1 / TOKENS_PER_SECOND)
    finally:
        os.close(descriptor)
    return statistics.median(took)


def table(found: Mapping[int, Sequence[Times]]) -> str:
    """By answers at once, the median and the 99th percentile of each stage and of all."""
    rows = [["ms", *(f"{count}, {which}" for count in found for which in ("median", "p99"))]]
    for stage, what in STAGES.items():
        rows.append([what, *_cells([[each[stage] for each in tokens] for tokens in found.values()])])
    rows.append(["all", *_cells([[sum(each.values()) for each in tokens] for tokens in found.values()])])
    return columns(rows, left=1)


def _cells(levels: Sequence[Sequence[float]]) -> list[str]:
    quantiles = [statistics.quantiles(values, n=100) for values in levels]
    return [number(each[at] * 1e3) for each in quantiles for at in (49, 98)]
