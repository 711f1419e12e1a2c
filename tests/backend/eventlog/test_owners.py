"""Owners of runs that die, stop or are cut off: every run is written by one process, and ended by one."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.postgres.connection import Timing
from moorline.backend.eventlog.postgres.lease import MAX_TAKEOVERS
from moorline.backend.eventlog.postgres.store import PostgresStore
from moorline.backend.events import Finish, MessageEnded
from tests.support import needs
from tests.support.eventlogs import NOW, PATIENCE, RecordingOwner, everything, handle_of, start
from tests.support.postgres import PostgresServer, holds, relayed

pytestmark = needs.postgres

TIMING = Timing(lease=2, poll=0.1, answer=1.6)

WRITER = """
import asyncio, sys
from moorline.backend.eventlog.base import LogUnavailable, RunLost
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.postgres.store import PostgresStore
from tests.backend.eventlog.test_owners import TIMING
from tests.support.eventlogs import handle_of, start

async def main():
    log = EventLog(PostgresStore(sys.argv[1], timing=TIMING))
    await log.open()
    run = handle_of(await start(log, "s"))
    print("started", flush=True)
    if sys.argv[2] == "silent":
        await asyncio.to_thread(sys.stdin.readline)
    number = at = 0
    while True:
        try:
            await log.add_text(run, f"{number} ", at=at)
        except LogUnavailable:
            continue  # an answer that took as long as it was stopped
        except RunLost:
            print("lost", flush=True)
            break
        print(number, flush=True)
        at += len(f"{number} ")
        number += 1
    await log.close()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def writer(url: str, how: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that writes an answer and prints what was acknowledged to it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        WRITER,
        url,
        how,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": "."},
    )
    try:
        async with asyncio.timeout(2 * PATIENCE):
            yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def another(url: str, owner: RecordingOwner | None = None, *, timing: Timing = TIMING) -> AsyncIterator[EventLog]:
    """A log of this process, open."""
    log = EventLog(PostgresStore(url, timing=timing))
    if owner is not None:
        log.attach(owner)
    await log.open()
    try:
        yield log
    finally:
        await log.close()


async def lines(process: asyncio.subprocess.Process, count: int) -> list[str]:
    assert process.stdout is not None
    return [(await process.stdout.readline()).decode().strip() for _ in range(count)]


async def ended(log: EventLog) -> MessageEnded:
    """The end of the session's run, once it is written."""
    watch = log.watch("s")
    while True:
        events = await everything(log, "s", limit=500)
        if events and isinstance(events[-1], MessageEnded):
            return events[-1]
        await asyncio.wait_for(watch.wait(), PATIENCE)


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL], ids=lambda blow: blow.name)
async def test_the_run_of_an_owner_that_is_stopped_or_killed_is_ended_with_its_text(
    postgres_database: str, blow: signal.Signals
) -> None:
    async with another(postgres_database, RecordingOwner()) as log, writer(postgres_database, "talking") as process:
        acknowledged = len(await lines(process, 20)) - 1
        process.send_signal(blow)
        end = await ended(log)
        assert end.finish is Finish.INTERRUPTED
        if blow is signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
        rest = (await process.communicate())[0].decode().split()
        assert ("lost" in rest) is (blow is signal.SIGSTOP)
        # What it wrote before, and nothing of what it wrote after.
        acknowledged += len([line for line in rest if line != "lost"])
        assert end.content.startswith("".join(f"{number} " for number in range(acknowledged)))
        assert len(end.content.split()) <= acknowledged + 1
        assert await ended(log) == end


async def test_a_stopped_owner_without_text_is_replaced_and_cannot_write_when_it_continues(
    postgres_database: str,
) -> None:
    owner = RecordingOwner()
    async with another(postgres_database, owner) as log, writer(postgres_database, "silent") as process:
        assert await lines(process, 1) == ["started"]
        process.send_signal(signal.SIGSTOP)
        adopted = await asyncio.wait_for(owner.adopted.get(), PATIENCE)
        run = handle_of(adopted)
        await log.add_text(run, "Good ", at=0)
        process.send_signal(signal.SIGCONT)
        out, _ = await process.communicate(b"\n")
        assert out.decode().split() == ["lost"]
        await log.end_run(run, finish=Finish.STOP, now=NOW, text="day", at=5)
        assert (await ended(log)).content == "Good day"
        again = await start(log, "s")
        assert (again.run_id, again.seq, again.duplicate) == (adopted.run_id, adopted.seq, True)


async def test_owners_that_live_keep_their_runs_for_longer_than_a_lease(postgres_database: str) -> None:
    told = RecordingOwner(), RecordingOwner()
    async with another(postgres_database, told[0]) as one, another(postgres_database, told[1]):
        run = handle_of(await start(one, "s"))
        renewed = "SELECT min(lease_until) - %s * interval '1 second' > (SELECT min(claimed_at) FROM moorline.sessions)"
        await holds(postgres_database, renewed + " FROM moorline.owners", 2 * TIMING.lease)
        await one.add_text(run, "x")
        assert all(each.stopped.empty() and each.adopted.empty() for each in told)


class FailingOwner(RecordingOwner):
    """One with a bug."""

    def stop_run(self, run_id: str) -> None:
        super().stop_run(run_id)
        raise RuntimeError("a bug")


async def test_an_owner_that_fails_keeps_its_lease(postgres_database: str, caplog: pytest.LogCaptureFixture) -> None:
    owner = FailingOwner()
    async with another(postgres_database, owner) as log, another(postgres_database) as other:
        for session in ("a", "b"):
            run_id = (await start(log, session)).run_id
            await other.cancel_run(session, run_id)
            assert await asyncio.wait_for(owner.stopped.get(), PATIENCE) == run_id
    assert "a poll of the database failed" in caplog.text


async def test_an_orderly_shutdown_releases_runs_at_once(postgres_database: str) -> None:
    owner, lasting = RecordingOwner(), Timing(lease=100, poll=0.1, answer=1.6)
    async with another(postgres_database, owner, timing=lasting):
        async with another(postgres_database, timing=lasting) as other:
            started = await start(other, "s")
        adopted = await asyncio.wait_for(owner.adopted.get(), PATIENCE)
        assert (adopted.seq, adopted.run_id) == (1, started.run_id)
        assert handle_of(adopted).fence == handle_of(started).fence + 1


async def test_a_run_that_was_left_too_often_is_not_begun_again(postgres_database: str) -> None:
    async with another(postgres_database) as log:
        await start(log, "s")
    for _ in range(MAX_TAKEOVERS):
        owner = RecordingOwner()
        async with another(postgres_database, owner):
            assert not owner.adopted.empty()
    owner = RecordingOwner()
    async with another(postgres_database, owner) as log:
        assert owner.adopted.empty()
        assert (await ended(log)).finish is Finish.INTERRUPTED


async def test_a_cancel_is_kept_when_the_owner_dies(postgres_database: str) -> None:
    async with another(postgres_database) as log:
        started = await start(log, "s")
        await log.cancel_run("s", started.run_id)
    async with another(postgres_database, RecordingOwner()) as log:
        assert (await ended(log)).finish is Finish.CANCELLED


async def test_an_outage_longer_than_a_lease_takes_no_run_from_its_owner(
    postgres_server: PostgresServer, postgres_database: str
) -> None:
    told = RecordingOwner(), RecordingOwner()
    async with (
        relayed(postgres_server, postgres_database) as line,
        another(line.url, told[0]) as one,
        another(line.url, told[1]) as other,
    ):
        runs = handle_of(await start(one, "s")), handle_of(await start(other, "t"))
        line.refuse()
        await holds(postgres_database, "SELECT max(lease_until) < clock_timestamp() FROM moorline.owners")
        line.accept()
        await holds(postgres_database, "SELECT min(lease_until) > clock_timestamp() FROM moorline.owners")
        await one.add_text(runs[0], "x", at=0)
        await other.add_text(runs[1], "x", at=0)
        assert all(each.stopped.empty() and each.adopted.empty() for each in told)
