"""The write-ahead file of SQLite: as long as it becomes from early on, and emptied after an erasure.

A commit that makes a file longer has two things flushed to disk: its page, and the file's size, which the file system
keeps in a journal of its own. One that overwrites blocks which are there has its page flushed alone, and takes two
thirds of the time. SQLite begins the file anew after some 1,000 pages, which takes an answer a minute to reach, and
deletes it when the database is closed. So zeros are written behind what is in use, between two commits; where there is
no time between two, it grows by itself.

A reader takes a frame only with the salt that is in the file's header (https://sqlite.org/walformat.html), so that
zeros are none, as what is left of earlier frames is none.
"""

import logging
import os
import sqlite3

__all__ = ["Journal", "truncate_journal"]

log = logging.getLogger("moorline.backend")

#: SQLite begins anew above 1,000 frames, of a page of 4 KiB and 24 bytes; the last transaction may go beyond.
_WHOLE = 4_300_000
#: Written at once; a commit that comes meanwhile waits for it, some ms.
_STEP = 256 << 10
#: Commits before the first step: a process that soon ends would write 4 MiB for nothing.
_COMMITS_BEFORE = 20
_ZEROS = bytes(_STEP)


class Journal:
    """The write-ahead file of the database at `path`. For the thread that owns the connection."""

    def __init__(self, path: str) -> None:
        # Where the database is a symbolic link, SQLite puts it beside the file that this leads to.
        self._path = f"{os.path.realpath(path)}-wal"
        self._commits = 0
        self._is_whole = False

    def lengthen(self) -> None:
        """Write the next zeros; comes between two commits. On a full disk the file stays as it is."""
        if self._is_whole:
            return
        self._commits += 1
        if self._commits > _COMMITS_BEFORE:
            try:
                self._is_whole = self._write_step()
            except OSError as error:
                # SQLite makes it longer itself, where it can.
                log.debug("database: the write-ahead file is not lengthened: %s", error.strerror)
                self._is_whole = True

    def truncate(self, db: sqlite3.Connection) -> None:
        """See `truncate_journal`."""
        truncate_journal(db)
        self._commits, self._is_whole = 0, False

    def _write_step(self) -> bool:
        """Whether the file is as long as it becomes."""
        # Not created. SQLite's locks are on other files: closing this one releases none.
        file = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            try:
                written = os.pwrite(file, _ZEROS, size) if size < _WHOLE else 0
                os.fsync(file)
            except OSError:
                # What is left of the disk is for chats.
                os.ftruncate(file, size)
                raise
        finally:
            os.close(file)
        return size + written >= _WHOLE


def truncate_journal(db: sqlite3.Connection) -> None:
    """Erased text stays in the write-ahead file until that is overwritten, which may take weeks."""
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        log.warning("database: erased data is still in the write-ahead file: %s", error)
