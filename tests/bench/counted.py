"""`moorline backend`, which also writes the number of its log's commits, 8 bytes, to the file `COMMITS` names."""

import os
import sys
from collections.abc import Sequence

from moorline.backend.eventlog.base import Commit
from moorline.backend.eventlog.log import EventLog
from moorline.gateway.run.cli import main

__all__ = ["COMMITS"]

COMMITS = "BENCH_COMMITS"
_SIZE = 8


def _count_commits(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    committed, count = EventLog.committed, 0

    def counted(self: EventLog, commits: Sequence[Commit]) -> None:
        nonlocal count
        # First: what is counted waits for no write of the measurement.
        committed(self, commits)
        if commits:
            count += 1
            os.pwrite(file, count.to_bytes(_SIZE, "little"), 0)

    EventLog.committed = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    _count_commits(os.environ[COMMITS])
    sys.exit(main(["backend", *sys.argv[1:]]))
