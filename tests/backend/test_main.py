"""The backend as a process of its own."""

import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import aiohttp
import pytest

from tests.support import needs
from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.process import run_program, started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_it_prints_where_it_is_and_ends_cleanly(number: int, tmp_path: Path) -> None:
    async with (
        started("moorline", "backend", "--port", "0", cwd=tmp_path) as program,
        aiohttp.ClientSession() as client,
    ):
        assert str(tmp_path / "moorline.db") in await program.line("database")
        assert await program.line("model")
        address = (await program.line("backend", "http://")).split()[1]
        async with client.get(f"{address}/readyz") as response:
            assert response.status == 200
        assert await program.stop(number) == 0
    assert "Traceback" not in program.err
    assert f"backend: {signal.Signals(number).name}: draining for at most 10s" in program.err
    assert "backend: ended after" in program.err


async def test_a_second_process_on_the_same_file_gets_one_line(tmp_path: Path) -> None:
    async with started("moorline", "backend", "--port", "0", cwd=tmp_path) as program:
        await program.line("database")
        status, out, err = await run_program("moorline", "backend", "--port", "0", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith("moorline: database: ")
    assert err.count("\n") == 1


async def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "moorline.db").write_text("These are notes, not chats. " * 100, encoding="utf-8")
    status, _, err = await run_program("moorline", "backend", "--port", "0", cwd=tmp_path)
    assert status == 2
    assert err.startswith("moorline: database: ")
    assert err.count("\n") == 1


async def test_the_database_is_released_at_the_end(tmp_path: Path) -> None:
    async with started("moorline", "backend", "--port", "0", cwd=tmp_path) as program:
        await program.line("database")
        assert await program.stop() == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "moorline.db")) as database, database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


async def test_an_option_of_the_gateway_in_the_environment_is_no_matter(tmp_path: Path) -> None:
    environ = {"MOORLINE_UPSTREAM": "http://127.0.0.1:1", "MOORLINE_BACKEND_PORT": "1", "MOORLINE_RELOAD": "true"}
    async with started("moorline", "backend", "--port", "0", cwd=tmp_path, env=environ) as program:
        await program.line("database")
        assert await program.stop() == 0
    assert "warning" not in program.err


@needs.postgres
async def test_a_password_is_printed_nowhere(tmp_path: Path, postgres_server: PostgresServer) -> None:
    database = postgres_server.new_database()
    environ = {"MOORLINE_LOG_LEVEL": "debug"}
    async with started(
        "moorline", "backend", "--port", "0", "--database", database, cwd=tmp_path, env=environ
    ) as program:
        assert "postgresql:///test_" in await program.line("database", "postgresql://")
        await postgres_server.restart()
        await program.line("database", "back")
        assert await program.stop() == 0
    assert PASSWORD not in program.out + program.err
    nowhere = database.replace("/test_", "/nowhere_")
    status, out, err = await run_program(
        "moorline", "backend", "--port", "0", "--database", nowhere, cwd=tmp_path, env=environ
    )
    assert (status, out) == (2, "")
    assert 'moorline: database: "postgresql:///nowhere_' in err.splitlines()[-1]
    assert PASSWORD not in err


@pytest.mark.parametrize(
    ("database", "line"),
    [
        (f"mysql://me:{PASSWORD}@host/x", 'database: "mysql://host/x" is not a database; write for example'),
        (f"postgresql://me:{PASSWORD}@1@host/x", 'database: "postgresql://host/x": in a password'),
    ],
)
async def test_a_wrong_address_is_one_line_without_its_password(tmp_path: Path, database: str, line: str) -> None:
    status, _, err = await run_program("moorline", "backend", "--port", "0", "--database", database, cwd=tmp_path)
    assert status == 2
    assert err.count("\n") == 1
    assert line in err
    assert PASSWORD not in err


async def test_without_the_extra_one_line_says_how_to_install_it(tmp_path: Path) -> None:
    # A folder before the installed packages, with a library that is not there.
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['psycopg'] = None\n", encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    database = "postgresql://host/name"
    status, _, err = await run_program(
        "moorline", "backend", "--port", "0", "--database", database, cwd=tmp_path, env={"PYTHONPATH": paths}
    )
    assert status == 2
    assert err == (
        'moorline: database: the extra "postgres" is missing; in the clone write uv run --extra postgres moorline, '
        'elsewhere uv pip install "../moorline[postgres]"\n'
    )
