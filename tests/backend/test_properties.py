"""Whatever happens in whatever order: each client shows what the log holds, each command has one run, each run one end.

EXAMPLES=2000 in the environment tries more schedules than the suite has time for.
"""

import asyncio
import os
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from moorline.backend.errors import ErrorCode, LLMError
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.postgres.connection import Timing
from moorline.backend.eventlog.postgres.store import PostgresStore
from moorline.backend.events import Finish
from moorline.backend.parts import Data, Source, Status
from tests.support import needs
from tests.support.eventlogs import database_at
from tests.support.postgres import PostgresServer
from tests.support.tab import Tab
from tests.support.world import SESSIONS, World
from tests.support.world_checks import check_runs, check_tabs

EXAMPLES = int(os.environ.get("EXAMPLES", "40"))
TABS = 5
TEXTS = ("a", "word ", "\u00fc", "\ud83d", "\ude00")
PARTS = (Source("Guideline", "https://example.com/"), Status("looking up"), Data("vitals", {"pulse": None}))
#: None cuts an answer off.
ENDS = (
    Finish.STOP,
    Finish.LENGTH,
    None,
    LLMError(ErrorCode.LLM_UNAVAILABLE, "x"),
    LLMError(ErrorCode.FILTERED, "x"),
)

#: What may happen, and how often in comparison; each is a method of Chat.
STEPS: Mapping[str, int] = {
    "open_a_tab": 2,
    "drop_a_tab": 2,
    "come_back": 4,
    "send": 5,
    "send_again_what_was_not_acknowledged": 2,
    "send_what_was_sent_before": 2,
    "send_another_text_under_an_old_name": 1,
    "post": 2,
    "retry": 3,
    "cancel": 2,
    "erase": 1,
    "the_model_says": 8,
    "the_responder_adds_a_part": 5,
    "the_model_ends": 4,
    "restart": 1,
    "kill": 1,
    "the_log_goes_away_or_comes_back": 2,
    "settle": 2,
}
Schedule = list[tuple[str, int, int]]


def schedule(seed: int) -> Schedule:
    """Drawn from a seed: hypothesis would vary one schedule a little many times, and here each example is dear."""
    rng = random.Random(seed)
    names = rng.choices(list(STEPS), weights=list(STEPS.values()), k=rng.randint(30, 70))
    return [(name, rng.randrange(100), rng.randrange(100)) for name in names]


SCHEDULES = st.integers(0, 2**32 - 1).map(schedule)


class Chat:
    """One method is one thing that happens; none of them waits for its effect, except `settle` and `erase`.

    Their numbers choose among whatever there is, and where there is nothing nothing happens.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.number = 0

    def new(self) -> str:
        self.number += 1
        return f"c{self.number}"

    def tab(self, number: int) -> Tab:
        return self.world.tabs[number % len(self.world.tabs)]

    def sent_to(self, session: str) -> list[str]:
        return [name for name, (where, _) in self.world.sent.items() if where == session]

    # Clients ----------------------------------------------------------------------------------------------------------

    async def open_a_tab(self, session: int, _: int) -> None:
        if len(self.world.tabs) < TABS:
            await self.world.open_tab(SESSIONS[session % len(SESSIONS)])

    async def drop_a_tab(self, tab: int, politely: int) -> None:
        await self.tab(tab).drop(politely=bool(politely % 2))

    async def come_back(self, tab: int, _: int) -> None:
        await self.tab(tab).connect()

    async def send(self, tab: int, _: int) -> None:
        name = self.new()
        self.world.sent[name] = (self.tab(tab).session, f"text of {name}")
        await self.tab(tab).send(name, f"text of {name}")

    async def send_again_what_was_not_acknowledged(self, tab: int, _: int) -> None:
        await self.tab(tab).flush()

    async def send_what_was_sent_before(self, tab: int, which: int) -> None:
        if names := self.sent_to(self.tab(tab).session):
            name = names[which % len(names)]
            await self.tab(tab).repeat(name, self.world.sent[name][1])

    async def send_another_text_under_an_old_name(self, tab: int, which: int) -> None:
        if taken := [name for name in self.sent_to(self.tab(tab).session) if name in self.world.acks]:
            await self.tab(tab).forge(taken[which % len(taken)])

    async def post(self, session: int, which: int) -> None:
        where = SESSIONS[session % len(SESSIONS)]
        names = self.sent_to(where)
        if which % 2 or not names:
            names = [self.new()]
            self.world.sent[names[0]] = (where, f"text of {names[0]}")
        await self.world.post(names[which % len(names)])

    async def retry(self, tab: int, _: int) -> None:
        ended = [row for row in self.tab(tab).seen.rows.values() if row.finish not in (None, "stop")]
        if ended and ended[-1].run_id:
            name = self.new()
            self.world.retried[name] = self.tab(tab).session
            await self.tab(tab).retry(name, ended[-1].run_id)

    async def cancel(self, tab: int, _: int) -> None:
        await self.tab(tab).cancel(self.tab(tab).seen.run_id or "no-run")

    async def erase(self, session: int, _: int) -> None:
        await self.world.erase(SESSIONS[session % len(SESSIONS)])

    # The model --------------------------------------------------------------------------------------------------------

    async def the_model_says(self, call: int, text: int) -> None:
        await self.world.go_on(call, TEXTS[text % len(TEXTS)])

    async def the_responder_adds_a_part(self, call: int, part: int) -> None:
        await self.world.go_on(call, PARTS[part % len(PARTS)])

    async def the_model_ends(self, call: int, end: int) -> None:
        await self.world.go_on(call, ENDS[end % len(ENDS)])

    # The process ------------------------------------------------------------------------------------------------------

    async def restart(self, who_comes_back: int, which: int) -> None:
        await self.world.restart(which)
        await self._back(who_comes_back)

    async def kill(self, who_comes_back: int, which: int) -> None:
        await self.world.crash(which)
        await self._back(who_comes_back)

    async def _back(self, tabs: int) -> None:
        for tab in self.world.tabs[: tabs % (TABS + 1)]:
            await tab.connect()

    async def the_log_goes_away_or_comes_back(self, away: int, which: int) -> None:
        self.world.log_is(which, away=bool(away % 2))
        await asyncio.sleep(0.001)

    async def settle(self, _: int, __: int) -> None:
        self.world.logs_are_back()
        await check_tabs(self.world)


async def play(schedule: Schedule, world: World) -> None:
    try:
        await world.start()
        for session in SESSIONS[:2]:
            await world.open_tab(session)
        chat = Chat(world)
        for name, first, second in schedule:
            await getattr(chat, name)(first, second)
            assert world.violations == []
        await world.finish()
        await check_tabs(world)
        await check_runs(world)
        assert world.violations == []
    finally:
        await world.stop()


def on_sqlite(folder: Path) -> World:
    """One process: the file is its own."""
    return World(folder, database_at(folder), open_log)


def on_postgres(folder: Path, server: PostgresServer) -> World:
    """Two processes on one database."""

    def make_log(url: str) -> EventLog:
        return EventLog(PostgresStore(url, pool_size=2, timing=Timing(lease=3.0, poll=0.05, answer=1.0)))

    return World(folder, server.new_database(), make_log, processes=2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("delivery", "run", "writer"):
        monkeypatch.setattr(f"moorline.backend.{module}.LOG_RETRY_SECONDS", 0.02)
    # What a process that was killed would not have.
    monkeypatch.setattr("moorline.backend.runs._INTERRUPT_SECONDS", 0.05)
    # In the middle of answers.
    monkeypatch.setattr("moorline.backend.eventlog.sqlite.recent.MAX_PIECES", 5)
    monkeypatch.setattr("moorline.backend.eventlog.sqlite.recent._MERGED_PIECES", 0)


def schedules(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize="EXAMPLES" not in os.environ,
        database=None,
        suppress_health_check=list(HealthCheck),
        # Time is part of a schedule, so that a smaller one seldom fails, too; and each attempt would take seconds.
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )


@pytest.mark.timeout(120 + 2 * EXAMPLES)
@pytest.mark.usefixtures("impatient")
@schedules(EXAMPLES)
@given(schedule=SCHEDULES)
def test_every_schedule_on_sqlite(schedule: Schedule) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(schedule, on_sqlite(Path(folder))))


@needs.postgres
@pytest.mark.timeout(120 + 2 * EXAMPLES)
@pytest.mark.usefixtures("impatient")
@schedules(EXAMPLES // 4)
@given(schedule=SCHEDULES)
def test_every_schedule_on_postgres(schedule: Schedule, postgres_server: PostgresServer) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(schedule, on_postgres(Path(folder), postgres_server)))
