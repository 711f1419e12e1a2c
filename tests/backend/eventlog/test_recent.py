"""Text that is in the table `recent`, before and after it is merged into `events`."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from moorline.backend.eventlog.base import LogUnavailable, Piece, RunHandle
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite import recent
from moorline.backend.eventlog.sqlite.committer import Transaction
from moorline.backend.eventlog.sqlite.store import SQLiteStore
from moorline.backend.eventlog.sqlite.texts import add_texts
from moorline.backend.events import Finish
from moorline.backend.parts import Source
from tests.support.eventlogs import NOW, database_at, handle_of, in_use, opened, read_view, start

SOURCE = Source("Guideline", "https://example.com/")


@contextlib.asynccontextmanager
async def sqlite_log(folder: Path) -> AsyncIterator[tuple[EventLog, SQLiteStore]]:
    store = SQLiteStore(str(folder / "chat.db"))
    async with in_use(EventLog(store)) as log:
        yield log, store


async def counted(store: SQLiteStore) -> tuple[int, int]:
    """The rows of `recent`, and the pieces in `events`."""

    def count(tx: Transaction) -> tuple[int, int]:
        (rows,) = tx.db.execute("SELECT count(*) FROM recent").fetchone()
        (pieces,) = tx.db.execute("SELECT count(*) FROM events WHERE kind = 3").fetchone()
        return rows, pieces

    return await store.committer.submit(count)


async def write(log: EventLog, run: RunHandle, texts: Sequence[str]) -> None:
    for text in texts:
        await log.add_text(run, text)


async def test_a_commit_of_text_writes_one_row_whatever_the_number_of_its_sessions(tmp_path: Path) -> None:
    async with sqlite_log(tmp_path) as (log, store):
        runs = [handle_of(await start(log, f"s{number}")) for number in range(9)]
        await asyncio.gather(*(log.add_text(run, "x") for run in runs))
        assert await counted(store) == (1, 0)


async def test_an_answer_is_read_whole_while_part_of_it_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "MAX_PIECES", 3)
    async with sqlite_log(tmp_path) as (log, store):
        run = handle_of(await start(log, "s"))
        await write(log, run, ["a", "b", "c"])
        await log.add_part(run, SOURCE)
        await write(log, run, ["d"])
        assert await counted(store) == (1, 4)
        view, snapshot = await read_view(log, "s"), await log.snapshot("s")
        assert view.run is not None
        assert (view.run.text, view.run.parts) == ("abcd", (SOURCE,))
        assert snapshot is not None
        assert (snapshot.run, snapshot.position.seq) == (view.run, view.seq)


@pytest.mark.parametrize("limit", [1, 2, 3, 9])
async def test_a_reader_gets_as_many_events_as_it_asks_for_from_both_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(recent, "MAX_PIECES", 1)
    async with sqlite_log(tmp_path) as (log, _):
        run = handle_of(await start(log, "s"))
        await write(log, run, ["a", "b", "c"])
        # Without an epoch the database is asked.
        assert [event.seq for event in await log.read_after("s", 3, limit=limit)] == [4, 5][:limit]
        assert [event.seq for event in await log.read_after("s", 2, limit=limit)] == [3, 4, 5][:limit]


async def test_a_full_table_is_merged_session_by_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_PIECES", 8)
    monkeypatch.setattr(recent, "_MERGED_PIECES", 0)
    answer = "".join(f"{number} " for number in range(10))
    async with sqlite_log(tmp_path) as (log, store):
        runs = [handle_of(await start(log, f"s{number}")) for number in range(4)]
        for number in range(10):
            for run in runs:
                await log.add_text(run, f"{number} ")
        rows, pieces = await counted(store)
        assert 0 < rows <= 8
        assert 40 - 8 <= pieces < 40
        for run in runs:
            view = await read_view(log, run.session_id)
            assert view.run is not None
            assert view.run.text == answer
    async with opened(database_at(tmp_path)) as log:
        for run in runs:
            assert (await read_view(log, run.session_id)).rows[-1].content == answer


async def test_both_bounds_lead_to_a_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "MAX_BYTES", 1000)
    async with sqlite_log(tmp_path) as (log, store):
        run = handle_of(await start(log, "s"))
        await write(log, run, ["x" * 400] * 3)
        assert await counted(store) == (0, 3)


async def test_rows_of_an_answer_that_has_ended_add_nothing_to_the_next_one(tmp_path: Path) -> None:
    async with opened(database_at(tmp_path)) as log:
        run = handle_of(await start(log, "s"))
        await write(log, run, ["first ", "answer"])
        await log.end_run(run, finish=Finish.STOP, now=NOW)
        await write(log, handle_of(await start(log, "s", "m2")), ["second ", "answer"])
    # As a process finds it that starts after a kill: what is in memory alone is gone.
    async with opened(database_at(tmp_path)) as log:
        rows = (await read_view(log, "s")).rows
        assert [row.content for row in rows if row.role == "assistant"] == ["first answer", "second answer"]


@pytest.mark.parametrize("ends", [False, True])
async def test_nothing_is_left_of_the_text_of_an_erased_chat(tmp_path: Path, ends: bool) -> None:  # noqa: FBT001
    async with opened(database_at(tmp_path)) as log:
        run, other = handle_of(await start(log, "s")), handle_of(await start(log, "t"))
        await asyncio.gather(log.add_text(run, "secret"), log.add_text(other, "kept"))
        if ends:
            await log.end_run(run, finish=Finish.STOP, now=NOW)
        await log.delete_session("s")
        for name in ("chat.db", "chat.db-wal"):
            assert b"secret" not in (tmp_path / name).read_bytes()
        view = await read_view(log, "t")
        assert view.run is not None
        assert view.run.text == "kept"


async def test_what_a_transaction_that_is_undone_has_added_is_not_read(tmp_path: Path) -> None:
    def add_and_fail(tx: Transaction, run: RunHandle) -> None:
        tx.db.execute("SELECT 1")
        add_texts(tx, [Piece(run, "undone", None)])
        raise sqlite3.OperationalError("disk I/O error")

    async with sqlite_log(tmp_path) as (log, store):
        run = handle_of(await start(log, "s"))
        await log.add_text(run, "a")
        with pytest.raises(LogUnavailable):
            await store.committer.submit(lambda tx: add_and_fail(tx, run))
        # In one transaction with a command that succeeds.
        failing = store.committer.submit(lambda tx: add_and_fail(tx, run))
        added = store.committer.submit(lambda tx: add_texts(tx, [Piece(run, "b", None)]))
        assert (await asyncio.gather(failing, added, return_exceptions=True))[1] == [4]
        assert [event.seq for event in await log.read_after("s", 0, limit=9)] == [1, 2, 3, 4]
        await log.end_run(run, finish=Finish.STOP, now=NOW)
        assert (await read_view(log, "s")).rows[-1].content == "ab"
