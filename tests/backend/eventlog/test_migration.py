"""A database of each earlier schema is brought up to date when it is opened, with the chats that are in it."""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from moorline.backend.eventlog.postgres import schema as postgres
from moorline.backend.eventlog.sqlite import schema as sqlite
from moorline.backend.events import Finish
from tests.support import needs
from tests.support.eventlogs import NOW, database_at, handle_of, opened

#: A message and its answer, in columns that every schema has.
CHAT = """
INSERT INTO sessions (session_id, patient_id, epoch, head, fence, touched_at) VALUES ('s', 'p', 'e', 3, 1, 1.0);
INSERT INTO runs (run_id, session, message_id, user_seq, started_seq, finish) VALUES ('r', 1, 'm2', 1, 2, 'stop');
INSERT INTO commands (session, client_msg_id, run_id, user_seq) VALUES (1, 'c', 'r', 1);
INSERT INTO events (session, seq, kind, run_id, message_id, content, at, client_msg_id)
    VALUES (1, 1, 1, 'r', 'm1', 'Hello', 1.0, 'c');
INSERT INTO events (session, seq, kind, run_id, message_id, content, at) VALUES (1, 2, 2, 'r', 'm2', '', 1.0);
INSERT INTO events (session, seq, kind, run_id, message_id, content, at, from_seq, finish)
    VALUES (1, 3, 4, 'r', 'm2', 'Good day', 1.0, 3, 'stop');
"""


def create(database: str, steps: Sequence[str]) -> None:
    """A database of the schema that these steps make."""
    statements = ";".join([*steps, CHAT])
    if database.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as file:
            file.executescript(f"{statements}; PRAGMA user_version = {len(steps)}")
    else:
        with psycopg.connect(database) as db:
            db.execute("CREATE SCHEMA moorline; SET search_path = moorline; CREATE TABLE version (number integer)")
            db.execute(f"INSERT INTO version VALUES ({len(steps)}); {statements}".encode())


async def check(database: str) -> None:
    """What was written is there, and the chat goes on."""
    async with opened(database) as log:
        again = await log.start_run("s", "p", client_msg_id="c", content="Hello", now=NOW)
        assert (again.run_id, again.duplicate) == ("r", True)
        run = await log.start_run("s", "p", client_msg_id="c2", content="And now?", now=NOW, principal="dr.who")
        await log.end_run(handle_of(run), finish=Finish.STOP, now=NOW, text="Now", at=0)
        rows = await log.rows("s", before=None, limit=9)
    assert [(row.content, row.author) for row in rows] == [
        ("Hello", None),
        ("Good day", None),
        ("And now?", "dr.who"),
        ("Now", None),
    ]


@pytest.mark.parametrize("version", range(1, sqlite.VERSION))
async def test_a_file_of_an_earlier_schema_is_read_and_written(tmp_path: Path, version: int) -> None:
    create(database_at(tmp_path), sqlite.MIGRATIONS[:version])
    await check(database_at(tmp_path))


@needs.postgres
@pytest.mark.parametrize("version", range(1, postgres.VERSION))
async def test_a_postgresql_of_an_earlier_schema_is_read_and_written(postgres_database: str, version: int) -> None:
    create(postgres_database, postgres.MIGRATIONS[:version])
    await check(postgres_database)
