"""Tickets and revocations in both stores: whose clock counts, and how long they are kept."""

import contextlib
import sqlite3
import time

import psycopg
import pytest

from moorline.backend.eventlog.base import Ticket
from moorline.backend.eventlog.log import EventLog
from tests.support import needs
from tests.support.eventlogs import opened

TICKET = Ticket("p", None, "dr.who", "{}", None, None)
LIFE = 30.0


def count(database: str, table: str) -> int:
    """The rows in a table of a database that no log has open."""
    query = f"SELECT count(*) FROM {table}"
    if database.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as file:
            return int(file.execute(query).fetchone()[0])
    with psycopg.connect(database, options="-c search_path=moorline") as db:
        (found,) = db.execute(query.encode()).fetchone() or (0,)
        return int(found)


async def test_a_ticket_is_found_with_the_time_for_which_it_is_valid_until_it_is_taken_once(log: EventLog) -> None:
    await log.add_ticket("digest", TICKET, lifetime=LIFE)
    for _ in range(2):
        found = await log.find_ticket("digest")
        assert found is not None
        assert found.ticket._replace(issued=None) == TICKET
        assert LIFE - 20 < found.left <= LIFE
    assert [await log.take_ticket("digest") for _ in range(2)] == [True, False]
    assert await log.find_ticket("digest") is None


async def test_a_ticket_without_a_time_of_its_own_is_issued_by_the_clock_of_revocations(log: EventLog) -> None:
    before = await log.revoke("another")
    await log.add_ticket("digest", TICKET, lifetime=LIFE)
    found, after = await log.find_ticket("digest"), await log.revoke("another")
    assert found is not None
    assert before <= (found.ticket.issued or 0) <= after


@needs.postgres
async def test_the_clock_of_a_backend_counts_for_nothing(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    async with opened(postgres_database) as ahead, opened(postgres_database) as log:
        with monkeypatch.context() as skewed:
            skewed.setattr(time, "time", lambda: clock() + 3600)
            await ahead.add_ticket("digest", TICKET, lifetime=LIFE)
        at = await log.revoke("dr.who")
        found = await log.find_ticket("digest")
    assert found is not None
    assert (found.ticket.issued or 0) <= at
    assert found.left <= LIFE


async def test_a_ticket_that_is_too_old_is_none(log: EventLog) -> None:
    await log.add_ticket("digest", TICKET, lifetime=-1.0)
    assert await log.find_ticket("digest") is None
    assert not await log.take_ticket("digest")


async def test_what_cannot_count_any_more_is_removed(log: EventLog, database: str) -> None:
    for name, lifetime in (("old", -1.0), ("valid", LIFE)):
        await log.add_ticket(name, TICKET, lifetime=lifetime)
    await log.revoke("dr.who")
    await log.prune(revoked_within=LIFE)
    await log.close()
    assert (count(database, "tickets"), count(database, "revocations")) == (1, 1)
    async with opened(database) as again:
        await again.prune(revoked_within=-1.0)
    assert (count(database, "tickets"), count(database, "revocations")) == (1, 0)
