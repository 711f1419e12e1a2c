"""The SQLite file: its tables, its version, and how an older file is migrated.

A session's active run is in the session's own row, with the fence; `written` is the offset at which its answer goes on.
During a run only its text and parts are appended to the session's log, so they are exactly the events after its
`RunStarted`. The last ones are in `recent` until they are merged, and the session's row is behind by as much.

A session has no row before its first message. The epoch that it will have is derived from a seed, its id and its
patient, so that clients can be told before. An erasure replaces the seed: an id that is used again has another epoch.
"""

import sqlite3

from moorline.backend.eventlog.base import EPOCH_BUCKETS, IDENTITY_BUCKET
from moorline.gateway.common.errors import UsageError

__all__ = ["FIRST", "MIGRATIONS", "VERSION", "migrate", "recognise"]

#: Version 1.
FIRST = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    patient_id TEXT NOT NULL,
    epoch TEXT NOT NULL,
    head INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    active_run_id TEXT,
    touched_at REAL NOT NULL
) STRICT;
CREATE INDEX sessions_active ON sessions (id) WHERE active_run_id IS NOT NULL;
CREATE TABLE runs (
    run_id TEXT NOT NULL PRIMARY KEY,
    session INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    user_seq INTEGER NOT NULL,
    started_seq INTEGER NOT NULL,
    finish TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_session ON runs (session);
CREATE TABLE commands (
    session INTEGER NOT NULL,
    client_msg_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    user_seq INTEGER NOT NULL,
    retry_of TEXT,
    PRIMARY KEY (session, client_msg_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    content TEXT NOT NULL,
    at REAL NOT NULL,
    client_msg_id TEXT,
    from_seq INTEGER,
    finish TEXT,
    error_code TEXT,
    error_retryable INTEGER,
    error_retry_after REAL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;
"""

# An attempt to add text that failed may be repeated at its offset; retention selects the oldest sessions.
_SECOND = """
ALTER TABLE sessions ADD COLUMN written INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_touched ON sessions (touched_at);
"""

# Sessions without a message were created by each handshake, and claimed their ids for its patient.
_THIRD = f"""
CREATE TABLE epoch_seeds (bucket INTEGER PRIMARY KEY, seed TEXT NOT NULL) STRICT;
WITH RECURSIVE buckets (bucket) AS (
    SELECT 0 UNION ALL SELECT bucket + 1 FROM buckets WHERE bucket + 1 < {EPOCH_BUCKETS}
)
INSERT INTO epoch_seeds SELECT bucket, lower(hex(randomblob(16))) FROM buckets;
DELETE FROM sessions WHERE head = 0;
"""

# Of a part: itself; of the end of a run: the array of its parts. See `records.py`.
_FOURTH = "ALTER TABLE events ADD COLUMN parts TEXT"

# Who sent the command; a run may be answered by a process that did not receive it.
_FIFTH = "ALTER TABLE runs ADD COLUMN principal TEXT"

# The list of a patient's sessions, newest first.
_SIXTH = "CREATE INDEX sessions_patient ON sessions (patient_id, touched_at, session_id)"

# One row; see `erasure.py`.
_SEVENTH = """
CREATE TABLE erasures (applied INTEGER NOT NULL) STRICT;
INSERT INTO erasures VALUES (0);
"""

_EIGHTH = """
CREATE TABLE tickets (
    digest TEXT NOT NULL PRIMARY KEY,
    patient_id TEXT NOT NULL,
    session_id TEXT,
    principal TEXT NOT NULL,
    metadata TEXT NOT NULL,
    expires REAL,
    valid_until REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_valid ON tickets (valid_until);
"""

# A principal may come back with credentials that were issued later.
_NINTH = """
CREATE TABLE revocations (principal TEXT NOT NULL PRIMARY KEY, at REAL NOT NULL) STRICT, WITHOUT ROWID;
ALTER TABLE tickets ADD COLUMN issued REAL;
"""

# See `recent.py`.
_TENTH = "CREATE TABLE recent (id INTEGER PRIMARY KEY, pieces TEXT NOT NULL) STRICT"

# The name of the database: no session's id has this bucket, and a restore replaces it with the seeds.
_ELEVENTH = f"INSERT INTO epoch_seeds VALUES ({IDENTITY_BUCKET}, lower(hex(randomblob(16))))"

#: Step n turns a file of version n into one of version n + 1. Steps are only ever added.
MIGRATIONS = (FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH, _SEVENTH, _EIGHTH, _NINTH, _TENTH, _ELEVENTH)

#: What this program writes; kept in the file as SQLite's `user_version`.
VERSION = len(MIGRATIONS)

_TABLES = frozenset({"sessions", "runs", "commands", "events"})


def recognise(db: sqlite3.Connection, name: str) -> None:
    """Check that the database is new or this program's, before anything is written to it.

    Raises:
        UsageError: it belongs to another program.
    """
    version = db.execute("PRAGMA user_version").fetchone()[0]
    program = db.execute("PRAGMA application_id").fetchone()[0]
    tables = {table for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    known = tables >= _TABLES if version else not tables
    if program or not known:
        raise UsageError(f'database: "{name}" belongs to another program; choose another with --database')


def migrate(db: sqlite3.Connection, name: str) -> None:
    """Bring the open transaction's database to VERSION; `name` is the file in the message.

    Raises:
        UsageError: the file is of a newer program.
    """
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        raise UsageError(
            f'database: "{name}" was written by a newer moorline (schema {found}, this one knows {VERSION}); '
            "update moorline or choose another with --database"
        )
    for step in MIGRATIONS[found:]:
        # Not executescript: it would commit the transaction that makes all steps one.
        for statement in step.split(";"):
            if statement.strip():
                db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")
