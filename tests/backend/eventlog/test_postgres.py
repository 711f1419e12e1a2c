"""What many processes on one database add to the contract. Here they are many logs; see also `test_owners.py`."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from moorline.backend import eventlog
from moorline.backend.eventlog.base import Hint, LogUnavailable, RunLost
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.postgres.connection import Timing, unencrypted_hosts
from moorline.backend.eventlog.postgres.schema import VERSION
from moorline.backend.eventlog.postgres.store import PostgresStore
from moorline.backend.events import Finish, PartialAnswer
from moorline.backend.settings import has_password
from moorline.gateway.common.errors import UsageError
from tests.support import needs
from tests.support.eventlogs import NOW, RecordingOwner, everything, handle_of, in_use, opened, read_view, start, until
from tests.support.postgres import PASSWORD, PostgresServer, holds, relayed

pytestmark = needs.postgres

#: Hints alone: no poll comes in time.
NOTIFIED = {"timing": Timing(lease=100, poll=50, answer=2)}
#: The poll alone.
POLLED = {"timing": Timing(lease=5, poll=0.1, answer=2), "notifications": False}
STEP = 10.0


def another(url: str, **options: Any) -> contextlib.AbstractAsyncContextManager[EventLog]:
    """One more process's log, open."""
    return in_use(EventLog(PostgresStore(url, **options)))


@contextlib.asynccontextmanager
async def two(url: str, **options: Any) -> AsyncIterator[tuple[EventLog, EventLog]]:
    """Two that know of each other and listen."""
    async with another(url, **options) as one, another(url, **options) as other:
        for log in (one, other):
            store_of(log).lease.poll()
        if options.get("notifications", True):
            await notified(one, other)
            await notified(other, one)
        yield one, other


def store_of(log: EventLog) -> PostgresStore:
    assert isinstance(log._store, PostgresStore)
    return log._store


async def notified(one: EventLog, other: EventLog) -> None:
    """Return once `other` receives what `one` sends."""
    sender, receiver = store_of(one).notifier, store_of(other).notifier
    await until(lambda: not sender.sole_process)
    received: list[object] = []
    before, receiver._on_notification = receiver._on_notification, received.append

    def arrived() -> bool:
        sender.notify({"nothing": Hint.GROWN})
        return bool(received)

    await until(arrived)
    receiver._on_notification = before


async def in_time(waiting: Any) -> Any:
    return await asyncio.wait_for(waiting, STEP)


# Between processes ----------------------------------------------------------------------------------------------------


async def test_a_process_that_was_alone_is_notified_of_another_without_a_poll(postgres_database: str) -> None:
    async with another(postgres_database, **NOTIFIED) as one:
        store_of(one).lease.poll()
        await until(lambda: store_of(one).notifier.sole_process)
        async with asyncio.timeout(STEP):
            # More than one, as the first may have come before it listened.
            while store_of(one).notifier.sole_process:
                async with another(postgres_database, **NOTIFIED):
                    pass


@pytest.mark.parametrize("options", [NOTIFIED, POLLED], ids=["by notification", "by polling"])
async def test_all_of_a_run_is_seen_in_another_process(postgres_database: str, options: dict[str, Any]) -> None:
    async def seen(text: str) -> None:
        while (view := await read_view(other, "s")).run != PartialAnswer(run.run_id, run.message_id, text):
            assert view.rows[1:] == ()
            await in_time(watch.wait())

    async with two(postgres_database, **options) as (one, other):
        watch = other.watch("s")
        run = handle_of(await start(one, "s"))
        await seen("")
        for piece, text in (("Good ", "Good "), ("day", "Good day")):
            await one.add_text(run, piece)
            await seen(text)
        await one.end_run(run, finish=Finish.STOP, now=NOW, text="!")
        while (view := await read_view(other, "s")).run is not None:
            await in_time(watch.wait())
        assert view.rows[-1].content == "Good day!"
        assert (await start(other, "s")).duplicate


@pytest.mark.parametrize("options", [NOTIFIED, POLLED], ids=["by notification", "by polling"])
async def test_a_cancel_reaches_the_owner_in_another_process(postgres_database: str, options: dict[str, Any]) -> None:
    async with two(postgres_database, **options) as (one, other):
        owner, bystander = RecordingOwner(), RecordingOwner()
        one.attach(owner)
        other.attach(bystander)
        run = handle_of(await start(one, "s"))
        await other.cancel_run("s", run.run_id)
        assert await in_time(owner.stopped.get()) == run.run_id
        assert bystander.stopped.empty()
        await one.end_run(run, finish=Finish.CANCELLED, now=NOW)


@pytest.mark.parametrize("options", [NOTIFIED, POLLED], ids=["by notification", "by polling"])
async def test_what_is_erased_is_erased_everywhere(postgres_database: str, options: dict[str, Any]) -> None:
    async with two(postgres_database, **options) as (one, other):
        owner = RecordingOwner()
        one.attach(owner)
        run = handle_of(await start(one, "s"))
        await one.add_text(run, "secret")
        epoch = await epoch_of(one)
        watch = one.watch("s")
        assert await other.delete_session("s")
        while await in_time(watch.wait()) is not Hint.ERASED or await one.read_after("s", 0, limit=9, epoch=epoch):
            pass
        assert await in_time(owner.stopped.get()) == run.run_id
        with pytest.raises(RunLost):
            await one.add_text(run, "late")
        assert one._tail.size == 0
    with psycopg.connect(postgres_database) as db:
        for table in ("sessions", "events", "runs", "commands"):
            assert db.execute(f"SELECT count(*) FROM moorline.{table}").fetchone() == (0,)


async def test_a_poll_tells_a_new_reader_nothing_where_nothing_came_since_the_head_that_it_knows(
    postgres_database: str,
) -> None:
    async with two(postgres_database, **POLLED) as (one, other):
        await start(one, "begun")
        watches = [other.watch(each, (await other.session_for(each, "p")).head) for each in ("begun", "new")]
        # That of a reader without a head is told by the poll that compares the others.
        await in_time(other.watch("unknown").wait())
        assert [watch.peek() for watch in watches] == [None, None]


async def test_a_poll_tells_a_new_reader_of_what_came_between_its_head_and_its_watch(postgres_database: str) -> None:
    async with two(postgres_database, **POLLED) as (one, other):
        run = handle_of(await start(one, "begun"))
        heads = {each: (await other.session_for(each, "p")).head for each in ("begun", "new")}
        await one.add_text(run, "Good day")
        await start(one, "new")
        for session_id, head in heads.items():
            await in_time(other.watch(session_id, head).wait())


async def test_a_poll_tells_of_an_erasure_of_what_began_and_was_read_since_the_poll_before(
    postgres_database: str,
) -> None:
    async with two(postgres_database, **NOTIFIED) as (one, other), another(postgres_database, **POLLED) as silent:
        watch = other.watch("s", (await other.session_for("s", "p")).head)
        store_of(other).lease.poll()
        await until(lambda: "s" in store_of(other).lease._heads)
        await start(one, "s")
        assert await in_time(watch.wait()) is Hint.GROWN
        assert await silent.delete_session("s")
        store_of(other).lease.poll()
        assert await in_time(watch.wait()) is Hint.ERASED


async def test_a_new_reader_gets_all_where_its_process_missed_growth_while_it_had_no_reader(
    postgres_database: str,
) -> None:
    async with two(postgres_database, **POLLED) as (one, other):
        run = handle_of(await start(other, "s"))
        await other.add_text(run, "Good")
        known = (await other.session_for("s", "p")).head
        # No poll compares a session without a watch.
        await one.add_text(run, " day", at=4)
        head = (await other.session_for("s", "p")).head
        watch = other.watch("s", head)
        events = await other.read_after("s", known.seq - 1, limit=10, epoch=head.epoch)
        assert (head.seq, events[-1].seq) == (known.seq + 1, head.seq)
        watch.close()


async def epoch_of(log: EventLog) -> str:
    info = await log.find_session("s")
    assert info is not None
    return info.head.epoch


async def test_a_reader_of_the_next_log_of_a_session_gets_nothing_of_the_one_before(postgres_database: str) -> None:
    async with two(postgres_database, timing=Timing(poll=50, lease=100), notifications=False) as (one, other):
        await start(one, "s", content="old")
        await other.delete_session("s")
        await start(other, "s", content="new")
        # `one` was not notified and still holds the old events.
        assert one._tail.size > 0
        events = await one.read_after("s", 0, limit=9, epoch=await epoch_of(other))
        assert events == await everything(other, "s")


async def test_a_session_whose_owner_changes_is_read_without_a_gap(postgres_database: str) -> None:
    async with two(postgres_database, **NOTIFIED) as (one, other):
        for number, log in enumerate([one, other, one, other]):
            run = handle_of(await start(log, "s", f"m{number}"))
            await log.add_text(run, "x")
            await log.end_run(run, finish=Finish.STOP, now=NOW, text="y")
        epoch = await epoch_of(one)
        for log in (one, other):
            seen = 0
            while events := await log.read_after("s", seen, limit=3, epoch=epoch):
                assert events[0].seq == seen + 1 or getattr(events[0], "from_seq", 0) == seen + 1
                seen = events[-1].seq
            assert seen == 16


async def test_a_session_has_the_same_epoch_in_all_processes_before_it_begins(postgres_database: str) -> None:
    async with two(postgres_database, **NOTIFIED) as (one, other):
        before = await one.session_for("s", "p")
        assert await other.session_for("s", "p") == before
        await start(other, "s")
        assert await epoch_of(one) == before.head.epoch


async def test_a_session_that_begins_during_an_erasure_waits_for_the_epoch_after_it(postgres_database: str) -> None:
    async with another(postgres_database, **NOTIFIED) as log:
        before = await log.session_for("s", "p")
        async with await psycopg.AsyncConnection.connect(postgres_database) as db:
            await db.execute("UPDATE moorline.epoch_seeds SET seed = 'another'")
            starting = asyncio.create_task(start(log, "s"))
            await holds(postgres_database, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
            await db.commit()
        await starting
        assert await epoch_of(log) != before.head.epoch


async def test_many_texts_at_once_are_few_commits(postgres_database: str) -> None:
    async with another(postgres_database, **NOTIFIED) as log:
        runs = [handle_of(await start(log, f"s{number}")) for number in range(200)]
        before = await transactions(postgres_database)
        await asyncio.gather(*(log.add_text(run, "a few words", at=0) for run in runs))
        assert await transactions(postgres_database) - before < 20


async def transactions(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url) as db:
        found = await (await db.execute("SELECT pg_current_xact_id()::text::bigint")).fetchone()
    assert found is not None
    return int(found[0])


async def test_a_process_uses_no_more_connections_than_it_may(postgres_database: str) -> None:
    async with another(postgres_database, pool_size=2) as log:
        await asyncio.gather(*(start(log, f"s{number}") for number in range(50)))
        with psycopg.connect(postgres_database) as db:
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'moorline'"
            found = db.execute(count + " AND datname = current_database()").fetchone()
    assert found is not None
    assert found[0] <= 5


# Results that are lost ------------------------------------------------------------------------------------------------


async def test_a_command_whose_result_is_lost_is_carried_out_once(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    async with relayed(postgres_server, postgres_database) as line, another(line.url, **NOTIFIED) as log:
        await log.check()  # only on a connection that was idle a command is repeated
        line.lose_result_of("INSERT INTO commands")
        run = handle_of(await start(log, "s"))
        assert line.lost.is_set()
        line.lose_result_of("unnest")
        assert await log.add_text(run, "Good ", at=0) == 3
        assert line.lost.is_set()
        line.lose_result_of("string_agg")
        assert await log.end_run(run, finish=Finish.STOP, now=NOW, text="day", at=5) == 4
        assert line.lost.is_set()
        view = await read_view(log, "s")
        assert (view.seq, view.rows[-1].content) == (4, "Good day")


async def test_a_text_whose_result_is_lost_with_the_connection_is_not_doubled(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    async with relayed(postgres_server, postgres_database) as line, another(line.url, **NOTIFIED) as log:
        run = handle_of(await start(log, "s"))
        line.lose_result_of("unnest", then_refuse=True)
        with pytest.raises(LogUnavailable):
            await log.add_text(run, "Good ", at=0)
        line.accept()
        assert await log.add_text(run, "Good day", at=0) == 4
        await log.end_run(run, finish=Finish.STOP, now=NOW, at=8)
        assert (await read_view(log, "s")).rows[-1].content == "Good day"


async def test_a_run_whose_start_was_not_acknowledged_is_carried_out(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    timing = Timing(lease=5, poll=0.1, answer=0.5)
    async with relayed(postgres_server, postgres_database) as line, another(line.url, timing=timing) as log:
        owner = RecordingOwner()
        log.attach(owner)
        line.lose_result_of("INSERT INTO commands", then_refuse=True)
        with pytest.raises(LogUnavailable):
            await start(log, "s")
        line.accept()
        adopted = await in_time(owner.adopted.get())
        again = await start(log, "s")
        assert (again.run_id, again.duplicate, adopted.seq) == (adopted.run_id, True, 1)
        await log.end_run(handle_of(adopted), finish=Finish.STOP, now=NOW, text="Good day", at=0)
        assert (await read_view(log, "s")).rows[-1].content == "Good day"


# A database that is unavailable ---------------------------------------------------------------------------------------


async def test_a_lost_connection_is_detected_at_once_and_so_is_its_restoration(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    timing = Timing(lease=100, poll=0.1, answer=2)
    async with another(postgres_database, timing=timing) as other, relayed(postgres_server, postgres_database) as line:
        log = EventLog(PostgresStore(line.url, timing=timing))
        await log.open()
        run = handle_of(await start(log, "s"))
        watch = log.watch("s")
        epoch = await epoch_of(log)
        line.refuse()
        began = asyncio.get_running_loop().time()
        for attempt in (log.check(), log.snapshot("s"), start(log, "t"), log.add_text(run, "x", at=0)):
            with pytest.raises(LogUnavailable):
                await attempt
        with pytest.raises(LogUnavailable):
            await log.read_after("s", 2, limit=9, epoch=epoch)
        assert asyncio.get_running_loop().time() - began < 2
        # A reader that has waited all the time sees what grew meanwhile.
        await other.delete_session("s")
        line.accept()
        while await log.find_session("s") is not None:
            await in_time(watch.wait())
        await log.check()
        await start(log, "t")
        await log.close()


async def test_a_restarted_database_costs_no_run_and_no_command(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    async with two(postgres_database, timing=Timing(lease=5, poll=0.1, answer=2)) as (one, other):
        run = handle_of(await start(one, "s"))
        watch = other.watch("s")
        await one.add_text(run, "Good ", at=0)
        await postgres_server.restart()
        assert await one.add_text(run, "day", at=5) == 4
        view = await read_view(other, "s")
        await one.end_run(run, finish=Finish.STOP, now=NOW, at=8)
        while view.run is not None:
            await in_time(watch.wait())
            view = await read_view(other, "s", view)
        assert view.rows[-1].content == "Good day"
        await notified(one, other)


async def test_a_database_that_stalls_is_given_up_in_time(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    async with another(postgres_database, timing=Timing(lease=100, poll=50, answer=0.3)) as log:
        await log.check()
        with postgres_server.frozen(), pytest.raises(LogUnavailable):
            await in_time(log.check())
        await log.check()


# Opening --------------------------------------------------------------------------------------------------------------


async def test_five_processes_may_start_at_once_on_an_empty_database(postgres_database: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        logs = await asyncio.gather(*(stack.enter_async_context(another(postgres_database)) for _ in range(5)))
        await start(logs[0], "s")
        assert await logs[4].find_session("s") is not None
    with psycopg.connect(postgres_database) as db:
        assert db.execute("SELECT number FROM moorline.version").fetchall() == [(VERSION,)]


async def test_a_database_of_a_newer_program_is_refused(postgres_database: str) -> None:
    async with opened(postgres_database):
        pass
    with psycopg.connect(postgres_database) as db:
        db.execute("UPDATE moorline.version SET number = number + 1")
    with pytest.raises(UsageError, match="newer moorline"):
        await open_log(postgres_database).open()


async def test_a_database_that_cannot_hold_every_text_is_refused(postgres_server: PostgresServer) -> None:
    with pytest.raises(UsageError, match="has the encoding LATIN1; create it with ENCODING 'UTF8'"):
        await open_log(postgres_server.new_database("LATIN1")).open()


async def test_a_database_that_does_not_exist_is_one_line_without_the_password(postgres_server: PostgresServer) -> None:
    with pytest.raises(UsageError, match=r'cannot be used.*"nowhere" does not exist') as caught:
        await open_log(postgres_server.url.replace("/postgres?", "/nowhere?")).open()
    assert PASSWORD not in str(caught.value)


async def test_a_database_that_is_starting_is_waited_for(
    postgres_server: PostgresServer, postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with relayed(postgres_server, postgres_database) as line:
        line.refuse()
        log = EventLog(PostgresStore(line.url))
        opening = asyncio.create_task(log.open())
        await until(lambda: "waiting for it" in caplog.text)
        line.accept()
        await in_time(opening)
        await log.close()
        line.refuse()
        with pytest.raises(UsageError, match="cannot be used"):
            await EventLog(PostgresStore(line.url, timing=Timing(start=0))).open()
    assert PASSWORD not in caplog.text


async def test_an_invalid_address_is_one_line_without_the_password() -> None:
    with pytest.raises(UsageError, match="is not an address that PostgreSQL understands") as caught:
        await open_log(f"postgresql://me:{PASSWORD}@host/name?nonsense").open()
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "environ", "hosts"),
    [
        ("postgresql://db.example/name", {}, ["db.example"]),
        ("postgresql://db.example/name?sslmode=prefer", {}, ["db.example"]),
        ("postgresql://db.example/name?sslmode=require", {}, []),
        ("postgresql://db.example/name?sslmode=verify-full", {}, []),
        ("postgresql://db.example/name", {"PGSSLMODE": "verify-ca"}, []),
        ("postgresql://db.example/name?sslmode=disable", {"PGSSLMODE": "require"}, ["db.example"]),
        ("postgresql://localhost,10.0.0.9/name", {}, ["10.0.0.9"]),
        ("postgresql://127.0.0.2,[::1]/name", {}, []),
        ("postgresql:///name?host=%2Frun%2Fpostgresql", {}, []),
        ("postgresql:///name", {}, []),
        ("postgresql:///name", {"PGHOST": "db.example"}, ["db.example"]),
        ("postgresql:///name?hostaddr=192.0.2.1", {}, ["192.0.2.1"]),
    ],
)
def test_remote_hosts_that_may_be_reached_without_tls_are_known(
    address: str, environ: dict[str, str], hosts: list[str]
) -> None:
    assert unencrypted_hosts(address, environ) == hosts


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("postgresql://me:secret@host/name", True),
        ("postgres://host/name?user=me&password=secret", True),
        ("postgresql://host/name?sslpassword=secret", True),
        ("postgresql://me@host:5432/name", False),
        ("postgresql://host/name?passfile=password", False),
        ("sqlite:////a:b@c/password=", False),
    ],
)
def test_a_password_in_an_address_is_found(address: str, found: bool) -> None:  # noqa: FBT001
    assert has_password(address) is found


async def test_a_remote_host_without_tls_is_one_line_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    # hostaddr is where libpq connects: nothing leaves this machine.
    address = f"postgresql://me:{PASSWORD}@db.example:1/name?hostaddr=127.0.0.1"
    with pytest.raises(UsageError, match="cannot be used"):
        await EventLog(PostgresStore(address, timing=Timing(start=0))).open()
    assert caplog.text.count("the connection to db.example may be unencrypted; add sslmode=verify-full") == 1
    assert PASSWORD not in caplog.text


def test_without_its_library_the_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # The import below sets the package's attribute as well, which would stay without its modules.
    monkeypatch.setattr(eventlog, "postgres", eventlog.postgres)
    for name in [name for name in sys.modules if name.startswith("moorline.backend.eventlog.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UsageError, match=r'uv pip install "\.\./moorline\[postgres\]"'):
        open_log("postgresql://host/name")
