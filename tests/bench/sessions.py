"""What a session costs that is there already: to come back to after a restart, and to open among many others."""

import asyncio
import contextlib
import statistics
from pathlib import Path

from moorline.backend.eventlog.log import EventLog
from moorline.backend.eventlog.sqlite.store import SQLiteStore
from moorline.backend.events import Finish
from tests.bench.chat_servers import moorline
from tests.bench.processes import Child
from tests.bench.usage import cpu_seconds
from tests.support.eventlogs import NOW, handle_of

__all__ = ["opening", "resume"]

_PATIENT = "patient:bench"
_TURNS = 50
_ASKS_PER_SECOND = 50
_ANSWER_SECONDS = 0.2
_OPENED = 20
_WORDS = "a few words of an answer " * 8
# Each question has an answer.
_MESSAGES = 2 * _TURNS


async def resume(
    provider: Child, chatters: Child, folder: Path, *, count: int, cores: tuple[set[int], set[int]]
) -> tuple[float, float, float]:
    """So many sessions at once after a restart: seconds until half of them and all have what they missed; CPU each."""
    database = folder / "resume.db"
    async with moorline(folder / "before", database, provider.port, cores=cores[1]) as server:
        names = [f"resume-{number}" for number in range(count)]
        await chatters.ask("open", port=server.port, sessions=names, hello=True)
        asking = asyncio.create_task(chatters.ask("ask", per_second=_ASKS_PER_SECOND))
        while not asking.done():
            # Short answers: so many long ones at once would overload it.
            await asyncio.wait({asking}, timeout=_ANSWER_SECONDS)
            await provider.ask("finish")
        await asking
        await chatters.ask("answered")
    async with moorline(folder / "after", database, provider.port, cores=cores[1]) as server:
        before = cpu_seconds(server.pid)
        half, all_of_them = await chatters.ask("come_back", port=server.port)
        cpu = cpu_seconds(server.pid) - before
        await chatters.ask("close")
    return half, all_of_them, cpu / count


async def opening(
    provider: Child, chatters: Child, folder: Path, *, messages: int, rounds: int, cores: tuple[set[int], set[int]]
) -> list[tuple[float, float]]:
    """Opening a session of 100 messages, alone in the database and among `messages` of others: seconds, CPU seconds."""
    sizes = (_OPENED, max(_OPENED, messages // _MESSAGES))
    costs: list[list[tuple[float, float]]] = [[] for _ in sizes]
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for size in sizes:
            database = folder / f"{size}.db"
            await _fill(database, size)
            at_work = moorline(folder / f"of-{size}", database, provider.port, cores=cores[1])
            servers.append(await stack.enter_async_context(at_work))
        # The first openings of a process also import and compile.
        for counts in range(rounds + 1):
            for server, cost in zip(servers, costs, strict=True):
                before = cpu_seconds(server.pid)
                names = [f"s{number}" for number in range(_OPENED)] * 5
                seconds = await chatters.ask("open", port=server.port, sessions=names, hello=True)
                cpu = cpu_seconds(server.pid) - before
                await chatters.ask("close")
                if counts:
                    cost.append((seconds, cpu / len(names)))
    return [tuple(map(statistics.median, zip(*cost, strict=True))) for cost in costs]


async def _fill(database: Path, sessions: int) -> None:
    log = EventLog(SQLiteStore(str(database)))
    await log.open()

    async def one(session: str) -> None:
        for turn in range(_TURNS):
            started = await log.start_run(session, _PATIENT, client_msg_id=f"m{turn}", content=_WORDS, now=NOW)
            await log.end_run(handle_of(started), finish=Finish.STOP, now=NOW, text=_WORDS)

    await asyncio.gather(*(one(f"s{number}") for number in range(sessions)))
    await log.close()
