"""Nothing is lost while everything breaks: `python -m tests.bench chaos [--store sqlite|postgres] [--seconds N]`.

Gateways, backends and the database are killed, stopped and restarted at random while clients hold conversations. At the
end every client's transcript is compared with the log: each acknowledged message is there once, in the same order for
every client, and every run has ended. The four counts must be 0; so is the exit status then.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import random
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from websockets.asyncio.client import connect

from tests.bench.chat_servers import NO_CLIENT_LIMITS
from tests.bench.services import Service
from tests.bench.verdict import Verdict, judge
from tests.support.chat_client import ChatClient, dialled
from tests.support.openai_server import DONE, Fault, OpenAIServer, Status, finish, openai_server, says

__all__ = ["main", "run"]

PATIENT = "patient:demo"
# Seconds between two blows, and how long an owner is stopped: sometimes beyond its lease.
BLOWS = (0.5, 3.0)
STOPS = (0.5, 20.0)
# Of a short run, no more than this share is one stop.
STOP_SHARE = 0.3
# After the last fault each client has this long to come back, to send what is unsent and to see each run end.
SETTLE = 120.0
AGREE_TRIES, AGREE_SECONDS = 200, 0.1
WORDS = (4, 30)
TOKEN_SECONDS = 0.05


# The provider ---------------------------------------------------------------------------------------------------------


class Provider(OpenAIServer):
    """Answers each request at a model's pace, and fails now and then."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def next_reply(self) -> tuple[Any, ...]:
        luck = self._rng.random()
        if luck < 0.04:
            return (Status(self._rng.choice((429, 500))),)
        words = [says(f"word{number} ") for number in range(self._rng.randint(*WORDS))]
        steps = [step for word in words for step in (word, TOKEN_SECONDS)]
        if luck < 0.08:
            return (*steps[: len(steps) // 2], Fault.RESET)
        return (*steps, finish("stop"), DONE)


# What is broken -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(slots=True)
class Scene:
    """Everything that runs."""

    gateways: list[Service]
    backends: list[Service]
    clients: list[ChatClient]
    restart_database: Callable[[], Awaitable[None]] | None
    rng: random.Random
    stops: tuple[float, float]
    deck: list[Callable[[], Awaitable[None]]] = dataclasses.field(default_factory=list)
    blows: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    async def strike(self) -> None:
        """One blow, and what mends it. Like cards of a deck: none comes again before each has come."""
        if not self.deck:
            self.deck = self._shuffled()
        await self.deck.pop()()

    def _shuffled(self) -> list[Callable[[], Awaitable[None]]]:
        blows: list[Callable[[], Awaitable[None]]] = [
            self.kill_backend,
            self.kill_backend,
            self.kill_gateway,
            self.stop_backend,
            self.reset_clients,
        ]
        if self.restart_database is not None:
            blows.append(self.break_database)
        self.rng.shuffle(blows)
        return blows

    async def kill_backend(self) -> None:
        self.blows["backends killed"] += 1
        await self._killed(self.rng.choice(self.backends))

    async def kill_gateway(self) -> None:
        self.blows["gateways killed"] += 1
        await self._killed(self.rng.choice(self.gateways))

    async def stop_backend(self) -> None:
        self.blows["backends stopped"] += 1
        backend = self.rng.choice(self.backends)
        backend.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(self.rng.uniform(*self.stops))
        finally:
            backend.send(signal.SIGCONT)

    async def reset_clients(self) -> None:
        self.blows["sockets reset"] += 5
        for client in self.rng.sample(self.clients, min(5, len(self.clients))):
            client.reset()

    async def break_database(self) -> None:
        assert self.restart_database is not None
        self.blows["databases restarted"] += 1
        await self.restart_database()

    async def _killed(self, service: Service) -> None:
        await service.kill()
        await asyncio.sleep(self.rng.uniform(0, 1))
        await service.start()


async def _chaos(scene: Scene, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while True:
                await asyncio.sleep(scene.rng.uniform(*BLOWS))
                # A blow is never left half done.
                await asyncio.shield(scene.strike())


# The clients ----------------------------------------------------------------------------------------------------------


async def _talk(client: ChatClient, name: str, over: asyncio.Event, rng: random.Random) -> None:
    """Say one thing after the other; ask again where an answer did not end well, cancel one now and then."""
    number = 0
    while not over.is_set():
        number += 1
        row = await client.say(f"{name} says {number}")
        if row.finish not in ("stop", "length") and rng.random() < 0.5 and row.run_id is not None:
            with contextlib.suppress(TimeoutError):
                # Another tab may have retried it; that is refused for good.
                async with asyncio.timeout(5):
                    await client.retry(row.run_id)
        elif client.transcript.run_id is not None and rng.random() < 0.1:
            await client.cancel(client.transcript.run_id)


def _dialler(gateways: Sequence[Service], session: str, rng: random.Random) -> Callable[[], connect]:
    def dial() -> connect:
        url = f"ws://127.0.0.1:{rng.choice(gateways).port}/ws/chat/{PATIENT}/{session}"
        return dialled(url)

    return dial


async def _agreed(clients: Sequence[ChatClient], tabs: int) -> None:
    """A client that has finished may still miss another tab's last answer."""
    groups = [clients[start : start + tabs] for start in range(0, len(clients), tabs)]
    transcripts = [[tab.transcript for tab in group] for group in groups]
    for _ in range(AGREE_TRIES):
        if all(not one.run_id and one.seq == group[0].seq for group in transcripts for one in group):
            return
        await asyncio.sleep(AGREE_SECONDS)


# What came of it ------------------------------------------------------------------------------------------------------


async def _judge(scene: Scene, sessions: Sequence[str], tabs: int) -> Verdict:
    verdict = Verdict(blows=scene.blows)
    async with aiohttp.ClientSession(scene.gateways[0].address) as http, asyncio.timeout(SETTLE):
        for place, session in enumerate(sessions):
            judge(verdict, await _history(http, session), scene.clients[place * tabs : (place + 1) * tabs])
    return verdict


async def _history(http: aiohttp.ClientSession, session: str) -> list[dict[str, Any]]:
    """All rows of a session, oldest first."""
    rows: list[dict[str, Any]] = []
    older: list[dict[str, Any]] | None = None
    while older != []:
        before = {"before": str(rows[0]["seq"]), "limit": "500"} if rows else {}
        async with http.get(f"/api/chat/{session}/messages", params=before) as answer:
            older = await answer.json() if answer.ok else None
        rows = (older or []) + rows
        if older is None:
            # Whom the last blow hit may not be back yet.
            await asyncio.sleep(AGREE_SECONDS)
    return rows


# All of it ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _database(store: str, folder: Path) -> AsyncIterator[tuple[str, Callable[[], Awaitable[None]] | None]]:
    """Its address, and how to restart it."""
    if store == "sqlite":
        yield f"sqlite:///{folder}/chat.db", None
        return
    from tests.support.postgres import postgres

    async with postgres(folder) as server:
        yield server.url, server.restart


@contextlib.asynccontextmanager
async def _services(
    store: str, folder: Path, database: str, provider: OpenAIServer
) -> AsyncIterator[list[list[Service]]]:
    env = {"OPENAI_API_KEY": "any", "OPENAI_BASE_URL": provider.base_url, "MOORLINE_LOG_LEVEL": "warning"}
    options = ["--database", database, "--heartbeat", "2s", "--drain", "2s", *NO_CLIENT_LIMITS]
    backends = [
        Service(f"backend{number}", folder, "backend", options, env) for number in range(1 if store == "sqlite" else 2)
    ]
    upstreams = [argument for backend in backends for argument in ("--upstream", backend.address)]
    gateways = [
        Service(f"gateway{number}", folder, "gateway", [*upstreams, "--drain", "2s"], env) for number in range(2)
    ]
    try:
        for service in backends + gateways:
            await service.start()
        yield [gateways, backends]
    finally:
        await asyncio.gather(*(service.kill() for service in backends + gateways))


async def run(*, store: str, seconds: float, clients: int, tabs: int, seed: int, folder: Path) -> Verdict:
    """Break things for so long while so many clients talk, then compare each client's view with the log."""
    rng = random.Random(seed)
    sessions = [f"s{number}" for number in range(clients // tabs)]
    async with (
        openai_server(Provider(rng)) as provider,
        _database(store, folder) as (database, restart),
        _services(store, folder, database, provider) as (gateways, backends),
        asyncio.TaskGroup() as tasks,
    ):
        talkers = [
            ChatClient(_dialler(gateways, session, rng), rng=random.Random(rng.random()))
            for session in sessions
            for _ in range(tabs)
        ]
        stops = (STOPS[0], min(STOPS[1], STOP_SHARE * seconds))
        scene = Scene(gateways, backends, talkers, restart, rng, stops)
        connected = [tasks.create_task(client.run()) for client in talkers]
        over = asyncio.Event()
        talks = [tasks.create_task(_talk(each, f"c{place}", over, rng)) for place, each in enumerate(talkers)]
        await _chaos(scene, seconds)
        over.set()
        _, unfinished = await asyncio.wait(talks, timeout=SETTLE)
        for task in unfinished:
            task.cancel()
        await _agreed(talkers, tabs)
        verdict = await _judge(scene, sessions, tabs)
        for task in connected:
            task.cancel()
    verdict.endless += len(unfinished)
    return verdict


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench chaos", description="Break everything, lose nothing.")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="postgres")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--tabs", type=int, default=2, help="clients that share a session")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args(arguments)
    print(f"chaos on {given.store}: {given.clients} clients, {given.seconds:g} s, seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        verdict = asyncio.run(
            run(
                store=given.store,
                seconds=given.seconds,
                clients=given.clients,
                tabs=given.tabs,
                seed=given.seed,
                folder=Path(folder),
            )
        )
    print(verdict)
    return 0 if verdict.held else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
