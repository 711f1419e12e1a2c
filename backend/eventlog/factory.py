"""From the option `database` to a log."""

from backend.eventlog.base import EventLog
from backend.eventlog.sqlite import SQLiteLog
from gateway.common.errors import UsageError

__all__ = ["open_log"]

_SQLITE = "sqlite:///"


def open_log(database: str) -> EventLog:
    """The log at `database`, not opened yet: `sqlite:///relative/path` or `sqlite:////absolute/path`.

    Raises:
        UsageError: no such kind of database.
    """
    path = database.removeprefix(_SQLITE)
    if path in ("", database):
        raise UsageError(f'database: "{database}" is not a database; write for example sqlite:///moorline.db')
    return SQLiteLog(path)
