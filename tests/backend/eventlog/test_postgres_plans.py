"""What a statement of a long session reads: as much as of a short one, whatever PostgreSQL's planner expects."""

import contextlib
import itertools
from collections.abc import AsyncIterator

import pytest

from moorline.backend.eventlog.base import SNAPSHOT_ROWS
from moorline.backend.eventlog.postgres import read, write
from moorline.backend.eventlog.postgres.connection import Connection, Timing, connect
from tests.bench.growth_fill import fill
from tests.support import needs
from tests.support.eventlogs import opened

pytestmark = needs.postgres

TURNS = 2000
#: A row may be read by two statements, and has an author.
PER_ROW = 3


@contextlib.asynccontextmanager
async def with_long_session(url: str, *, short: int = 0) -> AsyncIterator[Connection]:
    """A transaction on a database with the session `long0` and so many short ones."""
    async with opened(url):
        pass  # the tables
    if short:
        fill(url, prefix="short", sessions=short, turns=1)
    fill(url, prefix="long", sessions=1, turns=TURNS)
    async with await connect(url, Timing(answer=20)) as db, db.transaction():
        yield db


async def rows_read(db: Connection) -> int:
    """From the tables, in this transaction until now."""
    found = await db.execute("SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int FROM pg_stat_xact_user_tables")
    ((count,),) = await found.fetchall()
    return int(count)


@pytest.mark.parametrize("plan", ["custom", "generic"])
async def test_the_snapshot_of_a_long_session_reads_what_it_shows(postgres_database: str, plan: str) -> None:
    async with with_long_session(postgres_database) as db:
        await db.execute(f"SET LOCAL plan_cache_mode = force_{plan}_plan")
        before = await rows_read(db)
        assert await read.snapshot(db, "long0") is not None
        assert await rows_read(db) - before < PER_ROW * SNAPSHOT_ROWS


@pytest.mark.parametrize("plan", ["custom", "generic"])
async def test_an_older_page_of_a_long_session_is_read_from_its_end(postgres_database: str, plan: str) -> None:
    async with with_long_session(postgres_database) as db:
        await db.execute(f"SET LOCAL plan_cache_mode = force_{plan}_plan")
        before = await rows_read(db)
        assert len(await read.rows(db, "long0", TURNS, 50)) == 50
        assert await rows_read(db) - before < PER_ROW * 50


@pytest.mark.parametrize("short", [0, 200])
async def test_each_part_of_an_erasure_reads_its_own_rows(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch, short: int
) -> None:
    monkeypatch.setattr(write, "ERASED_AT_ONCE", 300)
    # Where most sessions are short, the planner takes each for one: it does not know which is erased.
    async with with_long_session(postgres_database, short=short) as db:
        # Tables as small as here would be read whole.
        await db.execute("SET LOCAL enable_seqscan = off")
        read, begin = [await rows_read(db)], 1
        while (found := await write.thin_out(db, "long0", None, begin)) is not None:
            begin = found
            read.append(await rows_read(db))
    assert len(read) == 3 * TURNS // 300
    # Its events, a run and two reads of a command each.
    assert max(after - before for before, after in itertools.pairwise(read)) < 2.5 * 300
