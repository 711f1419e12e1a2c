"""One or two backends on a database, their models and their clients, all of which a test may disturb at any moment.

Nothing here waits for what it has done: a message is written and the socket dropped, or the process killed, with the
answer still on its way. `settle` waits, and `finish` does what clients do in the end: come back and send again.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Finish, RunStarted
from moorline.backend.parts import Part
from moorline.backend.responder import Done, Piece, Text, Turn
from tests.support.backends import STEP, Backend, backend
from tests.support.eventlogs import FaultyLog, everything
from tests.support.tab import Tab

__all__ = ["SESSIONS", "World"]

SESSIONS = ("s1", "s2", "s3")
# Three sessions share one slot and a queue of one, so that one of them may find the process full.
OPTIONS: dict[str, Any] = {"max_runs": 1, "drain": 0.05, "heartbeat": 5.0}


#: What the model does next; None cuts the answer off.
Line = str | Part | Finish | Exception | None


class Call:
    """One request to the model, which begins its answer with a number of its own."""

    def __init__(self, number: int) -> None:
        self.lines: asyncio.Queue[Line] = asyncio.Queue()
        self.lines.put_nowait(f"[{number}] ")
        self.said: list[str] = []
        self.parts: list[Part] = []
        self.open = True


class Model:
    """Answers each call as the test says; None cuts an answer off. `calls` are those of all processes."""

    name = "world"
    scripted = False

    def __init__(self, calls: list[Call]) -> None:
        self.calls = calls
        self.willing = False
        """Ends every answer at once."""
        self.dead = False
        """Of a process that was killed: its calls get no answer."""

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        if self.dead:
            await asyncio.Event().wait()
        call = Call(len(self.calls))
        self.calls.append(call)
        if self.willing:
            call.lines.put_nowait(Finish.STOP)
        try:
            while (line := await call.lines.get()) is not None:
                if isinstance(line, Finish):
                    yield Done(line)
                    return
                if isinstance(line, Exception):
                    raise line
                if isinstance(line, str):
                    call.said.append(line)
                    yield Text(line)
                else:
                    call.parts.append(line)
                    yield line
            yield Done(Finish.INTERRUPTED)
        finally:
            call.open = False


class Process:
    """A backend that runs."""

    def __init__(self, world: "World") -> None:
        self.model = Model(world.calls)
        self.server: Backend
        self.log: FaultyLog
        self._world = world
        self._stack = contextlib.AsyncExitStack()

    async def start(self) -> None:
        def faulty(database: str, **_: Any) -> Any:
            self.log = FaultyLog(self._world.make_log(database))
            return self.log

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("moorline.backend.app.open_log", faulty)
            started = backend(self._world.folder, self.model, database=self._world.database, **OPTIONS)
            self.server = await self._stack.enter_async_context(started)

    async def stop(self) -> None:
        await self._stack.aclose()


class World:
    """`violations` holds what no client should ever see."""

    def __init__(self, folder: Path, database: str, make_log: Callable[[str], EventLog], *, processes: int = 1) -> None:
        self.folder = folder
        self.database = database
        self.make_log = make_log
        self.calls: list[Call] = []
        """All requests to the model."""
        self.tabs: list[Tab] = []
        self.sent: dict[str, tuple[str, str]] = {}
        """Session and text of each message, by client_msg_id."""
        self.retried: dict[str, str] = {}
        """The session of each retry."""
        self.acks: dict[str, str] = {}
        """The run of each command that was acknowledged."""
        self.forgotten: dict[str, str] = {}
        """Texts sent to sessions that were erased since: one that was still on its way has begun its session again."""
        self.erased_runs = 0
        """Runs whose session is gone."""
        self.violations: list[str] = []
        self.changed = asyncio.Event()
        self.processes: list[Process] = []
        self._count = processes
        self._turn = 0
        self._crashes = 0

    @property
    def log(self) -> FaultyLog:
        """The log that the test itself reads."""
        return self.processes[0].log

    def next_process(self) -> Process:
        """Where the next client goes: to each in turn."""
        self._turn += 1
        return self.processes[self._turn % len(self.processes)]

    # The processes ----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the backends."""
        for _ in range(self._count):
            await self._start()

    async def restart(self, which: int) -> None:
        """An orderly end and a new start."""
        process = self.processes.pop(which % len(self.processes))
        process.log.unavailable = False
        await process.stop()
        for tab in self.tabs:
            if tab.process is process:
                await tab.drop()
        await self._start()

    async def crash(self, which: int) -> None:
        """A kill: what is in the database at this moment is all there is for the next process."""
        process = self.processes.pop(which % len(self.processes))
        for tab in self.tabs:
            if tab.process is process:
                await tab.drop()
        process.model.dead = True
        if self._count == 1:
            self._crashes += 1
            self.database = copied(self.database, self.folder / f"crash{self._crashes}.db")
            process.log.unavailable = False
            await self._start()
            await process.stop()
        else:
            # It writes nothing more; it releases its lease, which would otherwise expire.
            process.log.unavailable = True
            await process.stop()
            await self._start()

    async def stop(self) -> None:
        """The end of the test."""
        for tab in self.tabs:
            await tab.drop()
        for process in self.processes:
            process.log.unavailable = False
            await process.stop()

    def log_is(self, which: int, *, away: bool) -> None:
        self.processes[which % len(self.processes)].log.unavailable = away

    def logs_are_back(self) -> None:
        for process in self.processes:
            process.log.unavailable = False

    async def _start(self) -> None:
        process = Process(self)
        await process.start()
        self.processes.append(process)

    # The model --------------------------------------------------------------------------------------------------------

    async def go_on(self, which: int, *lines: Line) -> None:
        """Go on with one of the answers under way, if there is any; None cuts it off."""
        if calls := [call for call in self.calls if call.open]:
            for line in lines:
                calls[which % len(calls)].lines.put_nowait(line)
                await asyncio.sleep(0.001)

    def _relent(self) -> None:
        """End all answers, those to come as well."""
        for process in self.processes:
            process.model.willing = True
        for call in self.calls:
            if call.open:
                call.lines.put_nowait(Finish.STOP)

    # Clients ----------------------------------------------------------------------------------------------------------

    async def open_tab(self, session: str) -> None:
        tab = Tab(self, session)
        self.tabs.append(tab)
        await tab.connect()

    async def post(self, name: str) -> None:
        """Send a message over HTTP."""
        session, text = self.sent[name]
        body = {"patient_id": "patient:demo", "message": text, "client_msg_id": name}
        url = f"{self.next_process().server.http}/api/chat/{session}/messages"
        async with aiohttp.ClientSession() as http, http.post(url, json=body) as answer:
            found = await answer.json()
        if answer.status == 202:
            self.acknowledged(name, found["run_id"])
        elif not found["retryable"]:
            self.violations.append(f"{name} was refused: {found}")

    async def erase(self, session: str) -> None:
        """DELETE; what was sent to the session before is not checked from now on."""
        self.logs_are_back()
        await self.settle()
        url = f"{self.next_process().server.http}/api/chat/{session}"
        events = await self.events(session)
        self.erased_runs += sum(isinstance(event, RunStarted) for event in events)
        async with aiohttp.ClientSession() as http, http.delete(url) as answer:
            assert answer.status == 204
        for tab in self.tabs:
            if tab.session == session:
                await tab.erased(begun=bool(events))
        for name in [name for name, (where, _) in self.sent.items() if where == session]:
            self.forgotten[name] = self.sent.pop(name)[1]
            self.acks.pop(name, None)
        for name in [name for name, where in self.retried.items() if where == session]:
            del self.retried[name]
            self.acks.pop(name, None)

    def acknowledged(self, name: str, run_id: str) -> None:
        if self.acks.setdefault(name, run_id) != run_id:
            self.violations.append(f"{name} has two runs")

    # Waiting ----------------------------------------------------------------------------------------------------------

    async def events(self, session: str) -> list[Event]:
        return await everything(self.log, session, limit=100)

    async def settle(self) -> None:
        """Return when every tab that is connected has seen all that the log holds."""
        async with asyncio.timeout(STEP):
            while not await self._settled():
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 0.02)

    async def _settled(self) -> bool:
        for tab in self.tabs:
            info = await self.log.find_session(tab.session)
            if tab.connected and (not tab.greeted or (info is not None and tab.seen.seq < info.head.seq)):
                return False
        return True

    async def finish(self) -> None:
        """Let the model answer; come back and send again until every command has its run and every run its end."""
        self.logs_are_back()
        self._relent()
        async with asyncio.timeout(2 * STEP):
            while True:
                for tab in self.tabs:
                    await tab.connect()
                    await tab.flush()
                self.changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 0.05)
                if not any(tab.pending for tab in self.tabs) and not await self._running():
                    break
        await self.settle()

    async def _running(self) -> bool:
        found = [await self.log.find_session(session) for session in SESSIONS]
        return any(info is not None and info.active_run_id is not None for info in found)


def copied(database: str, there: Path) -> str:
    """A copy of a database in use, as a killed process would leave it."""
    path = database.removeprefix("sqlite:///")
    # The file first: nothing is moved into it from its journal but at an erasure or at the end.
    for suffix in ("", "-wal"):
        if Path(path + suffix).exists():
            shutil.copy(path + suffix, f"{there}{suffix}")
    return f"sqlite:///{there}"
