"""Event logs for tests: a log on a file of the test's own, and what its readers see."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from moorline.backend.eventlog.base import LogUnavailable, RunHandle, Started
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Finish
from tests.support.view import View, fold

__all__ = [
    "NOW",
    "FaultyLog",
    "RecordingOwner",
    "database_at",
    "everything",
    "exchange",
    "handle_of",
    "in_use",
    "opened",
    "read_view",
    "start",
    "until",
]

#: Two busy cores; nothing waits for this long where it works.
PATIENCE = 20.0
#: The clock of tests that do not care about time.
NOW = 1_700_000_000.0


def database_at(folder: Path) -> str:
    """The option `database` for a file in `folder`."""
    return f"sqlite:///{folder / 'chat.db'}"


def opened(database: str) -> contextlib.AbstractAsyncContextManager[EventLog]:
    """An open log, closed at the end."""
    return in_use(open_log(database))


@contextlib.asynccontextmanager
async def in_use(log: EventLog) -> AsyncIterator[EventLog]:
    """`log`, opened now and closed at the end."""
    await log.open()
    try:
        yield log
    finally:
        await log.close()


async def start(log: EventLog, session_id: str, client_msg_id: str = "m1", content: str = "Hello") -> Started:
    """Send a message of the patient `p`."""
    return await log.start_run(session_id, "p", client_msg_id=client_msg_id, content=content, now=NOW)


async def exchange(log: EventLog, session_id: str, *, patient_id: str = "patient:demo", at: float = NOW) -> None:
    """A question and its whole answer, with which the session begins."""
    run = handle_of(await log.start_run(session_id, patient_id, client_msg_id="c1", content="Hi", now=at))
    await log.end_run(run, finish=Finish.STOP, now=at, text="text")


def handle_of(started: Started) -> RunHandle:
    """The handle of a run that is not a duplicate."""
    assert started.handle is not None
    return started.handle


async def everything(log: "EventLog | FaultyLog", session_id: str, *, after: int = 0, limit: int = 3) -> list[Event]:
    """All events after the seq `after`, read in small portions."""
    events: list[Event] = []
    while part := await log.read_after(session_id, events[-1].seq if events else after, limit=limit):
        assert len(part) <= limit
        events += part
    return events


async def read_view(log: EventLog, session_id: str, view: View | None = None) -> View:
    """What a client shows that has `view` and reads on; raises Gap when an event is missing."""
    view = view or View()
    for event in await everything(log, session_id, after=view.seq):
        view = fold(view, event)
    return view


async def until(true: Callable[[], object]) -> None:
    """Return once `true` returns true; for changes without an event to wait for."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class FaultyLog:
    """A log whose database a test makes `unavailable`: everything then fails but watching and what is in memory."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.unavailable = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._log, name)
        if name in ("attach", "database", "identity", "on_revoked", "read_tail", "text_spacing", "watch", "close"):
            return method

        async def attempt(*args: Any, **options: Any) -> Any:
            if self.unavailable:
                raise LogUnavailable("pulled out by a test")
            return await method(*args, **options)

        # Those of these two are futures, where others are coroutines.
        if name in ("add_text", "add_part"):
            return lambda *args, **options: asyncio.ensure_future(attempt(*args, **options))
        return attempt


class RecordingOwner:
    """A `RunOwner` that records its calls."""

    def __init__(self) -> None:
        self.stopped: asyncio.Queue[str] = asyncio.Queue()
        self.adopted: asyncio.Queue[Started] = asyncio.Queue()

    def stop_run(self, run_id: str) -> None:
        self.stopped.put_nowait(run_id)

    def adopt_run(self, started: Started) -> None:
        self.adopted.put_nowait(started)
