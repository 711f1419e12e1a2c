"""What a write to PostgreSQL does when another process, a lock or a lost connection comes in between."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import psycopg
import pytest

from moorline.backend.eventlog.base import End, Hint, LogUnavailable, RunLost
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.postgres import lease, notify, write
from moorline.backend.eventlog.postgres.connection import Pool, Timing, connect, first_line
from moorline.backend.eventlog.postgres.notify import Notifier
from moorline.backend.eventlog.postgres.store import PostgresStore
from moorline.backend.events import Finish
from tests.support import needs
from tests.support.backends import STEP
from tests.support.eventlogs import NOW, everything, exchange, handle_of, in_use, read_view, start, until
from tests.support.postgres import PostgresServer, holds, relayed

pytestmark = needs.postgres

TIMING = Timing(lease=100, poll=50, answer=2)


@contextlib.asynccontextmanager
async def opened(url: str, timing: Timing = TIMING) -> AsyncIterator[tuple[EventLog, PostgresStore]]:
    store = PostgresStore(url, timing=timing)
    async with in_use(EventLog(store)) as log:
        yield log, store


async def row(url: str, query: str) -> Any:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as db:
        found = await db.execute(query)
        return await found.fetchone() if found.description else None


def after(monkeypatch: pytest.MonkeyPatch, name: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
    """Do `meanwhile` once, after the first call of a function of `write`."""
    function, pending = getattr(write, name), [meanwhile]

    async def interrupted(*arguments: Any) -> Any:
        result = await function(*arguments)
        if pending:
            await pending.pop()()
        return result

    monkeypatch.setattr(write, name, interrupted)


# Other processes ------------------------------------------------------------------------------------------------------


async def test_a_send_that_another_process_overtakes_reads_again(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(postgres_database) as (log, _), opened(postgres_database) as (other, _):
        await exchange(log, "s", patient_id="p")
        after(monkeypatch, "_state", lambda: overtake(other))
        started = await start(log, "s", "mine")
        assert (started.seq, handle_of(started).fence) == (7, 3)
        assert [row.content for row in (await read_view(other, "s")).rows] == ["Hi", "text", "theirs", "", "Hello"]


async def overtake(log: EventLog) -> None:
    run = handle_of(await start(log, "s", "theirs", "theirs"))
    await log.end_run(run, finish=Finish.CANCELLED, now=NOW)


async def test_two_processes_begin_a_session_once(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(postgres_database) as (log, _), opened(postgres_database) as (other, _):
        after(monkeypatch, "_state", lambda: overtake(other))
        assert (await start(log, "s", "mine")).seq == 4


@pytest.mark.parametrize("way", ["it was written to", "a run has begun"])
async def test_a_session_that_is_no_longer_idle_is_not_erased(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    async def meanwhile() -> None:
        if way == "a run has begun":  # with a clock that is late
            await start(log, "s", "m2")
        else:
            run = handle_of(await log.start_run("s", "p", client_msg_id="m2", content="x", now=NOW + 9))
            await log.end_run(run, finish=Finish.STOP, now=NOW + 9)

    async with opened(postgres_database) as (log, _):
        await exchange(log, "s", patient_id="p")
        after(monkeypatch, "_replace_seeds", meanwhile)
        assert await log.expire(NOW + 1) == []
        assert await log.find_session("s") is not None


async def test_a_part_is_looked_for_behind_those_that_were_erased(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "ERASED_AT_ONCE", 3)
    async with opened(postgres_database) as (log, store):
        for number in range(4):
            run = handle_of(await start(log, "s", f"m{number}"))
            await log.end_run(run, finish=Finish.STOP, now=NOW)
        assert await store.thin_out("s", None, 3) == 4
        assert [event.seq for event in await everything(log, "s")] == [1, 2, 3, 7, 8, 9, 10, 11, 12]


async def test_the_next_run_of_a_session_inherits_nothing(postgres_database: str) -> None:
    async with opened(postgres_database) as (log, _):
        run = handle_of(await start(log, "s"))
        await log.add_text(run, "text")
        await log.cancel_run("s", run.run_id)
        await row(postgres_database, "UPDATE moorline.sessions SET takeovers = 2, claimed_at = NULL")
        await log.end_run(run, finish=Finish.CANCELLED, now=NOW)
        await start(log, "s", "m2")
        columns = "takeovers, cancel_requested, written, claimed_at > clock_timestamp() - interval '1 minute'"
        assert await row(postgres_database, f"SELECT {columns} FROM moorline.sessions") == (0, False, 0, True)


async def test_a_cancel_of_a_run_that_is_not_active_is_not_stored(postgres_database: str) -> None:
    async with opened(postgres_database) as (log, _):
        await start(log, "s")
        await log.cancel_run("s", "another")
        assert await row(postgres_database, "SELECT cancel_requested FROM moorline.sessions") == (False,)


# Locks and lost results -----------------------------------------------------------------------------------------------


async def test_a_piece_whose_row_is_locked_fails_alone(postgres_database: str) -> None:
    async with opened(postgres_database, Timing(lease=100, poll=50, answer=1)) as (log, _):
        runs = [handle_of(await start(log, name)) for name in ("s", "locked", "t")]
        async with await psycopg.AsyncConnection.connect(postgres_database) as db:
            await db.execute("SELECT FROM moorline.sessions WHERE session_id = 'locked' FOR UPDATE")
            first, locked, last = await asyncio.gather(
                *(log.add_text(run, "x", at=0) for run in runs), return_exceptions=True
            )
        assert (first, last) == (3, 3)
        assert isinstance(locked, LogUnavailable)
        assert await log.add_text(runs[1], "x", at=0) == 3


async def test_a_piece_without_offset_whose_result_is_lost_is_not_written_twice(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    async with relayed(postgres_server, postgres_database) as line, opened(line.url) as (log, _):
        run = handle_of(await start(log, "s"))
        line.lose_result_of("unnest")
        with pytest.raises(LogUnavailable, match="the connection broke"):
            await log.add_text(run, "once")
        await log.end_run(run, finish=Finish.STOP, now=NOW)
        assert (await read_view(log, "s")).rows[-1].content == "once"


@pytest.mark.parametrize("ended", [False, True])
async def test_a_second_attempt_to_end_a_run_that_was_taken_over_is_lost(postgres_database: str, ended: bool) -> None:  # noqa: FBT001
    async with opened(postgres_database) as (log, _):
        run = handle_of(await start(log, "s"))
        await row(postgres_database, "UPDATE moorline.sessions SET fence = fence + 1")
        if ended:
            await log.end_run(replace(run, fence=run.fence + 1), finish=Finish.INTERRUPTED, now=NOW)
        events = await everything(log, "s")
        db = await connect(postgres_database, TIMING)
        with pytest.raises(RunLost):
            await write.end_run(db, End(run, Finish.STOP, NOW, at=0), 1)
        await db.close()
        assert await everything(log, "s") == events


async def test_a_pool_without_a_free_connection_is_given_up_in_time(postgres_database: str) -> None:
    pool, release = Pool(postgres_database, Timing(answer=0.3), size=1), asyncio.Event()
    busy = asyncio.create_task(pool.run(lambda db, attempt: release.wait()))
    await asyncio.sleep(0)  # it has the only slot
    with pytest.raises(LogUnavailable, match="in use"):
        await asyncio.wait_for(pool.run(lambda db, attempt: release.wait()), STEP)
    release.set()
    await busy
    await pool.close()


@pytest.mark.parametrize(("set_to", "used"), [("off", "on"), ("remote_apply", "remote_apply")])
async def test_a_connection_bounds_its_statements_and_flushes_its_commits(
    postgres_database: str, set_to: str, used: str
) -> None:
    name = postgres_database.rpartition("/")[2].partition("?")[0]
    await row(postgres_database, f"ALTER DATABASE {name} SET synchronous_commit = {set_to}")
    db = await connect(postgres_database, Timing(answer=5))
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "synchronous_commit")
    found = [await (await db.execute("SELECT current_setting(%s)", (each,))).fetchone() for each in names]
    await db.close()
    assert found == [("4s",), ("4s",), ("4s",), (used,)]


def test_only_the_first_line_of_an_error_is_shown() -> None:
    assert (
        first_line(Exception("duplicate key\nDETAIL:  Key (session_id)=(patient:42) already exists."))
        == "duplicate key"
    )
    assert first_line(psycopg.OperationalError()) == "OperationalError"


# Leases and notifications ---------------------------------------------------------------------------------------------


async def test_a_lease_is_as_long_as_its_setting(postgres_database: str) -> None:
    async with opened(postgres_database):
        seconds = "extract(epoch FROM lease_until - clock_timestamp())"
        assert await row(postgres_database, f"SELECT {seconds} BETWEEN 80 AND 100 FROM moorline.owners") == (True,)


async def polled(url: str, store: PostgresStore) -> None:
    """Return after one more poll."""
    (until,) = await row(url, "SELECT lease_until::text FROM moorline.owners")
    store.lease.poll()
    await holds(url, "SELECT lease_until > %s::timestamptz FROM moorline.owners", until)
    # The lease is renewed first; what the poll does then is done before the next one begins.
    (until,) = await row(url, "SELECT lease_until::text FROM moorline.owners")
    store.lease.poll()
    await holds(url, "SELECT lease_until > %s::timestamptz FROM moorline.owners", until)


async def test_a_run_that_has_just_begun_is_not_taken_for_one_whose_begin_was_lost(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(postgres_database) as (log, store):
        run = handle_of(await start(log, "s"))
        # As a poll that has listed the own runs before this one began.
        monkeypatch.setattr(store, "own_runs", dict)
        await polled(postgres_database, store)
        await log.add_text(run, "x")


async def test_any_number_of_orphans_is_recovered(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(postgres_database) as (log, _):
        for number in range(5):
            await start(log, f"s{number}")
    recover, at_once = PostgresStore.recover, list[int]()

    async def noted(store: PostgresStore, orphans: Sequence[lease.Orphan]) -> None:
        at_once.append(len(orphans))
        await recover(store, orphans)

    # Less than the polls with which a log begins would find.
    monkeypatch.setattr(lease, "ORPHANS", 1)
    monkeypatch.setattr(PostgresStore, "recover", noted)
    async with opened(postgres_database) as (log, _):
        ends = [(await read_view(log, f"s{number}")).rows[-1].finish for number in range(5)]
        assert ends == [Finish.INTERRUPTED] * 5
    assert at_once == [1] * 5


async def test_an_orphan_that_another_process_is_taking_over_is_skipped(postgres_database: str) -> None:
    async with opened(postgres_database) as (log, _):
        runs = [handle_of(await start(log, name)) for name in ("theirs", "s")]
    async with await psycopg.AsyncConnection.connect(postgres_database) as db:
        await db.execute("SELECT FROM moorline.sessions WHERE session_id = 'theirs' FOR UPDATE")
        async with opened(postgres_database) as (log, _):
            assert (await read_view(log, "s")).rows[-1].run_id == runs[1].run_id
            assert (await read_view(log, "theirs")).run is not None


@contextlib.asynccontextmanager
async def listening(url: str, received: list[Mapping[str, Hint]]) -> AsyncIterator[asyncio.Event]:
    """A notifier called `me`; the event is set when it asks for a poll."""
    missed = asyncio.Event()
    connect_to = functools.partial(connect, url, TIMING)
    notifier = Notifier(connect_to, "me", TIMING, on_notification=received.append, on_gap=missed.set)
    notifier.start()
    try:
        yield missed
    finally:
        await notifier.stop()


async def test_a_process_that_begins_to_listen_polls_for_what_it_has_missed(postgres_database: str) -> None:
    async with listening(postgres_database, []) as missed:
        await asyncio.wait_for(missed.wait(), STEP)


async def test_a_process_ignores_its_own_notifications(postgres_database: str) -> None:
    received: list[Mapping[str, Hint]] = []
    async with listening(postgres_database, received) as missed:
        await missed.wait()
        for payload in ("me\nown", "other\ntheirs"):
            await row(postgres_database, f"SELECT pg_notify('moorline', '{payload}')")
        await until(lambda: received)
    assert received == [{"theirs": Hint.GROWN}]


async def test_without_a_connection_for_them_few_notifications_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "MAX_PENDING", 2)
    unreachable = AsyncMock(side_effect=psycopg.OperationalError)
    notifier = Notifier(unreachable, "me", TIMING, on_notification=lambda hints: None, on_gap=lambda: None)
    notifier.start()
    notifier.notify({str(number): Hint.GROWN for number in range(5)})
    assert list(notifier._payloads()) == ["me\n0\n1"]
    await notifier.stop()
