"""From the option `database` to a log."""

from moorline.backend.eventlog.base import Store
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite.store import SQLiteStore
from moorline.backend.settings import POSTGRES, SQLITE, shown_database
from moorline.gateway.common.errors import UsageError, missing_extra

__all__ = ["open_log", "sqlite_path"]


def open_log(database: str, *, pool_size: int = 10) -> EventLog:
    """The log at `database`, not opened yet: `sqlite:///relative/path`, `sqlite:////absolute/path`, `postgresql://…`.

    Raises:
        UsageError: no such kind of database, or its library is not installed.
    """
    path = sqlite_path(database)
    return EventLog(_postgres(database, pool_size) if path is None else SQLiteStore(path))


def sqlite_path(database: str) -> str | None:
    """The file of a SQLite database; None for PostgreSQL.

    Raises:
        UsageError: no such kind of database.
    """
    if database.startswith(POSTGRES):
        return None
    path = database.removeprefix(SQLITE)
    if path in ("", database):
        shown = shown_database(database)
        raise UsageError(f'database: "{shown}" is not a database; write for example sqlite:///moorline.db')
    return path


def _postgres(url: str, pool_size: int) -> Store:
    # Imported here, as most installations have neither the library nor the need for it.
    try:
        from moorline.backend.eventlog.postgres.store import PostgresStore
    except ImportError as error:
        if not (error.name or "psycopg").startswith("psycopg"):
            raise
        raise UsageError(f"database: {missing_extra('postgres')}") from error
    return PostgresStore(url, pool_size=pool_size)
