"""The tables in PostgreSQL, in a schema `moorline` of their own, their version, and how older ones are migrated.

The tables are those of the SQLite file (see `sqlite/schema.py`), and what many processes need. A process has a row in
`owners`, whose lease it renews by the database's clock; a run has its session's `owner` and `fence`. The lease decides
when others may act for an owner, which begins with a new fence; the fence alone decides who may write. So the writes of
an owner that was stopped for longer than its lease are refused when it continues, whatever its clock shows.

Sessions are updated in place for every piece of text: nothing that changes then is indexed, and each page keeps some
free space, so that such an update touches no index and needs no vacuum.

What was erased is named in a schema of its own, `moorline_erasures`, by the key that `sqlite/erasure_log.py` describes,
in the statement that erases it. A dump of the schema `moorline` lacks it, and a restore of that leaves it as it is. The
table `version` holds the number that PostgreSQL gave to the table `sessions`: where the two differ the tables were
restored. Then what the erasures name is deleted, and every session gets another epoch, as `sqlite/erasure.py` does it.

A session that begins shares the lock of its row in `epoch_seeds`, and an erasure replaces the seed in a transaction
before that which deletes the session: so an id that is erased and used again never gets an epoch that it has had.
"""

import logging
from typing import Any

from moorline.backend.eventlog.base import EPOCH_BUCKETS, IDENTITY_BUCKET
from moorline.backend.eventlog.postgres.connection import Connection
from moorline.gateway.common.config.units import counted
from moorline.gateway.common.errors import UsageError

__all__ = ["KEY", "MIGRATIONS", "VERSION", "migrate"]

log = logging.getLogger("moorline.backend")

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

_SIXTH = "ALTER TABLE version ADD COLUMN sessions_oid oid"

_SEVENTH = """
CREATE TABLE tickets (
    digest text COLLATE "C" PRIMARY KEY,
    patient_id text NOT NULL,
    session_id text,
    principal text NOT NULL,
    metadata text NOT NULL,
    expires double precision,
    valid_until double precision NOT NULL
);
CREATE INDEX tickets_valid ON tickets (valid_until);
"""

# As in the SQLite file. Each process reads the latest at every poll.
_EIGHTH = """
CREATE TABLE revocations (principal text COLLATE "C" PRIMARY KEY, at double precision NOT NULL);
CREATE INDEX revocations_at ON revocations (at);
ALTER TABLE tickets ADD COLUMN issued double precision;
"""

# As in the SQLite file.
_NINTH = f"INSERT INTO epoch_seeds VALUES ({IDENTITY_BUCKET}, gen_random_uuid()::text)"

#: Step n turns version n into n + 1. Steps are only ever added, and each leaves room for processes of the version
#: before, which go on running while a new one starts.
MIGRATIONS = (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH, _SIXTH, _SEVENTH, _EIGHTH, _NINTH)

#: What this program writes.
VERSION = len(MIGRATIONS)

_ERASURES = "CREATE TABLE moorline_erasures.erasures (at timestamptz NOT NULL DEFAULT now(), key text NOT NULL)"

#: The key of the session whose first event is `e`, as `erasure_key` computes it.
KEY = "left(encode(sha256(convert_to(e.message_id, 'UTF8')), 'hex'), 32)"

_ERASE_AGAIN = f"""
DELETE FROM sessions s USING events e
WHERE e.session = s.id AND e.seq = 1 AND {KEY} IN (SELECT key FROM moorline_erasures.erasures)
"""

_RESTORED = """
UPDATE sessions SET epoch = replace(gen_random_uuid()::text, '-', '');
UPDATE epoch_seeds SET seed = gen_random_uuid()::text;
DELETE FROM tickets;
"""

# Locked by the process that migrates; a number that no other program is likely to use ("moorline").
_LOCK = 0x6D6F6F726C696E65


async def migrate(connection: Connection, name: str) -> str:
    """Bring the database to VERSION, in one transaction, alone; its `Store.identity`. `name` is that in a message.

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
        await _catch_up(connection)
        (identity,) = await _one(connection, f"SELECT seed FROM epoch_seeds WHERE bucket = {IDENTITY_BUCKET}")
        return str(identity)


async def _catch_up(connection: Connection) -> None:
    """Erase again what the erasures name, where the tables were restored since a process has opened them."""
    # Not a step: a database that was restored elsewhere may lack the erasures.
    schema, table = await _one(
        connection,
        "SELECT to_regnamespace('moorline_erasures') IS NOT NULL,"
        " to_regclass('moorline_erasures.erasures') IS NOT NULL",
    )
    if not schema:
        await connection.execute("CREATE SCHEMA moorline_erasures")
    if not table:
        await connection.execute(_ERASURES)
    stored, actual = await _one(connection, "SELECT sessions_oid, 'sessions'::regclass::oid FROM version")
    if stored == actual:
        return
    await connection.execute("UPDATE version SET sessions_oid = %s", (actual,))
    # None: it was written by a version that did not store it.
    if stored is not None:
        if not table:
            log.warning(
                "the database was restored without the schema moorline_erasures: what was erased since is in it again; "
                "restore both before a backend starts, see the page Production"
            )
        erased = (await connection.execute(_ERASE_AGAIN)).rowcount
        await connection.execute(_RESTORED)
        log.info("the database was restored from an earlier time: %s erased again", counted(erased, "session"))


async def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    found = await (await connection.execute(query)).fetchone()
    assert found is not None
    return found
