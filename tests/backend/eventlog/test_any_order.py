"""Whatever commands come in whatever order: seq has no gap, and the fold of what is read equals the snapshot."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moorline.backend.errors import Refusal
from moorline.backend.eventlog.base import RunHandle, RunLost
from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite import recent
from moorline.backend.events import Finish
from tests.support import needs
from tests.support.eventlogs import NOW, opened, read_view, start
from tests.support.postgres import PostgresServer
from tests.support.view import View

SESSIONS = st.sampled_from(["s", "t"])
COMMANDS = st.one_of(
    st.tuples(st.just("send"), SESSIONS, st.integers(1, 4)),
    st.tuples(st.just("retry"), SESSIONS, st.integers(1, 4)),
    st.tuples(st.sampled_from(["text", "text", "text", "end", "stop", "read"]), SESSIONS, st.integers(0, 3)),
    st.tuples(st.sampled_from(["erase", "reopen"]), SESSIONS, st.just(0)),
)


class Player:
    """Plays commands against a log, with the handles and the readers that they give rise to."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.handles: list[RunHandle] = []
        self.views = {"s": View(), "t": View()}

    async def play(self, name: str, session_id: str, number: int) -> None:
        with contextlib.suppress(Refusal, RunLost):
            await self._play(name, session_id, number)

    async def _play(self, name: str, session_id: str, number: int) -> None:
        match name:
            case "send":
                started = await start(self.log, session_id, f"m{number}")
                self.handles += [started.handle] if started.handle else []
            case "retry" if self.handles:
                run_id = self.handles[-number % len(self.handles)].run_id
                started = await self.log.retry_run(session_id, run_id=run_id, client_msg_id=f"r{number}", now=NOW)
                self.handles += [started.handle] if started.handle else []
            case "text" if self.handles:
                await self.log.add_text(self.handles[-1 - number % len(self.handles)], f"{number} ")
            case "end" | "stop" if self.handles:
                finish = Finish.STOP if name == "stop" else Finish.CANCELLED
                await self.log.end_run(self.handles[-1], finish=finish, now=NOW, text="." * number)
            case "read":
                self.views[session_id] = await read_view(self.log, session_id, self.views[session_id])
            case "erase":
                await self.log.delete_session(session_id)
                self.views[session_id] = View()


async def check(log: EventLog, player: Player) -> None:
    """Both a new reader and one who read on from somewhere show what the snapshot shows."""
    for session_id, view in player.views.items():
        snapshot = await log.snapshot(session_id)
        for seen in (await read_view(log, session_id), await read_view(log, session_id, view)):
            if snapshot is None:
                assert seen == View()
            else:
                assert seen == View(snapshot.position.seq, snapshot.rows, snapshot.run)


async def play(commands: list[tuple[str, str, int]], database: str) -> None:
    player = None
    while player is None or commands:
        async with opened(database) as log:
            if player is None:
                player = Player(log)
            player.log = log
            while commands:
                name, session_id, number = commands.pop(0)
                if name == "reopen":
                    break
                await player.play(name, session_id, number)
            await check(log, player)


async def play_together(commands: list[tuple[str, str, int]], database: str) -> None:
    async with opened(database) as log:
        player = Player(log)
        await start(log, "s")
        writes = [command for command in commands if command[0] not in ("erase", "read")]
        await asyncio.gather(*(player.play(*command) for command in writes))
        await check(log, player)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=needs.postgres)])
def empty(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Makes an empty database of each kind, for each example."""
    if request.param == "sqlite":
        folder, numbers = tmp_path_factory.mktemp("any_order"), itertools.count()
        with pytest.MonkeyPatch.context() as patch:
            # Between any two of the commands.
            patch.setattr(recent, "MAX_PIECES", 2)
            patch.setattr(recent, "_MERGED_PIECES", 0)
            yield lambda: f"sqlite:///{folder}/{next(numbers)}.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    yield server.empty_database


# PostgreSQL makes its tables for each example.
@pytest.mark.timeout(240)
@settings(max_examples=30, deadline=None)
@given(st.lists(COMMANDS, max_size=40))
def test_commands_one_after_the_other(empty: Callable[[], str], commands: list[tuple[str, str, int]]) -> None:
    asyncio.run(play(commands, empty()))


@settings(max_examples=30, deadline=None)
@given(st.lists(COMMANDS, max_size=40))
def test_commands_all_at_once(empty: Callable[[], str], commands: list[tuple[str, str, int]]) -> None:
    asyncio.run(play_together(commands, empty()))
