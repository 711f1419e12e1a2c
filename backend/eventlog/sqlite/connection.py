"""Opening and locking the SQLite file, and the error message when that fails."""

import contextlib
import logging
import os
import sqlite3
import stat

from moorline.backend.eventlog.sqlite.erasure import catch_up, mark_as_copy
from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog
from moorline.backend.eventlog.sqlite.journal import truncate_journal
from moorline.backend.eventlog.sqlite.recent import Recent
from moorline.backend.eventlog.sqlite.schema import migrate, recognise
from moorline.gateway.common.errors import UsageError

__all__ = ["connect", "in_use"]

log = logging.getLogger("moorline.backend")

#: How long a locked file is tried again: a process that is just ending releases it within this time.
BUSY_SECONDS = 0.5
#: Permissions of the file: what people write is in it.
PRIVATE = 0o600
#: The write-ahead file is truncated to this after a burst.
WAL_BYTES = 64 << 20
#: Prepared statements kept by sqlite3; above the number of statements in `read.py`, `write.py` and `texts.py`.
CACHED_STATEMENTS = 128


def connect(path: str, erasures: ErasureLog, *, is_copy: bool = False) -> sqlite3.Connection:
    """Open, lock and migrate the database at `path`, and erase from it what it misses of `erasures`.

    `is_copy`: clients may know more than it holds, as after a restore.

    Raises:
        UsageError: it is in use, cannot be written, or is not a database of this program.
    """
    _check_kind(path)
    _create(path)
    db = None
    try:
        db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=CACHED_STATEMENTS)
        _configure(db, path)
        # Not before the file is locked: until then another process may append.
        erasures.open()
        db.execute("BEGIN IMMEDIATE")
        migrate(db, path)
        # What is done from here on finds all text in `events`.
        recent = Recent()
        recent.read(db)
        recent.merge(db)
        if is_copy:
            mark_as_copy(db)
        erased = catch_up(db, erasures)
        db.execute("COMMIT")
        if erased:
            truncate_journal(db)
    except sqlite3.Error as error:
        if db is not None:
            db.close()
        raise UsageError(_complaint(path, error)) from error
    except UsageError:
        if db is not None:
            db.close()
        raise
    return db


def _check_kind(path: str) -> None:
    """Refuse what is no file: SQLite takes a device for an empty one, and what is opened becomes private, which
    /dev/null must not.
    """
    with contextlib.suppress(OSError):  # there is none yet; else SQLite reports it
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(f'database: "{path}" is not a file; choose another with --database')


def _create(path: str) -> None:
    """Create the file for its owner alone, before SQLite would create it for all; errors are SQLite's to report.

    SQLite gives its write-ahead file the permissions of the database, so both are private from the first byte.
    """
    with contextlib.suppress(OSError):
        # The real path, as O_EXCL follows no symbolic link. Closing a file that exists would release the locks on it.
        os.close(os.open(os.path.realpath(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))


def _make_private(path: str) -> None:
    """Take an existing file from the other users.

    Raises:
        UsageError: they can read it, and its permissions cannot be changed.
    """
    file = os.path.realpath(path)
    for name in (file, f"{file}-wal", f"{file}-shm", f"{file}-journal"):
        with contextlib.suppress(FileNotFoundError):
            if os.access(name, os.W_OK, effective_ids=True) and os.stat(name).st_mode & 0o077:
                _take_from_others(name)


def _take_from_others(name: str) -> None:
    try:
        os.chmod(name, PRIVATE)
    except OSError as error:
        raise UsageError(
            f'database: "{name}" can be read by other users and belongs to another one ({error.strerror}); '
            "chmod it to 600, or choose another with --database"
        ) from error
    log.warning('database: "%s" could be read by other users; its permissions are 600 now', name)


def _warn_of_folder(path: str) -> None:
    """Who may write to a folder may put another file in the place of the database; a sticky one is for owners alone."""
    folder = os.path.dirname(os.path.realpath(path))
    mode = os.stat(folder).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        log.warning('database: all users can write to its folder "%s", and replace it; chmod the folder to 700', folder)


def _configure(db: sqlite3.Connection, path: str) -> None:
    # Before the first access: the lock is then held from here to close(), and WAL works without shared memory.
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    recognise(db, path)
    _make_private(path)  # not before: a file of another program is left alone
    _warn_of_folder(path)
    db.execute("PRAGMA journal_mode = WAL")
    # With NORMAL a power failure could lose commits that were acknowledged.
    db.execute("PRAGMA synchronous = FULL")
    # Erased data is overwritten: free pages would keep its text. Some builds of SQLite do so by default.
    db.execute("PRAGMA secure_delete = ON")
    db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")


def in_use(error: Exception) -> bool:
    """Whether it says that another process has locked the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _complaint(path: str, error: sqlite3.Error) -> str:
    # The low byte is the primary code; the others only tell where in SQLite it arose.
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if extended == sqlite3.SQLITE_IOERR_LOCK:
        # The system refuses the lock, which comes first, where the file may only be read.
        return (
            f'database: "{path}" cannot be locked for writing; check its permissions, '
            "and that its file system supports locks, or use --database"
        )
    if in_use(error):
        return f'database: "{path}" is in use by another process; stop it or choose another with --database'
    if code == sqlite3.SQLITE_NOTADB:
        return f'database: "{path}" is not a database; choose another with --database'
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return f'database: "{path}" cannot be written; check the folder and its permissions, or use --database'
    return f'database: "{path}" cannot be used ({error}); choose another with --database'
