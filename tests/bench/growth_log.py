"""What the event log's operations cost as the database, a session and the number of backends grow."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from moorline.backend.eventlog.base import ListCursor, SessionInfo
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Finish
from tests.bench.growth_fill import EVENTS_OF_A_TURN, PATIENTS_SESSIONS, fill
from tests.bench.usage import cpu_seconds
from tests.support.eventlogs import NOW, handle_of, opened
from tests.support.postgres import PostgresServer, postgres

__all__ = ["backends", "database", "history"]

Rows = dict[str, list[float]]
_MESSAGES_OF_A_TURN = 2
#: Turns of each session, where their number is what grows.
_TURNS = 5
_PAGE = 50
_RESUMED = 6
_MICRO = 1e6


@contextlib.asynccontextmanager
async def _empty(store: str, folder: Path) -> AsyncIterator[tuple[str, PostgresServer | None]]:
    """An empty database, and the server that has it if one does."""
    if store == "sqlite":
        yield f"sqlite:///{folder}/chat.db", None
        return
    async with postgres(folder) as server:
        yield server.url, server


async def database(store: str, folder: Path, *, sizes: Sequence[int], repeats: int) -> Rows:
    """By the messages of all sessions together: CPU of one operation, that of a database server included."""
    async with _empty(store, folder) as (url, server):
        rows: Rows = {}
        there = 0
        for size in sizes:
            async with opened(url):
                pass  # the tables
            sessions = max(1, size // (_TURNS * _MESSAGES_OF_A_TURN)) - there
            await asyncio.to_thread(fill, url, prefix=f"to{size}-", sessions=sessions, turns=_TURNS)
            there += sessions
            began = time.perf_counter()
            async with opened(url) as log:
                _note(rows, "start of a backend (ms by the clock)", (time.perf_counter() - began) * 1e3)
                # Of the oldest and the newest there are.
                names = [f"to{size}-{number * sessions // repeats % sessions}" for number in range(repeats)]
                for name, operation in _operations(log, names, head=EVENTS_OF_A_TURN * _TURNS).items():
                    # Each session once.
                    times = min(repeats, sessions) if name == "erase" else repeats
                    _note(rows, f"{name} (us)", await _cost(operation, times, server))
        return rows


async def history(store: str, folder: Path, *, sizes: Sequence[int], repeats: int) -> Rows:
    """The same by the messages of one session, which each operation is about."""
    async with _empty(store, folder) as (url, server):
        rows: Rows = {}
        for size in sizes:
            async with opened(url):
                pass
            turns = max(1, size // _MESSAGES_OF_A_TURN)
            await asyncio.to_thread(fill, url, prefix=f"of{size}-", sessions=1, turns=turns)
            async with opened(url) as log:
                operations = _operations(log, [f"of{size}-0"], head=EVENTS_OF_A_TURN * turns)
                for name, operation in operations.items():
                    # Once: it is another session then.
                    times = 1 if name == "erase" else repeats
                    _note(rows, f"{name} (us)", await _cost(operation, times, server))
        return rows


async def backends(folder: Path, *, counts: Sequence[int], repeats: int) -> Rows:
    """By the backends on one PostgreSQL: CPU of all of them, and of the database, for a message that one takes."""
    rows: Rows = {}
    async with postgres(folder) as server:
        for count in counts:
            async with contextlib.AsyncExitStack() as stack:
                logs = [await stack.enter_async_context(opened(server.url)) for _ in range(count)]
                session = f"of-{count}"
                await _exchange(logs[0], session, "first")
                info = await logs[0].find_session(session)
                assert info is not None
                watches = [log.watch(session) for log in logs]

                async def turn(number: int, logs: Sequence[EventLog] = logs, info: SessionInfo = info) -> None:
                    await _exchange(logs[0], info.session_id, f"{number}")
                    epoch, seq = info.head.epoch, info.head.seq + number * EVENTS_OF_A_TURN
                    await asyncio.gather(
                        *(log.read_after(info.session_id, seq, limit=100, epoch=epoch) for log in logs)
                    )

                _note(rows, "a message and its answer, read at each (us)", await _cost(turn, repeats, server))
                _note(rows, "idle, a second (ms)", await _idle(server) * 1e3)
                del watches
    return rows


def _operations(log: EventLog, names: Sequence[str], *, head: int) -> dict[str, Callable[[int], Awaitable[object]]]:
    """What clients do, each with one of the sessions `names`, which reach to `head`."""

    def name(number: int) -> str:
        return names[number % len(names)]

    return {
        "open": lambda number: log.snapshot(name(number)),
        "resume": lambda number: log.read_after(name(number), head - _RESUMED, limit=100),
        "older page": lambda number: log.rows(name(number), before=head // 2 + 1, limit=_PAGE),
        "list": lambda number: log.sessions(
            f"patient:{int(name(number).partition('-')[2]) // PATIENTS_SESSIONS}", ListCursor(), limit=_PAGE
        ),
        "send and end": lambda number: _exchange(log, name(number), f"new-{number}"),
        "begin": lambda number: _exchange(log, f"{name(0)}-begun-{number}", "m"),
        "erase": lambda number: log.delete_session(name(number)),
    }


async def _exchange(log: EventLog, session: str, message: str) -> None:
    info = await log.find_session(session)
    patient = "patient:growth" if info is None else info.patient_id
    run = handle_of(await log.start_run(session, patient, client_msg_id=message, content="Hi", now=NOW + 1e7))
    await log.end_run(run, finish=Finish.STOP, now=NOW + 1e7, text="An answer.")


async def _cost(operation: Callable[[int], Awaitable[object]], repeats: int, server: PostgresServer | None) -> float:
    """CPU microseconds of one: of this process, the log's thread included, and of the database server."""
    before = _cpu(server)
    for number in range(repeats):
        await operation(number)
    return (_cpu(server) - before) / repeats * _MICRO


async def _idle(server: PostgresServer) -> float:
    before = _cpu(server)
    await asyncio.sleep(1.0)
    return _cpu(server) - before


def _cpu(server: PostgresServer | None) -> float:
    return time.process_time() + (0.0 if server is None else cpu_seconds(server.pid))


def _note(rows: Rows, name: str, value: float) -> None:
    rows.setdefault(name, []).append(value)
