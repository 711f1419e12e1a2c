"""What cannot work is said in one line at the start."""

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from tests.support.process import run_program


@pytest.mark.parametrize(
    ("arguments", "environ", "named"),
    [
        (("--heartbeat", "0"), {}, "heartbeat"),
        (("--run-timeout", "0"), {}, "run_timeout"),
        (("--max-bytes", "0"), {}, "max_bytes"),
        (("--max-tokens", "0"), {}, "max_tokens"),
        (("--max-answer", "0"), {}, "max_answer"),
        (("--drain", "99999999999999999999d"), {}, "drain"),
        (("--database", "sqlite:///:memory:"), {}, "database"),
        ((), {"MOORLINE_SUPERVISOR": "abc"}, "MOORLINE_SUPERVISOR"),
        ((), {"MOORLINE_SUPERVISOR": "99"}, "MOORLINE_SUPERVISOR"),
        ((), {"OPENAI_API_KEY": "sk-gehe\u00efm"}, "OPENAI_API_KEY"),
        ((), {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": "ftp://me:geheim@x/v1"}, "OPENAI_BASE_URL"),
        ((), {"OPENAI_API_KEY": "sk", "SSL_CERT_FILE": "/missing.pem"}, 'SSL_CERT_FILE: "/missing.pem"'),
        ((), {"OPENAI_API_KEY": "sk", "SSL_CERT_FILE": "/missing.pem", "https_proxy": "http://x:1"}, "SSL_CERT_FILE"),
        ((), {"OPENAI_API_KEY": "sk", "all_proxy": "socks://me:geheim@127.0.0.1:1080/"}, "all_proxy"),
        ((), {"OPENAI_API_KEY": "sk", "HTTPS_PROXY": "http://me:geheim/x@proxy:3128"}, "HTTPS_PROXY"),
        (("--jwt-issuer", "https://id.example.com"), {}, "jwt_issuer"),
    ],
)
async def test_a_value_that_cannot_work_is_one_line(
    arguments: tuple[str, ...], environ: dict[str, str], named: str, tmp_path: Path
) -> None:
    status, out, err = await run_program("moorline", "backend", "--port", "0", *arguments, cwd=tmp_path, env=environ)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert named in err
    assert "gehe" not in err


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE notes (text)", "PRAGMA application_id = 7", "PRAGMA user_version = 1"]
)
async def test_a_database_of_another_program_is_left_as_it_is(statement: str, tmp_path: Path) -> None:
    path = tmp_path / "moorline.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    database.close()
    before = path.read_bytes()
    status, _, err = await run_program("moorline", "backend", "--port", "0", cwd=tmp_path)
    assert (status, err.count("\n"), path.read_bytes() == before) == (2, 1, True)
    assert "another program" in err


async def test_a_device_is_no_database_and_keeps_its_permissions(tmp_path: Path) -> None:
    mode = os.stat(os.devnull).st_mode
    (tmp_path / "link.db").symlink_to(os.devnull)
    status, _, err = await run_program(
        "moorline", "backend", "--port", "0", "--database", "sqlite:///link.db", cwd=tmp_path
    )
    assert (status, err) == (2, 'moorline: database: "link.db" is not a file; choose another with --database\n')
    assert os.stat(os.devnull).st_mode == mode


async def test_a_fifo_is_no_database_and_holds_no_start_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "moorline.db")
    status, _, err = await run_program("moorline", "backend", "--port", "0", cwd=tmp_path)
    assert (status, err) == (2, 'moorline: database: "moorline.db" is not a file; choose another with --database\n')
