"""Copies of the SQLite database, made by SQLite's backup API while the process that has the file goes on writing.

A step copies a MiB and takes a millisecond or two. What is written through the same connection meanwhile is written to
the copy as well, so that it never begins again, and is the database as it is at the last step.
"""

import contextlib
import glob
import os
import sqlite3
import tempfile
from collections.abc import Callable
from typing import BinaryIO

from moorline.backend.eventlog.sqlite.erasure import mark_as_copy

__all__ = ["copy", "remove_leftovers"]

#: Pages of one step, of 4 KiB each.
STEP_PAGES = 256
# Beside the database: the process may be forbidden to write elsewhere, and the disk is known to hold it.
_INFIX = "-backup-"


def copy(db: sqlite3.Connection, path: str, between: Callable[[], None]) -> BinaryIO:
    """A copy of the database at `path`, an open file that has no name any more; `between` is called after each step.

    Only its owner can read it, from its first byte, and it needs no journal beside it. It is not on disk yet.

    Raises:
        sqlite3.Error, OSError: there is no room for it, for example.
    """
    real = os.path.realpath(path)
    descriptor, name = tempfile.mkstemp(prefix=os.path.basename(real) + _INFIX, dir=os.path.dirname(real))
    try:
        target = sqlite3.connect(name, isolation_level=None)
        try:
            # A copy that is broken off is thrown away, so nothing needs to be undone or flushed.
            target.execute("PRAGMA locking_mode = EXCLUSIVE")
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            db.backup(target, pages=STEP_PAGES, progress=lambda *_: between())
            # The first access after it finds the journal mode of the original in the header.
            target.execute("PRAGMA journal_mode = DELETE")
            if target.execute("SELECT 1 FROM sqlite_schema WHERE name = 'erasures'").fetchone():
                mark_as_copy(target)
        finally:
            target.close()
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        _remove(name)
    return os.fdopen(descriptor, "rb")


def remove_leftovers(path: str) -> None:
    """Remove what a process that was killed has left of its copies of `path`, which is locked."""
    for name in glob.glob(glob.escape(os.path.realpath(path) + _INFIX) + "*"):
        with contextlib.suppress(OSError):
            os.unlink(name)


def _remove(name: str) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name + suffix)
