"""A database as the first stage of moorline wrote it, before parts, authors and tickets: the program goes on with it.

Its tables and rows are kept here as that program made them, and not as today's steps of the migration would.
"""

import contextlib
import sqlite3
from pathlib import Path

import aiohttp
import psycopg
import pytest

from moorline.backend.eventlog.postgres import schema as postgres
from moorline.backend.eventlog.sqlite import schema as sqlite
from tests.support import needs
from tests.support.backend_process import BackendProcess, backend_process
from tests.support.backends import hello, receive_until, say
from tests.support.eventlogs import database_at
from tests.support.openai_server import DONE, finish, openai_server, says
from tests.support.postgres import PASSWORD
from tests.support.process import run_program

EPOCH = "839db1ad83f9b81689f6cf4741407be6"
SQLITE = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY,
    session_id TEXT NOT NULL UNIQUE,
    patient_id TEXT NOT NULL,
    epoch TEXT NOT NULL,
    head INTEGER NOT NULL DEFAULT 0,
    fence INTEGER NOT NULL DEFAULT 0,
    active_run_id TEXT,
    touched_at REAL NOT NULL
, written INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX sessions_active ON sessions (id) WHERE active_run_id IS NOT NULL;
CREATE INDEX sessions_touched ON sessions (touched_at);
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
PRAGMA user_version = 2;
"""
POSTGRES = """
CREATE SCHEMA moorline;
SET search_path = moorline;
CREATE TABLE version (number integer NOT NULL);
INSERT INTO version VALUES (1);
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
#: Opened by a handshake and never used; and a chat with a whole answer, one that failed, its retry that was cancelled,
#: and one within which the program was killed.
ROWS = f"""
INSERT INTO sessions (session_id, patient_id, epoch, touched_at)
    VALUES ('opened', 'patient:demo', 'e6693cb45d0c0976a8aa0a0b6866bb07', 1764000000.0);
INSERT INTO sessions (session_id, patient_id, epoch, head, fence, active_run_id, touched_at, written)
    VALUES ('s1', 'patient:demo', '{EPOCH}', 14, 4, 'run4', 1764000090.0, 7);
INSERT INTO runs VALUES ('run1', 2, 'answer1', 1, 2, 'stop');
INSERT INTO runs VALUES ('run2', 2, 'answer2', 6, 7, 'error');
INSERT INTO runs VALUES ('run3', 2, 'answer3', 6, 9, 'cancelled');
INSERT INTO runs VALUES ('run4', 2, 'answer4', 11, 12, NULL);
INSERT INTO commands VALUES (2, 'c1', 'run1', 1, NULL);
INSERT INTO commands VALUES (2, 'c2', 'run2', 6, NULL);
INSERT INTO commands VALUES (2, 'c3', 'run3', 6, 'run2');
INSERT INTO commands VALUES (2, 'c4', 'run4', 11, NULL);
INSERT INTO events (session, seq, kind, run_id, message_id, content, at, client_msg_id) VALUES
    (2, 1, 1, 'run1', 'question1', 'I cannot sleep.', 1764000000.0, 'c1'),
    (2, 6, 1, 'run2', 'question2', 'And now?', 1764000060.0, 'c2'),
    (2, 11, 1, 'run4', 'question4', 'Are you there?', 1764000090.0, 'c4');
INSERT INTO events (session, seq, kind, run_id, message_id, content, at) VALUES
    (2, 2, 2, 'run1', 'answer1', '', 1764000000.0),
    (2, 7, 2, 'run2', 'answer2', '', 1764000060.0),
    (2, 9, 2, 'run3', 'answer3', '', 1764000070.0),
    (2, 12, 2, 'run4', 'answer4', '', 1764000090.0),
    (2, 13, 3, 'run4', 'answer4', 'I am ', 0.0),
    (2, 14, 3, 'run4', 'answer4', 'he', 0.0);
INSERT INTO events VALUES
    (2, 5, 4, 'run1', 'answer1', 'Take a deep breath.', 1764000002.0, NULL, 3, 'stop', NULL, NULL, NULL, 12, 5),
    (2, 8, 4, 'run2', 'answer2', '', 1764000061.0, NULL, 8, 'error', 'llm_unavailable', TRUE, 2.0, NULL, NULL),
    (2, 10, 4, 'run3', 'answer3', 'Try', 1764000071.0, NULL, 10, 'cancelled', NULL, NULL, NULL, NULL, NULL);
"""
#: The process that was killed.
OWNER = """
INSERT INTO owners VALUES ('another', now() - interval '1 day');
UPDATE sessions SET owner = 'another', claimed_at = now() - interval '1 day' WHERE active_run_id IS NOT NULL;
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs.postgres)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of one that the first stage wrote."""
    if request.param == "sqlite":
        (tmp_path / "chat.db").touch(0o600)
        with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as file:
            file.executescript(SQLITE + ROWS)
        return database_at(tmp_path)
    url: str = request.getfixturevalue("postgres_database")
    with psycopg.connect(url) as db:
        db.execute((POSTGRES + ROWS + OWNER).encode())
    return url


async def rows_of(server: BackendProcess) -> list[tuple[str, str | None]]:
    """Each message of the chat, and how its run ended."""
    url = f"{server.http}/api/chat/s1/messages?patient_id=patient:demo"
    async with aiohttp.request("GET", url) as response:
        return [(row["content"], row.get("finish")) for row in await response.json()]


async def test_a_chat_of_the_first_stage_is_read_resumed_and_gone_on_with(database: str, tmp_path: Path) -> None:
    async with openai_server() as model, backend_process(tmp_path, model, "--database", database) as server:
        async with server.socket() as socket:
            # In the middle of the first answer's text, whose pieces are gone.
            (greeting,) = await hello(socket, resume={"epoch": EPOCH, "seq": 12})
            assert greeting["recovered"] is True
            end = (await receive_until(socket, "message"))[-1]
            assert (end["run_id"], end["content"], end["finish"]) == ("run4", "I am he", "interrupted")
            await say(socket, type="send", message="I cannot sleep.", client_msg_id="c1")
            ack = (await receive_until(socket, "ack"))[-1]
            assert (ack["run_id"], ack["seq"], ack["duplicate"]) == ("run1", 1, True)
            model.reply(says("Yes."), finish("stop"), DONE)
            await say(socket, type="retry", run_id="run4", client_msg_id="c5")
            again = (await receive_until(socket, "message"))[-1]
            assert (again["content"], again["finish"]) == ("Yes.", "stop")
        assert await rows_of(server) == [
            ("I cannot sleep.", None),
            ("Take a deep breath.", "stop"),
            ("And now?", None),
            ("", "error"),
            ("Try", "cancelled"),
            ("Are you there?", None),
            ("I am he", "interrupted"),
            ("Yes.", "stop"),
        ]
        url = f"{server.http}/api/patients/patient:demo/sessions"
        async with aiohttp.request("GET", url) as response:
            assert [session["session_id"] for session in (await response.json())["sessions"]] == ["s1"]


async def test_a_session_that_was_only_opened_is_no_patients_yet(database: str, tmp_path: Path) -> None:
    async with (
        openai_server() as model,
        backend_process(tmp_path, model, "--database", database) as server,
        server.socket("opened", "patient:other") as socket,
    ):
        assert (await hello(socket))[0]["type"] == "hello"


async def test_a_database_of_a_newer_program_is_refused_in_one_line(database: str, tmp_path: Path) -> None:
    if database.startswith("sqlite"):
        known = sqlite.VERSION
        with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as file:
            file.execute(f"PRAGMA user_version = {known + 1}")
    else:
        known = postgres.VERSION
        with psycopg.connect(database) as db:
            db.execute("UPDATE moorline.version SET number = %s", (known + 1,))
    # Not as an argument, where its password would be a warning.
    environ = {"MOORLINE_DATABASE": database}
    status, _, err = await run_program("moorline", "backend", "--port", "0", cwd=tmp_path, env=environ)
    assert status == 2
    (line,) = err.splitlines()
    assert f"was written by a newer moorline (schema {known + 1}, this one knows {known})" in line
    assert PASSWORD not in line
