"""What becomes of a real database: full, read-only, locked. Each is over with its block."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

__all__ = ["filled", "locked", "read_only", "small_disk"]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 4 MiB in this folder, which is made."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def filled(folder: Path) -> None:
    """Write to its file system until no byte is free."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb") as filler:
        while True:
            filler.write(bytes(4096))
            filler.flush()


@contextlib.contextmanager
def read_only(url: str) -> Iterator[None]:
    """A PostgreSQL database that accepts no writes, also from those that were connected before."""
    with psycopg.connect(url, autocommit=True) as db:
        name = sql.Identifier(db.info.dbname)
        db.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    try:
        yield
    finally:
        with psycopg.connect(url, autocommit=True, options="-cdefault_transaction_read_only=off") as db:
            db.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """A PostgreSQL database in which another transaction holds the table of sessions."""
    with psycopg.connect(url) as db:
        db.execute("LOCK TABLE moorline.sessions IN ACCESS EXCLUSIVE MODE")
        yield
