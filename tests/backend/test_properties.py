"""Whatever happens in whatever order: each client shows what the log holds, each command has one run, each run one end.

EXAMPLES=2000 in the environment tries more schedules than the suite has time for.
"""

import asyncio
import os
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from backend.errors import ErrorCode, LLMError
from backend.events import Event, Finish, MessageEnded, RunStarted, UserMessage
from backend.session import View, fold
from tests.support.eventlogs import database_at
from tests.support.tab import Tab
from tests.support.world import SESSIONS, World

EXAMPLES = int(os.environ.get("EXAMPLES", "40"))
STEPS = 40
TABS = 5
#: Whatever there is of something: the test takes it modulo their number.
ANY = st.integers(0, 9)
ENDS = st.sampled_from(
    [Finish.STOP, Finish.LENGTH, None, LLMError(ErrorCode.LLM_UNAVAILABLE, "x"), LLMError(ErrorCode.FILTERED, "x")]
)


class Chat(RuleBasedStateMachine):
    """One rule is one thing that happens; none of them waits for its effect, except `settle` and the end.

    Which rules may come next must not hang on how fast the effects of earlier ones are: so a rule without anything to
    do does nothing, where a precondition would make the schedule depend on time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.number = 0

    def do(self, step: Coroutine[Any, Any, None]) -> None:
        self.runner.run(step)
        assert self.world.violations == []

    def name(self) -> str:
        self.number += 1
        return f"c{self.number}"

    def tab(self, number: int) -> Tab:
        return self.world.tabs[number % len(self.world.tabs)]

    @initialize()
    def begin(self) -> None:
        folder = Path(self.folder.name)
        self.world = self.runner.run(new_world(folder))

    # Clients ----------------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.world.tabs) < TABS)
    @rule(session=st.sampled_from(SESSIONS))
    def open_a_tab(self, session: str) -> None:
        self.do(self.world.open_tab(session))

    @rule(tab=ANY, politely=st.booleans())
    def drop_a_tab(self, tab: int, *, politely: bool) -> None:
        self.do(self.tab(tab).drop(politely=politely))

    @rule(tab=ANY)
    def come_back(self, tab: int) -> None:
        self.do(self.tab(tab).connect())

    @rule(tab=ANY)
    def send(self, tab: int) -> None:
        name = self.name()
        self.world.sent[name] = (self.tab(tab).session, f"text of {name}")
        self.do(self.tab(tab).send(name, f"text of {name}"))

    @rule(tab=ANY)
    def send_again_what_was_not_acknowledged(self, tab: int) -> None:
        self.do(self.tab(tab).flush())

    @rule(tab=ANY, which=ANY)
    def send_what_was_sent_before(self, tab: int, which: int) -> None:
        names = [name for name, (session, _) in self.world.sent.items() if session == self.tab(tab).session]
        if names:
            name = names[which % len(names)]
            self.do(self.tab(tab).repeat(name, self.world.sent[name][1]))

    @rule(tab=ANY, which=ANY)
    def send_another_text_under_an_old_name(self, tab: int, which: int) -> None:
        taken = [name for name in self.world.acks if self.world.sent.get(name, ("",))[0] == self.tab(tab).session]
        if taken:
            self.do(self.tab(tab).repeat(taken[which % len(taken)], "forged"))

    @rule(session=st.sampled_from(SESSIONS), which=ANY, again=st.booleans())
    def post(self, session: str, which: int, *, again: bool) -> None:
        names = [name for name, (where, _) in self.world.sent.items() if where == session]
        if not (again and names):
            names = [self.name()]
            self.world.sent[names[0]] = (session, f"text of {names[0]}")
        self.do(self.world.post(names[which % len(names)]))

    @rule(tab=ANY)
    def retry(self, tab: int) -> None:
        ended = [row for row in self.tab(tab).seen.rows.values() if row.finish not in (None, "stop")]
        if ended and ended[-1].run_id:
            name = self.name()
            self.world.retried[name] = self.tab(tab).session
            self.do(self.tab(tab).retry(name, ended[-1].run_id))

    @rule(tab=ANY)
    def cancel(self, tab: int) -> None:
        self.do(self.tab(tab).cancel(self.tab(tab).seen.run_id or "nobody"))

    @rule(session=st.sampled_from(SESSIONS))
    def erase(self, session: str) -> None:
        self.do(self.world.erase(session))

    # The model --------------------------------------------------------------------------------------------------------

    @rule(call=ANY, text=st.sampled_from(["a", "word ", "ü", "\ud83d", "\ude00"]))
    def the_model_says(self, call: int, text: str) -> None:
        self.do(self.world.model.say(call, text))

    @rule(call=ANY, end=ENDS)
    def the_model_ends(self, call: int, end: Finish | LLMError | None) -> None:
        self.do(self.world.model.say(call, end))

    # The process ------------------------------------------------------------------------------------------------------

    @rule()
    def restart(self) -> None:
        self.do(self.world.restart())

    @rule()
    def kill(self) -> None:
        self.do(self.world.crash())

    @rule(away=st.booleans())
    def the_log_goes_away_or_comes_back(self, *, away: bool) -> None:
        self.world.log.away = away
        self.do(asyncio.sleep(0.001))

    # What must hold ---------------------------------------------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        self.world.log.away = False
        self.do(self.world.settle())
        self.do(check_tabs(self.world))

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.do(self.world.finish())
                self.do(check_tabs(self.world))
                self.do(check_runs(self.world))
        finally:
            if hasattr(self, "world"):
                self.runner.run(self.world.stop())
            self.runner.close()
            self.folder.cleanup()


async def new_world(folder: Path) -> World:
    world = World(folder, database_at(folder))
    await world.start()
    for session in SESSIONS[:2]:
        await world.open_tab(session)
    return world


async def check_tabs(world: World) -> None:
    """Each tab that is connected shows the fold of the log."""
    for tab in world.tabs:
        if not tab.connected:
            continue
        seen = None
        # An answer may grow between the two looks.
        while seen != tab.seen.seq:
            await world.settle()
            seen = tab.seen.seq
            view = folded(await world.events(tab.session))
        assert tab.seen.seq == view.seq
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
    assert len(world.model.calls) <= started + world.erased_runs


@pytest.mark.timeout(60 + EXAMPLES)
@pytest.mark.parametrize("store", ["sqlite"])
def test_every_schedule(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("delivery", "turn"):
        monkeypatch.setattr(f"backend.{module}._LOG_RETRY_SECONDS", 0.02)
    run_state_machine_as_test(
        Chat,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="EXAMPLES" not in os.environ,
            database=None,
            suppress_health_check=list(HealthCheck),
            # Time is part of a schedule, so that a smaller one seldom fails, too; and each attempt would take seconds.
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )
