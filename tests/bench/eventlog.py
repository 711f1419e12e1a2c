"""Appends per second of the SQLite log: `python -m tests.bench log [runs] [texts]`."""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from moorline.backend.eventlog.base import Commit
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite.store import SQLiteStore
from moorline.backend.events import Finish
from tests.support.eventlogs import NOW, handle_of, start


class CountingLog(EventLog):
    """Counts its commits."""

    commits = 0

    def committed(self, commits: Sequence[Commit]) -> None:
        self.commits += 1
        super().committed(commits)


async def answer(log: EventLog, session_id: str, texts: int, waits: list[float]) -> None:
    """One answer of `texts` pieces; notes how long each piece waited for its commit."""
    run = handle_of(await start(log, session_id))
    for _ in range(texts):
        before = time.perf_counter()
        await log.add_text(run, "a few words ")
        waits.append(time.perf_counter() - before)
    await log.end_run(run, finish=Finish.STOP, now=NOW)


async def write(runs: int, texts: int) -> None:
    """Write `runs` answers at once, as fast as the log takes them."""
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        log = CountingLog(SQLiteStore(str(Path(folder) / "chat.db")))
        await log.open()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(answer(log, f"s{number}", texts, waits) for number in range(runs)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        await log.close()
    commands = runs * (texts + 2)
    waits.sort()
    print(f"{commands} commands of {runs} runs: {commands / took:.0f}/s in {log.commits / took:.0f} commits/s")
    print(f"CPU per command: {cpu / commands * 1e6:.1f} us")
    print(f"wait for the commit: median {waits[len(waits) // 2] * 1e3:.1f} ms, worst {waits[-1] * 1e3:.1f} ms")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench log", description="Appends per second of the SQLite log."
    )
    parser.add_argument("runs", type=int, nargs="?", default=1000, help="answers at once")
    parser.add_argument("texts", type=int, nargs="?", default=50, help="pieces of each")
    given = parser.parse_args(arguments)
    asyncio.run(write(given.runs, given.texts))
    return 0
