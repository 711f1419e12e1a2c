"""What a process does for the log without being asked: it keeps its lease, and looks at what it may not have been told.

Once per poll, on a connection that nobody else uses: renew the lease; see which of our runs were cancelled elsewhere or
are lost; take the runs that nobody carries out any more; see which of the watched sessions have grown or were erased.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from moorline.backend.eventlog.base import Hint, LogUnavailable, RunHandle
from moorline.backend.eventlog.postgres.connection import Connection, Timing, bounded, first_line
from moorline.backend.eventlog.postgres.read import heads

__all__ = ["Keeper", "Listener", "Orphan"]

log = logging.getLogger("moorline.backend")

#: Runs that one statement takes over, and sessions that one looks at.
ORPHANS = 100
WATCHED = 1000
#: A run that was left behind twice is not begun again: it may be what its owners died of.
MAX_TAKEOVERS = 2

_RENEW = """
WITH mine AS (
    INSERT INTO owners (id, lease_until) VALUES (%(me)s, clock_timestamp() + %(lease)s * interval '1 second')
    ON CONFLICT (id) DO UPDATE SET lease_until = excluded.lease_until
), gone AS (
    DELETE FROM owners WHERE lease_until < clock_timestamp() - interval '1 day'
)
SELECT count(*) FROM owners WHERE id <> %(me)s AND lease_until > clock_timestamp()
"""

_OURS = "SELECT active_run_id, cancel_requested FROM sessions WHERE owner = %s AND active_run_id IS NOT NULL"

# Our own that we know nothing of were begun by a statement whose answer never came; a younger one may still come.
# Where we were cut off from the database so were the others perhaps: they get the time of a lease to come back.
_TAKE = """
WITH orphan AS (
    SELECT s.id FROM sessions s
    WHERE s.active_run_id IS NOT NULL AND (
        %(others)s AND NOT EXISTS (
            SELECT FROM owners o WHERE o.id = s.owner AND o.lease_until > clock_timestamp()
        ) OR s.owner = %(me)s AND s.active_run_id <> ALL(%(ours)s)
            AND s.claimed_at < clock_timestamp() - %(patience)s * interval '1 second'
    ) ORDER BY s.id LIMIT %(limit)s FOR UPDATE OF s SKIP LOCKED
)
UPDATE sessions s SET fence = fence + 1, owner = %(me)s, claimed_at = clock_timestamp(), takeovers = takeovers + 1
FROM orphan, runs r WHERE s.id = orphan.id AND r.run_id = s.active_run_id
RETURNING s.session_id, r.run_id, r.message_id, s.fence, r.user_seq, s.written, s.cancel_requested,
    s.head = r.started_seq AND s.takeovers <= %(takeovers)s
"""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A run that was left behind and is ours now. `fresh`: it has no text and may be begun again."""

    handle: RunHandle
    user_seq: int
    written: int
    cancelled: bool
    fresh: bool


@dataclass(frozen=True, slots=True)
class Listener:
    """What a keeper asks and tells."""

    #: The runs of this process, as far as their beginning was confirmed to it; and all that it may have begun.
    confirmed: Callable[[], set[str]]
    begun: Callable[[], list[str]]
    watched: Callable[[], list[str]]
    #: These are to stop.
    on_stop: Callable[[str], None]
    on_orphans: Callable[[Sequence[Orphan]], Awaitable[None]]
    on_growth: Callable[[Mapping[str, Hint]], None]
    on_alone: Callable[[bool], None]


class Keeper:
    """The process known to the log as `name`."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], name: str, timing: Timing, listener: Listener
    ) -> None:
        self._connect = connect
        self._name = name
        self._timing = timing
        self._listener = listener
        self._task: asyncio.Task[None] | None = None
        self._called = asyncio.Event()
        self._poll_now = False
        self._stopped: set[str] = set()
        self._heads: dict[str, tuple[str, int] | None] = {}
        self._others_from = 0.0

    async def start(self) -> None:
        """The first round, before anything else, and then the others.

        Raises:
            psycopg.Error: the database cannot do it.
        """
        connection = await self._connect()
        try:
            await self._round(connection)
        except BaseException:
            await connection.close()
            raise
        self._task = asyncio.create_task(self._keep(connection))

    async def stop(self) -> None:
        """Let go of the lease, so that nobody waits for it to expire."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def look(self) -> None:
        """One of our runs may have been cancelled or lost."""
        self._called.set()

    def poll(self) -> None:
        """Hints may have been lost."""
        self._poll_now = True
        self._called.set()

    def grown(self, session_id: str, head: tuple[str, int] | None) -> None:
        """We have written this ourselves; the next poll need not tell."""
        if session_id in self._heads:
            self._heads[session_id] = head

    # The task ---------------------------------------------------------------------------------------------------------

    async def _keep(self, connection: Connection) -> None:
        try:
            while True:
                try:
                    await self._rounds(connection)
                except (psycopg.Error, LogUnavailable) as error:
                    log.warning("database: away: %s", first_line(error))
                    await connection.close()
                    connection = await self._again()
                    self._others_from = asyncio.get_running_loop().time() + self._timing.lease
                    log.info("database: back")
        finally:
            await self._release(connection)

    async def _rounds(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            if self._poll_now or loop.time() >= due:
                self._poll_now = False
                due = loop.time() + self._timing.poll
                await self._round(connection)
            else:
                await self._look_at_ours(connection)
            try:
                async with asyncio.timeout_at(due):
                    await self._called.wait()
            except TimeoutError:
                pass
            self._called.clear()

    async def _again(self) -> Connection:
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
            log.debug("database: the lease was not released: %s", error)
        finally:
            await connection.close()

    # A round ----------------------------------------------------------------------------------------------------------

    async def _round(self, connection: Connection) -> None:
        async with bounded(connection, self._timing.answer):
            renewed = await connection.execute(_RENEW, {"me": self._name, "lease": self._timing.lease})
            found = await renewed.fetchone()
        self._listener.on_alone(found == (0,))
        await self._look_at_ours(connection)
        await self._take_orphans(connection)
        await self._look_at_watched(connection)

    async def _look_at_ours(self, connection: Connection) -> None:
        confirmed = self._listener.confirmed()
        if not confirmed:
            self._stopped.clear()
            return
        async with bounded(connection, self._timing.answer):
            found = await connection.execute(_OURS, (self._name,))
            ours: dict[str, bool] = dict(await found.fetchall())
        self._stopped &= confirmed
        for run_id in confirmed - self._stopped:
            # Missing: another process has taken it, or its session was erased.
            if ours.get(run_id, True):
                self._stopped.add(run_id)
                self._listener.on_stop(run_id)

    async def _take_orphans(self, connection: Connection) -> None:
        while True:
            async with bounded(connection, self._timing.answer):
                taken = await connection.execute(
                    _TAKE,
                    {
                        "me": self._name,
                        "others": asyncio.get_running_loop().time() >= self._others_from,
                        "ours": self._listener.begun(),
                        "patience": 2 * self._timing.answer,
                        "limit": ORPHANS,
                        "takeovers": MAX_TAKEOVERS,
                    },
                )
                orphans = [
                    Orphan(RunHandle(*row[:4]), row[4], row[5], row[6], row[7]) for row in await taken.fetchall()
                ]
            if orphans:
                await self._listener.on_orphans(orphans)
            if len(orphans) < ORPHANS:
                return

    async def _look_at_watched(self, connection: Connection) -> None:
        watched = self._listener.watched()
        known, self._heads = self._heads, {}
        for start in range(0, len(watched), WATCHED):
            part = watched[start : start + WATCHED]
            before = {session_id: known.get(session_id, ("", -1)) for session_id in part}
            self._heads |= before
            async with bounded(connection, self._timing.answer):
                found = await heads(connection, part)
            self._heads |= {session_id: found.get(session_id) for session_id in part}
            self._listener.on_growth(
                {each: _hint(before[each], found.get(each)) for each in part if found.get(each) != before[each]}
            )


def _hint(before: tuple[str, int] | None, now: tuple[str, int] | None) -> Hint:
    """What became of a session between two polls; one that was not in the last may have been erased since."""
    same = before is not None and now is not None and before[0] == now[0]
    return Hint.GROWN if same else Hint.ERASED
