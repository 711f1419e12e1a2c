"""The backend as a process of its own."""

import signal
import sqlite3
from pathlib import Path

import aiohttp
import pytest

from tests.support.process import run_program, started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_prints_where_it_is_and_ends_cleanly(number: int, tmp_path: Path) -> None:
    async with started("backend", "--port", "0", cwd=tmp_path) as program, aiohttp.ClientSession() as client:
        assert str(tmp_path / "moorline.db") in await program.line("database")
        assert await program.line("model")
        address = (await program.line("backend", "http://")).split()[1]
        async with client.get(f"{address}/readyz") as response:
            assert response.status == 200
        assert await program.stop(number) == 0
    assert "Traceback" not in program.err


async def test_a_second_process_on_the_same_file_gets_one_line(tmp_path: Path) -> None:
    async with started("backend", "--port", "0", cwd=tmp_path) as program:
        await program.line("database")
        status, out, err = await run_program("backend", "--port", "0", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith("moorline: database: ")
    assert err.count("\n") == 1


async def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "moorline.db").write_text("These are notes, not chats. " * 100)
    status, _, err = await run_program("backend", "--port", "0", cwd=tmp_path)
    assert status == 2
    assert err.startswith("moorline: database: ")
    assert err.count("\n") == 1


async def test_the_database_is_let_go_of_at_the_end(tmp_path: Path) -> None:
    async with started("backend", "--port", "0", cwd=tmp_path) as program:
        await program.line("database")
        assert await program.stop() == 0
    with sqlite3.connect(tmp_path / "moorline.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


async def test_an_option_of_the_gateway_in_the_environment_is_no_matter(tmp_path: Path) -> None:
    environ = {"MOORLINE_UPSTREAM": "http://127.0.0.1:1", "MOORLINE_BACKEND_PORT": "1", "MOORLINE_RELOAD": "true"}
    async with started("backend", "--port", "0", cwd=tmp_path, env=environ) as program:
        await program.line("database")
        assert await program.stop() == 0
    assert "warning" not in program.err
