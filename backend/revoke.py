"""`moorline revoke PRINCIPAL`: what a principal has open ends, and credentials that were issued until now are refused.

It is noted in the log's database. SQLite's file is locked by the backend that serves, so that backend is asked to do
it. In PostgreSQL every backend finds it at its next poll, within a second.
"""

import asyncio
import contextlib
import os
import sqlite3
from datetime import UTC, datetime

from moorline.backend.eventlog.factory import sqlite_path
from moorline.backend.eventlog.sqlite import revocations
from moorline.backend.eventlog.sqlite.committer import Transaction
from moorline.backend.eventlog.sqlite.connection import connect
from moorline.backend.eventlog.sqlite.control import NoServer, complaining, request_revocation
from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog
from moorline.gateway.common.access.principal_names import MOST_NAME_BYTES, is_principal
from moorline.gateway.common.errors import UsageError, missing_extra

__all__ = ["revoke"]


def revoke(database: str, arguments: list[str]) -> int:
    """Revoke what the principal that is named has; the exit status."""
    if not arguments:
        raise UsageError("revoke: the principal is missing; write for example: moorline revoke dr.who")
    name = arguments[0]
    if not is_principal(name):
        raise UsageError(
            f"revoke: a principal's name has 1 to {MOST_NAME_BYTES} bytes, no control characters, and is not -"
        )
    path = sqlite_path(database)
    at = _in_postgres(database, name) if path is None else _in_file(path, name)
    shown = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    print(f"{name}: sockets and polls end now, and what was issued until {shown} is refused")
    return 0


def _in_file(path: str, name: str) -> float:
    if not os.path.exists(path):
        raise UsageError(f'database: "{path}" does not exist; name the one that moorline uses with --database')
    with complaining("revoke", path):
        try:
            return request_revocation(path, name)
        except NoServer:
            return _noted(path, name)


def _noted(path: str, name: str) -> float:
    with contextlib.closing(connect(path, ErasureLog(path))) as db:
        try:
            return revocations.revoke(Transaction(db), name)
        except sqlite3.Error as error:
            raise UsageError(f'database: "{path}" cannot be written ({error})') from error


def _in_postgres(database: str, name: str) -> float:
    # Not opened as a log: that would take over the runs of a backend that is restarting.
    try:
        from moorline.backend.eventlog.postgres.revocations import revoke_at
    except ImportError as error:
        raise UsageError(f"database: {missing_extra('postgres')}") from error
    return asyncio.run(revoke_at(database, name))
