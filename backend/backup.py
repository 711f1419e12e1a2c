"""`moorline backup FILE` and `moorline restore FILE`, for a SQLite database.

A backup is one file, complete and checked, or there is none. A restore makes a database where there is none, and erases
from it what was erased since the backup was made. PostgreSQL has tools of its own, which both commands name.
"""

import contextlib
import errno
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from moorline.backend.eventlog.factory import sqlite_path
from moorline.backend.eventlog.sqlite.connection import connect, in_use
from moorline.backend.eventlog.sqlite.control import NoServer, complaining, request_copy
from moorline.backend.eventlog.sqlite.copies import copy
from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog, sync_folder
from moorline.backend.eventlog.sqlite.schema import VERSION, recognise
from moorline.backend.settings import shown_database
from moorline.gateway.common.config.units import counted
from moorline.gateway.common.errors import UsageError

__all__ = ["backup", "restore"]

# Of FAT and of some network file systems.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP)
_JOURNALS = ("-wal", "-shm", "-journal")


def backup(database: str, arguments: list[str]) -> int:
    """Write the chats of the option `database` to the file that is named; the exit status."""
    file = _file(arguments, "backup", "write for example: moorline backup chats-2026-01-31.db")
    dump = f"run: pg_dump --format=custom --schema=moorline --file='{file}' '{shown_database(database)}'"
    path = _sqlite_path("backup", database, instead=dump)
    if os.path.lexists(file):
        raise UsageError(f'backup: "{file}" exists; name a new file, or remove it')
    if not os.path.exists(path):
        raise UsageError(f'database: "{path}" does not exist; name the one that moorline uses with --database')
    with _new_file(file) as part, _copied(path) as source:
        with _complaining("backup", file):
            _write(source, part)
        sessions = _verified("backup", part)
        size = os.path.getsize(part)
    print(f"{file}: {_shown(size)}, {counted(sessions, 'session')}")
    return 0


def restore(database: str, arguments: list[str]) -> int:
    """Make the database that the option `database` names from the backup that is named; the exit status."""
    file = _file(arguments, "restore", "name the one that `moorline backup` wrote")
    load = f"pg_restore --clean --if-exists --exit-on-error --dbname='{shown_database(database)}' '{file}'"
    path = _sqlite_path("restore", database, instead=f"stop every backend and run: {load}")
    if os.path.islink(path):
        # The erasure log is beside the file that it leads to.
        path = os.path.realpath(path)
    for name in (path, *(path + suffix for suffix in _JOURNALS)):
        # A journal of another database would be written into this one.
        if os.path.lexists(name):
            raise UsageError(f'restore: "{name}" exists; stop moorline and move it away, then run this again')
    sessions = _verified("restore", file)
    erasures = ErasureLog(path)
    has_log = erasures.path.exists()
    with _new_file(path) as part:
        with _complaining("restore", path), open(file, "rb") as source:
            _write(source, part)
        with contextlib.closing(connect(part, erasures, is_copy=True)) as db:
            kept = _sessions(db)
        with _complaining("restore", path):
            _sync(part)
    print(f"{path}: {counted(kept, 'session')}, and {sessions - kept} erased again")
    if not has_log:
        print(
            f"{erasures.path}: there was no erasure log; what was erased since the backup is in the database again",
            file=sys.stderr,
        )
    return 0


def _file(arguments: list[str], command: str, instead: str) -> str:
    if not arguments:
        raise UsageError(f"{command}: the file is missing; {instead}")
    return arguments[0]


def _sqlite_path(command: str, database: str, *, instead: str) -> str:
    path = sqlite_path(database)
    if path is None:
        raise UsageError(f"{command}: PostgreSQL has a tool of its own; {instead}")
    return path


@contextlib.contextmanager
def _complaining(command: str, file: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f'{command}: "{file}" cannot be written ({error.strerror})') from error


# The copy -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _copied(path: str) -> Iterator[BinaryIO]:
    """A copy of the database, by the process that has it or, without one, by this."""
    with complaining("backup", path):
        try:
            file = request_copy(path)
        except NoServer:
            file = _copied_here(path)
    with file:
        yield file


def _copied_here(path: str) -> BinaryIO:
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            # No other process begins to write meanwhile.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            recognise(db, path)
            return copy(db, path, lambda: None)
    except (sqlite3.Error, OSError) as error:
        reason = "it is in use by another process" if in_use(error) else str(error)
        raise UsageError(f'backup: "{path}" cannot be copied ({reason})') from error


def _verified(command: str, file: str) -> int:
    """The number of sessions in the file, which is checked from its first page to its last.

    Raises:
        UsageError: it is damaged, or no database of moorline.
    """
    try:
        uri = f"{Path(file).absolute().as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as db:
            recognise(db, file)
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise UsageError(f'{command}: "{file}" is damaged ({found}); use another one')
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if not 0 < version <= VERSION:
                raise UsageError(f'{command}: "{file}" is no backup that this version of moorline can read')
            return _sessions(db)
    except sqlite3.Error as error:
        raise UsageError(f'{command}: "{file}" cannot be read as a database ({error})') from error


def _sessions(db: sqlite3.Connection) -> int:
    (sessions,) = db.execute("SELECT count(*) FROM sessions").fetchone()
    return int(sessions)


# Files ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[str]:
    """The name of an empty file, for its owner alone, that is called `path` once the block has ended well."""
    folder, name = os.path.split(os.path.abspath(path))
    try:
        descriptor, part = tempfile.mkstemp(prefix=f"{name}-", suffix=".part", dir=folder)
    except OSError as error:
        raise UsageError(f'"{path}" cannot be written ({error.strerror}); choose another folder') from error
    os.close(descriptor)
    try:
        yield part
        try:
            _give_name(part, path)
            sync_folder(Path(folder))
        except OSError as error:
            raise UsageError(f'"{path}" cannot be written ({error.strerror})') from error
    finally:
        for suffix in ("", *_JOURNALS):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part + suffix)


def _give_name(part: str, path: str) -> None:
    try:
        # Unlike a renaming it never replaces a file that was made meanwhile.
        os.link(part, path)
    except OSError as error:
        if error.errno not in _NO_LINKS or os.path.lexists(path):
            raise
        os.rename(part, path)


def _write(source: BinaryIO, part: str) -> None:
    with open(part, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())


def _sync(part: str) -> None:
    with open(part, "rb") as file:
        os.fsync(file.fileno())


def _shown(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
