"""`python -m backend`, which also writes the number of its log's commits, 8 bytes, to the file `COMMITS` names."""

import os
import sys

from backend.__main__ import main
from backend.eventlog.committer import Growth
from backend.eventlog.sqlite import SQLiteLog

__all__ = ["COMMITS"]

COMMITS = "BENCH_COMMITS"
_SIZE = 8


def _count_commits(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    committed, count = SQLiteLog._committed, 0

    def counted(self: SQLiteLog, growth: list[Growth]) -> None:
        nonlocal count
        if growth:
            count += 1
            os.pwrite(file, count.to_bytes(_SIZE, "little"), 0)
        committed(self, growth)

    SQLiteLog._committed = counted  # type: ignore[method-assign]


if __name__ == "__main__":
    _count_commits(os.environ[COMMITS])
    sys.exit(main())
