"""The tables in PostgreSQL, in a schema `moorline` of their own, their version, and how older ones are migrated.

The tables are those of the SQLite file (see `sqlite/schema.py`), and what many processes need. A process has a row in
`owners`, whose lease it renews by the database's clock; a run has its session's `owner` and `fence`. The lease decides
when others may act for an owner, which begins with a new fence; the fence alone decides who may write. So the writes of
an owner that was stopped for longer than its lease are refused when it continues, whatever its clock shows.

Sessions are updated in place for every piece of text: nothing that changes then is indexed, and each page keeps some
free space, so that such an update touches no index and needs no vacuum.

A session that begins shares the lock of its row in `epoch_seeds`, and an erasure replaces the seed in a transaction
before that which deletes the session: so an id that is erased and used again never gets an epoch that it has had.
"""

from typing import Any

from moorline.backend.eventlog.base import EPOCH_BUCKETS
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.gateway.common.errors import UsageError

__all__ = ["MIGRATIONS", "VERSION", "migrate"]

_FIRST = """
CREATE TABLE owners (
    id text PRIMARY KEY,
    lease_until timestamptz NOT NULL
);
CREATE TABLE sessions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session_id text COLLATE "C" NOT NULL UNIQUE,
    patient_id text NOT NULL,
    epoch text NOT NULL,
    head bigint NOT NULL DEFAULT 0,
    fence bigint NOT NULL DEFAULT 0,
    active_run_id text,
    owner text,
    claimed_at timestamptz,
    takeovers integer NOT NULL DEFAULT 0,
    cancel_requested boolean NOT NULL DEFAULT false,
    written bigint NOT NULL DEFAULT 0,
    touched_at double precision NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX sessions_active ON sessions (owner) WHERE active_run_id IS NOT NULL;
CREATE INDEX sessions_touched ON sessions (touched_at);
CREATE TABLE runs (
    run_id text COLLATE "C" PRIMARY KEY,
    session bigint NOT NULL REFERENCES sessions ON DELETE CASCADE,
    message_id text NOT NULL,
    user_seq bigint NOT NULL,
    started_seq bigint NOT NULL,
    finish text
);
CREATE INDEX runs_session ON runs (session);
CREATE TABLE commands (
    session bigint NOT NULL REFERENCES sessions ON DELETE CASCADE,
    client_msg_id text COLLATE "C" NOT NULL,
    run_id text NOT NULL,
    user_seq bigint NOT NULL,
    retry_of text,
    PRIMARY KEY (session, client_msg_id)
);
CREATE TABLE events (
    session bigint NOT NULL REFERENCES sessions ON DELETE CASCADE,
    seq bigint NOT NULL,
    kind smallint NOT NULL,
    run_id text NOT NULL,
    message_id text NOT NULL,
    content text NOT NULL,
    at double precision NOT NULL,
    client_msg_id text,
    from_seq bigint,
    finish text,
    error_code text,
    error_retryable boolean,
    error_retry_after double precision,
    input_tokens bigint,
    output_tokens bigint,
    PRIMARY KEY (session, seq)
);
"""

# As in the SQLite file.
_SECOND = f"""
CREATE TABLE epoch_seeds (bucket integer PRIMARY KEY, seed text NOT NULL);
INSERT INTO epoch_seeds SELECT bucket, gen_random_uuid()::text FROM generate_series(0, {EPOCH_BUCKETS - 1}) bucket;
DELETE FROM sessions WHERE head = 0;
"""

# As in the SQLite file.
_THIRD = "ALTER TABLE events ADD COLUMN parts text"

_FOURTH = "ALTER TABLE runs ADD COLUMN principal text"

# As in the SQLite file.
_FIFTH = "CREATE INDEX sessions_patient ON sessions (patient_id, touched_at, session_id)"

#: Step n turns version n into n + 1. Steps are only ever added, and each leaves room for processes of the version
#: before, which go on running while a new one starts.
MIGRATIONS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH)

#: What this program writes.
VERSION = len(MIGRATIONS)

# Locked by the process that migrates; a number that no other program is likely to use ("moorline").
_LOCK = 0x6D6F6F726C696E65


async def migrate(connection: Connection, name: str) -> None:
    """Bring the database to VERSION, in one transaction, alone; `name` is the database in a message.

    Raises:
        UsageError: it was written by a newer program, or cannot hold every text.
    """
    async with connection.transaction():
        # Another process may be migrating; a large step may take longer than the timeouts.
        await connection.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        encoding, schema, table = await _one(
            connection,
            "SELECT current_setting('server_encoding'), to_regnamespace('moorline') IS NOT NULL,"
            " to_regclass('moorline.version') IS NOT NULL",
        )
        if encoding != "UTF8":
            raise UsageError(f"database: \"{name}\" has the encoding {encoding}; create it with ENCODING 'UTF8'")
        if not schema:
            # Not "IF NOT EXISTS": that requires the right to create it also where it exists.
            await connection.execute("CREATE SCHEMA moorline")
        if not table:
            await connection.execute("CREATE TABLE version (number integer NOT NULL)")
            await connection.execute("INSERT INTO version VALUES (0)")
        (found,) = await _one(connection, "SELECT number FROM version")
        if found > VERSION:
            raise UsageError(
                f'database: "{name}" was written by a newer moorline (schema {found}, this one knows {VERSION}); '
                "update moorline or choose another with --database"
            )
        for step in MIGRATIONS[found:]:
            await connection.execute(step)
        if found != VERSION:
            await connection.execute("UPDATE version SET number = %s", (VERSION,))


async def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    found = await (await connection.execute(query)).fetchone()
    assert found is not None
    return found
