"""What `check` finds of a database that a write has failed on: whether another one would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest

from moorline.backend.eventlog import log as eventlog
from moorline.backend.eventlog.base import DatabaseState, LogUnavailable
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.postgres.connection import Timing
from moorline.backend.eventlog.postgres.store import PostgresStore
from moorline.backend.eventlog.sqlite.store import SQLiteStore
from tests.support import needs
from tests.support.backends import Backend, Script, backend
from tests.support.eventlogs import database_at, handle_of, opened, start


@pytest.fixture
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "_CHECK_WRITE_SECONDS", 0.0)


async def sqlite(log: EventLog, statement: str) -> Any:
    """The first value of a statement's result, on the log's own connection."""
    store = log._store
    assert isinstance(store, SQLiteStore)
    return await store.committer.submit(lambda tx: tx.db.execute(statement).fetchone()[0])


async def readiness(server: Backend) -> str:
    async with aiohttp.request("GET", f"{server.http}/readyz") as answer:
        assert answer.status == 200
        return str((await answer.json())["database"])


@pytest.mark.usefixtures("unbounded")
async def test_a_disk_with_room_again_is_found_without_a_message(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        pages = await sqlite(server.log, "PRAGMA page_count")
        await sqlite(server.log, f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LogUnavailable):
            await start(server.log, "s", content="x" * 100_000)
        assert [await readiness(server) for _ in range(2)] == ["full", "full"]
        await sqlite(server.log, f"PRAGMA max_page_count = {pages + 100}")
        assert await readiness(server) == "ok"
        assert await server.log.find_session("s") is None


@pytest.mark.usefixtures("unbounded")
async def test_an_outage_is_two_lines_in_the_log_however_many_fail(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with opened(database_at(tmp_path)) as log:
        pages = await sqlite(log, "PRAGMA page_count")
        await sqlite(log, f"PRAGMA max_page_count = {pages}")
        for name in ("s", "s", "s"):
            with pytest.raises(LogUnavailable):
                await start(log, name, content="x" * 100_000)
        await sqlite(log, f"PRAGMA max_page_count = {pages + 100}")
        await log.check()
    lines = [record.getMessage() for record in caplog.records if "event log" in record.getMessage()]
    assert lines == ["event log unavailable: database or disk is full", "event log restored"]


async def test_a_read_is_no_commit(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        await start(log, "s")
        before = log.commits
        assert await log.find_session("s") is not None
        assert log.commits == before


async def test_a_write_is_tried_once_in_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[None] = []
    check_write: Callable[..., Any] = SQLiteStore.check_write

    async def counted(store: SQLiteStore) -> None:
        tried.append(None)
        await check_write(store)

    monkeypatch.setattr(SQLiteStore, "check_write", counted)
    async with backend(tmp_path, Script()) as server:
        await readiness(server)
        assert not tried
        await sqlite(server.log, f"PRAGMA max_page_count = {await sqlite(server.log, 'PRAGMA page_count')}")
        with pytest.raises(LogUnavailable):
            await start(server.log, "s", content="x" * 100_000)
        assert {await readiness(server) for _ in range(5)} == {"full"}
    assert len(tried) == 1


@needs.postgres
@pytest.mark.usefixtures("unbounded")
async def test_a_lock_that_was_released_is_found_without_a_message(postgres_database: str) -> None:
    log = EventLog(PostgresStore(postgres_database, timing=Timing(answer=0.8), notifications=False))
    await log.open()
    try:
        with psycopg.connect(postgres_database) as db:
            db.execute("LOCK TABLE moorline.events IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(LogUnavailable):
                await start(log, "s")
            await log.check()
            found = [log.database]
        await log.check()
        assert [*found, log.database] == [DatabaseState.LOCKED, DatabaseState.OK]
        assert handle_of(await start(log, "s")).fence == 1
        with psycopg.connect(postgres_database) as db:
            assert db.execute("SELECT count(*) FROM moorline.sessions").fetchone() == (1,)
    finally:
        await log.close()
