"""Whatever happens in whatever order: each client shows what the log holds, each command has one run, each run one end.

EXAMPLES=2000 in the environment tries more schedules than the suite has time for.
"""

import asyncio
import os
import random
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from backend.errors import ErrorCode, LLMError
from backend.eventlog.factory import open_log
from backend.events import Event, Finish, MessageEnded, RunStarted, UserMessage
from backend.session import View, fold
from tests.support.backends import STEP
from tests.support.eventlogs import database_at
from tests.support.tab import Tab
from tests.support.world import SESSIONS, World

EXAMPLES = int(os.environ.get("EXAMPLES", "80"))
TABS = 5
TEXTS = ("a", "word ", "\u00fc", "\ud83d", "\ude00")
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
        await self.tab(tab).cancel(self.tab(tab).seen.run_id or "nobody")

    async def erase(self, session: int, _: int) -> None:
        await self.world.erase(SESSIONS[session % len(SESSIONS)])

    # The model --------------------------------------------------------------------------------------------------------

    async def the_model_says(self, call: int, text: int) -> None:
        await self.world.go_on(call, TEXTS[text % len(TEXTS)])

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


# What must hold -------------------------------------------------------------------------------------------------------


async def check_tabs(world: World) -> None:
    """Each tab that is connected shows the fold of the log."""
    await world.settle()
    for tab in world.tabs:
        if not tab.connected:
            continue
        async with asyncio.timeout(STEP):
            # An answer may grow between the two looks.
            while (view := folded(await world.events(tab.session))).seq != tab.seen.seq:
                await world.settle()
        expected = [(row.message_id, row.role, row.content, row.finish) for row in view.rows]
        if view.run is not None and view.run.text:
            expected.append((view.run.message_id, "assistant", view.run.text, None))
        shown = [(row.message_id, row.role, row.content, row.finish) for row in tab.seen.rows.values()]
        assert [row for row in shown if row[2] or row[3]] == expected
        assert tab.seen.run_id == (view.run and view.run.run_id)


def folded(events: list[Event]) -> View:
    view = View()
    for event in events:
        view = fold(view, event)
    return view


async def check_runs(world: World) -> None:
    """What was acknowledged is there, once; each command has one run and each run one end."""
    started = 0
    for session in SESSIONS:
        events = await world.events(session)
        users = [event for event in events if isinstance(event, UserMessage)]
        runs = Counter(event.run_id for event in events if isinstance(event, RunStarted))
        ends = Counter(event.run_id for event in events if isinstance(event, MessageEnded))
        assert set(runs.values()) <= {1}
        assert runs == ends
        for event in events:
            if isinstance(event, MessageEnded):
                check_answer(world, event)
        mine = {name: text for name, (where, text) in world.sent.items() if where == session}
        assert max(Counter(user.client_msg_id for user in users).values(), default=0) <= 1
        for user in users:
            assert mine[user.client_msg_id] == user.content
            assert world.acks.get(user.client_msg_id, user.run_id) == user.run_id
        retries = {name for name, where in world.retried.items() if where == session}
        acknowledged = {world.acks[name] for name in mine | dict.fromkeys(retries, "") if name in world.acks}
        assert acknowledged <= set(runs)
        assert len(runs) == len(users) + len(retries)
        started += len(runs)
    if len(world.processes) == 1:
        # Where there are several, one that survives may answer in the place of one that was killed.
        assert len(world.calls) <= started + world.erased_runs


def check_answer(world: World, end: MessageEnded) -> None:
    """What the model said is there: all of it, or, where the process was killed, its beginning."""
    if not end.content:
        assert end.finish not in (Finish.STOP, Finish.LENGTH)
        return
    said = "".join(world.calls[int(end.content[1 : end.content.index("]")])].said)
    said = said.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert end.content == (said[: len(end.content)] if end.finish is Finish.INTERRUPTED else said)


@pytest.fixture(params=["sqlite"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for module in ("delivery", "turn"):
        monkeypatch.setattr(f"backend.{module}._LOG_RETRY_SECONDS", 0.02)
    return str(request.param)


@pytest.mark.timeout(60 + EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
    # Time is part of a schedule, so that a smaller one seldom fails, too; and each attempt would take seconds.
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
@given(schedule=SCHEDULES)
def test_every_schedule(schedule: Schedule, store: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(schedule, World(Path(folder), database_at(Path(folder)), open_log)))
