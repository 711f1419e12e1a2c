"""The lease of a process, and its poll of the database.

Once per poll, on a connection of its own: renew the lease; find which of its own runs were cancelled by other processes
or are lost; take over the runs whose owner is gone; find which of the watched sessions have grown or were erased, and
whose credentials were revoked.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import psycopg

from moorline.backend.eventlog.base import Hint, LogUnavailable, RunHandle, StoreOwner
from moorline.backend.eventlog.postgres.connection import Connection, Timing, bounded, first_line
from moorline.backend.eventlog.postgres.notify import Notifier
from moorline.backend.eventlog.postgres.read import heads
from moorline.backend.eventlog.postgres.revocations import revocations
from moorline.backend.events import Position

__all__ = ["LeaseTask", "Orphan", "RunOwner"]

log = logging.getLogger("moorline.backend")

#: Runs that one statement takes over, and sessions that one compares.
ORPHANS = 100
WATCHED = 1000
#: A run that was left behind twice is not begun again: it may be the reason why its owners died.
MAX_TAKEOVERS = 2
#: Revocations that are read again at each poll, in seconds: one that was committed late is among them.
REVOKED_SECONDS = 60.0

# A head that no session has.
_UNKNOWN = ("", -1)

_RENEW = """
WITH mine AS (
    INSERT INTO owners (id, lease_until) VALUES (%(me)s, clock_timestamp() + %(lease)s * interval '1 second')
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
), gone AS (
    DELETE FROM owners WHERE lease_until < clock_timestamp() - interval '1 day'
)
SELECT count(*) FROM owners WHERE id <> %(me)s AND lease_until > clock_timestamp()
"""

_OWN = "SELECT active_run_id, cancel_requested FROM sessions WHERE owner = %s AND active_run_id IS NOT NULL"

# Of its own a process may not know a run that was begun by a statement whose result was lost; the result of a recent
# one may still come. After an outage other processes may be reconnecting too: they get the time of a lease for it.
_TAKE = """
WITH orphan AS (
    SELECT s.id FROM sessions s
    WHERE s.active_run_id IS NOT NULL AND (
        %(others)s AND NOT EXISTS (
            SELECT FROM owners o WHERE o.id = s.owner AND o.lease_until > clock_timestamp()
        ) OR s.owner = %(me)s AND s.active_run_id <> ALL(%(known)s)
            AND s.claimed_at < clock_timestamp() - %(patience)s * interval '1 second'
    ) LIMIT %(limit)s FOR UPDATE OF s SKIP LOCKED
)
UPDATE sessions s SET fence = fence + 1, owner = %(me)s, claimed_at = clock_timestamp(), takeovers = takeovers + 1
FROM orphan, runs r WHERE s.id = orphan.id AND r.run_id = s.active_run_id
RETURNING s.session_id, r.run_id, r.message_id, s.fence, r.user_seq, s.cancel_requested,
    s.head = r.started_seq AND s.takeovers <= %(takeovers)s
"""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run whose owner is gone, now owned by this process. `fresh`: it has no text and may be begun again."""

    handle: RunHandle
    user_seq: int
    cancelled: bool
    fresh: bool


class RunOwner(Protocol):
    """What has the runs of this process: the store."""

    def own_runs(self) -> Mapping[str, bool]:
        """The runs that this process may have begun, and whether the database has confirmed that to it."""

    async def recover(self, orphans: Sequence[Orphan]) -> None:
        """Resume or end these."""


class LeaseTask:
    """Keeps the lease of the process `name`."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        name: str,
        timing: Timing,
        *,
        runs: RunOwner,
        owner: StoreOwner,
        notifier: Notifier,
    ) -> None:
        self._connect = connect
        self._name = name
        self._timing = timing
        self._runs = runs
        self._owner = owner
        self._notifier = notifier
        self._task: asyncio.Task[None] | None = None
        self._requested = asyncio.Event()
        self._poll_requested = False
        self._stopped: set[str] = set()
        self._heads: dict[str, tuple[str, int] | None] = {}
        self._others_from = 0.0
        self._revoked_within = math.inf

    async def start(self) -> None:
        """Poll once, then start the task.

        Raises:
            psycopg.Error: the database cannot do it.
        """
        connection = await self._connect()
        try:
            await self._poll(connection)
        except BaseException:
            await connection.close()
            raise
        self._task = asyncio.create_task(self._keep(connection))

    async def stop(self) -> None:
        """Release the lease, so that no other process waits for it to expire."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def check_own(self) -> None:
        """Check soon whether one of the own runs was cancelled or lost."""
        self._requested.set()

    def poll(self) -> None:
        """Poll soon: notifications may have been lost."""
        self._poll_requested = True
        self._requested.set()

    def committed(self, session_id: str, head: tuple[str, int] | None) -> None:
        """This process has written to the session, or erased it (None); the next poll need not report that."""
        if session_id in self._heads:
            self._heads[session_id] = head

    def notified(self, session_ids: Iterable[str]) -> None:
        """Other processes have written to the sessions. Of one that was not there at the last poll the next has to tell
        also where it is not there again: a reader may have read it meanwhile."""
        self._heads |= {each: _UNKNOWN for each in session_ids if self._heads.get(each, _UNKNOWN) is None}

    # The task ---------------------------------------------------------------------------------------------------------

    async def _keep(self, connection: Connection) -> None:
        try:
            while True:
                try:
                    await self._polls(connection)
                except (psycopg.Error, LogUnavailable) as error:
                    log.warning("database connection lost, reconnecting: %s", first_line(error))
                except Exception:
                    # A bug. Without a lease the other processes would take all runs of this one.
                    log.exception("a poll of the database failed; the next one is on a new connection")
                    await asyncio.sleep(self._timing.poll)
                await connection.close()
                connection = await self._reconnected()
                self._revoked_within = math.inf
                self._others_from = asyncio.get_running_loop().time() + self._timing.lease
                log.info("database connection restored")
        finally:
            await self._release(connection)

    async def _polls(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self._poll_requested or loop.time() >= due:
                self._poll_requested = False
                due = loop.time() + self._timing.poll
                await self._poll(connection)
            else:
                await self._check_own(connection)
            try:
                async with asyncio.timeout_at(due):
                    await self._requested.wait()
            except TimeoutError:
                pass
            self._requested.clear()

    async def _reconnected(self) -> Connection:
        while True:
            try:
                return await self._connect()
            except (psycopg.Error, OSError):
                await asyncio.sleep(self._timing.poll)

    async def _release(self, connection: Connection) -> None:
        try:
            async with bounded(connection, self._timing.answer):
                await connection.execute("DELETE FROM owners WHERE id = %s", (self._name,))
        except psycopg.Error as error:
            log.debug("database: the lease was not released: %s", first_line(error))
        finally:
            await connection.close()

    # A poll -----------------------------------------------------------------------------------------------------------

    async def _poll(self, connection: Connection) -> None:
        async with bounded(connection, self._timing.answer):
            renewed = await connection.execute(_RENEW, {"me": self._name, "lease": self._timing.lease})
            others = await renewed.fetchone()
        self._notifier.sole_process = others == (0,)
        await self._check_own(connection)
        await self._recover_orphans(connection)
        await self._compare_watched(connection)
        await self._read_revocations(connection)

    async def _check_own(self, connection: Connection) -> None:
        confirmed = {run_id for run_id, confirmed in self._runs.own_runs().items() if confirmed}
        if not confirmed:
            self._stopped.clear()
            return
        async with bounded(connection, self._timing.answer):
            found = await connection.execute(_OWN, (self._name,))
            cancelled: dict[str, bool] = dict(await found.fetchall())
        self._stopped &= confirmed
        for run_id in confirmed - self._stopped:
            # Missing: another process has taken it over, or its session was erased.
            if cancelled.get(run_id, True):
                self._stopped.add(run_id)
                self._owner.stop_run(run_id)

    async def _recover_orphans(self, connection: Connection) -> None:
        while True:
            async with bounded(connection, self._timing.answer):
                taken = await connection.execute(
                    _TAKE,
                    {
                        "me": self._name,
                        "others": asyncio.get_running_loop().time() >= self._others_from,
                        "known": list(self._runs.own_runs()),
                        "patience": 2 * self._timing.answer,
                        "limit": ORPHANS,
                        "takeovers": MAX_TAKEOVERS,
                    },
                )
                orphans = [Orphan(RunHandle(*row[:4]), *row[4:]) for row in await taken.fetchall()]
            if orphans:
                await self._runs.recover(orphans)
            if len(orphans) < ORPHANS:
                return

    async def _read_revocations(self, connection: Connection) -> None:
        async with bounded(connection, self._timing.answer):
            found = await revocations(connection, within=self._revoked_within)
        self._revoked_within = REVOKED_SECONDS
        self._owner.revoked(found)

    async def _compare_watched(self, connection: Connection) -> None:
        watched = self._owner.watched()
        session_ids = list(watched)
        known, self._heads = self._heads, {}
        for start in range(0, len(session_ids), WATCHED):
            part = session_ids[start : start + WATCHED]
            before = {each: known[each] if each in known else _read_before(watched[each]) for each in part}
            self._heads |= before
            async with bounded(connection, self._timing.answer):
                found = await heads(connection, part)
            # What came meanwhile is the later.
            self._heads |= {each: found.get(each) for each in part if self._heads[each] == before[each]}
            self._owner.changed_elsewhere(
                {each: _hint(before[each], found.get(each)) for each in part if found.get(each) != before[each]}
            )


def _read_before(head: Position | None) -> tuple[str, int] | None:
    """What an earlier poll would have found of a session that is new to it, by the head that its reader knows. A reader
    without one is told, whatever is found: it would be late to what came before this poll."""
    if head is None:
        return _UNKNOWN
    return (head.epoch, head.seq) if head.seq else None


def _hint(before: tuple[str, int] | None, now: tuple[str, int] | None) -> Hint:
    """What happened between two polls. A session that was not in the earlier one may have been erased since."""
    same = before is not None and now is not None and before[0] == now[0]
    return Hint.GROWN if same else Hint.ERASED
