"""Nothing but the chats grows: `python -m tests.bench soak [--seconds 3600] [--sockets 2000]`.

Sockets chat through the gateway with a backend on a SQLite file, while faults of the catalogue strike at random on both
sides of the gateway. Ten times the faults and the chats pause; when every client is connected and has its answer, it is
measured what the two processes and the file hold. The exit status is 1 where one of these grows, see `slope.py`.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

from moorline.gateway.faults.catalogue import CATALOGUE, Fault, Phase
from moorline.gateway.faults.control import Faults
from moorline.gateway.faults.proxy import FaultProxy
from moorline.gateway.tunnel.endings import Side
from tests.bench.chat_servers import NO_CLIENT_LIMITS
from tests.bench.processes import environment, raise_file_limit
from tests.bench.services import Service
from tests.bench.slope import growth
from tests.bench.table import columns, number
from tests.bench.usage import memory, tree
from tests.bench.watched import WATCHED
from tests.support.chat_client import ChatClient, dialled

__all__ = ["Found", "main", "run"]

PARTS = 10
# The first samples show caches that fill; what is fitted comes after them.
_WARM = 3
# Between two messages of one client, and between two faults, seconds.
PAUSE = (1.0, 120.0)
BETWEEN = (1.0, 3.0)
# How long a fault is armed, and how many connections meet it at most, unless it is a state of the network.
ARMED = (0.5, 2.0)
TIMES = (1, 20)
_RESETS_AFTER = 1.0
# For all clients to be connected with their answers, once the faults have ended.
SETTLE = 300.0
_LOOK = 0.1
# Dialled at the same time: if all clients did at once after a fault, none would be in before it gives up on a machine
# that has other work, too, and all would begin again.
_AT_ONCE = 20
_MIB = 1 << 20
_NO_LIMITS = ("--max-connections-per-address=off", "--max-requests-per-address=off")
# What is not of interest, by the last word of a sample's name. SQLite's cache of 2 MiB fills with the file, memory is
# counted in whole pages of many kinds, and a task or a descriptor may be the one of a moment.
_ALLOWANCE = {"MiB": 4.0, "descriptors": 4, "tasks": 4, "blocks": 5000, "message": 100}


class Found(NamedTuple):
    """What a run came to."""

    samples: dict[str, list[float]]
    faults: collections.Counter[str]

    def growing(self) -> list[str]:
        """The names of what grows."""
        return [
            name
            for name, values in self.samples.items()
            if (allowance := _ALLOWANCE.get(name.rpartition(" ")[2])) is not None
            and growth(values[_WARM:]).exceeds(allowance)
        ]

    def __str__(self) -> str:
        parts = len(next(iter(self.samples.values()))) - 1
        head = ["", "start", *(f"{part}/{parts}" for part in range(1, parts + 1)), "growth", "noise"]
        rows = [head]
        for name, values in self.samples.items():
            fitted = growth(values[_WARM:])
            is_judged = name.rpartition(" ")[2] in _ALLOWANCE
            rows.append([name, *map(number, values), *(map(number, fitted) if is_judged else ("-", "-"))])
        faults = ", ".join(f"{name} {count}" for name, count in self.faults.most_common())
        growing = ", ".join(self.growing()) or "nothing"
        return f"{columns(rows, left=1)}\n\nfaults: {faults}\ngrows: {growing}"


# The people -----------------------------------------------------------------------------------------------------------


class Talkers:
    """Clients that chat, each in a session of its own, except while they pause."""

    def __init__(self, port: int, count: int, rng: random.Random, pause: tuple[float, float]) -> None:
        self._rng = rng
        self._pause = pause
        self._going = asyncio.Event()
        self._going.set()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self.clients = [self._client(port, f"soak-{number}") for number in range(count)]
        self.asking = 0
        self.said = 0

    def _client(self, port: int, session: str) -> ChatClient:
        url = f"ws://127.0.0.1:{port}/ws/chat/patient:{session}/{session}"

        return ChatClient(lambda: dialled(url), rng=random.Random(self._rng.random()), places=self._places)

    async def talk(self, client: ChatClient) -> None:
        """Say one thing after the other."""
        while True:
            await asyncio.sleep(self._rng.uniform(*self._pause))
            await self._going.wait()
            self.asking += 1
            await client.say(f"message {self.said}")
            self.asking -= 1
            self.said += 1

    async def pause(self) -> None:
        """Return when every client is connected, and none waits for an answer.

        Raises:
            TimeoutError: not so within SETTLE; it says what the clients wait for.
        """
        self._going.clear()
        try:
            async with asyncio.timeout(SETTLE):
                while self.asking or not all(client.is_connected for client in self.clients):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            waiting = collections.Counter(client.waits_for for client in self.clients)
            del waiting[None]
            raise TimeoutError(f"after {SETTLE:g} s of quiet clients wait for: {dict(waiting)}") from None

    def go_on(self) -> None:
        self._going.set()


# What is broken -------------------------------------------------------------------------------------------------------


async def _strike(faults: Faults, rng: random.Random, seconds: float, struck: collections.Counter[str]) -> None:
    """Faults of the catalogue, one after the other, for so long.

    One of them is a state of the network, which ends every socket: what follows is a storm of clients, and no chat.
    """
    possible = [fault for fault in CATALOGUE.values() if fault.phase is not Phase.PROVIDER]
    of_connections = [fault for fault in possible if not fault.lasts]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _arm(faults, rng, rng.choice([fault for fault in possible if fault.lasts]), struck)
            while True:
                await asyncio.sleep(rng.uniform(*BETWEEN))
                await _arm(faults, rng, rng.choice(of_connections), struck)


async def _arm(faults: Faults, rng: random.Random, fault: Fault, struck: collections.Counter[str]) -> None:
    times = None if fault.lasts else rng.randint(*TIMES)
    async with faults.arm(fault.name, times=times, resets_after=_RESETS_AFTER, **fault.marked) as armed:
        await asyncio.sleep(rng.uniform(*ARMED))
    struck[fault.name] += armed.met


# What is held ---------------------------------------------------------------------------------------------------------


async def _sample(services: Sequence[Service], folder: Path, said: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for service in services:
        inside = json.loads(await _read(folder / f"{service.name}.sock"))
        processes = tree(service.pid)
        found[f"{service.name}: MiB"] = memory(service.pid) / _MIB
        found[f"{service.name}: descriptors"] = sum(_descriptors(pid) for pid in processes)
        found[f"{service.name}: tasks"] = inside["tasks"]
        found[f"{service.name}: Python's blocks"] = inside["blocks"]
    size = await asyncio.to_thread(_size, folder)
    found["messages and answers"] = said
    found["database: MB"] = size / 1e6
    found["database: bytes a message"] = size / max(1, said)
    return found


async def _read(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _size(folder: Path) -> int:
    # Without the journal, which is as long as it once was.
    return (folder / "chat.db").stat().st_size


# All of it ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _stack(folder: Path) -> AsyncIterator[tuple[list[Service], Faults, int]]:
    """The two services, the faults on both sides of the gateway, and the port for clients."""
    database = f"--database=sqlite:///{folder}/chat.db"

    def service(name: str, *options: str) -> Service:
        env = {**environment(), WATCHED: f"{folder}/{name}.sock", "MOORLINE_LOG_LEVEL": "error"}
        return Service(name, folder, name, [*options, *_NO_LIMITS], env, module="tests.bench.watched")

    backend = service("backend", database, "--heartbeat=10s", *NO_CLIENT_LIMITS)
    async with FaultProxy("127.0.0.1", backend.port) as behind:
        gateway = service("gateway", f"--upstream={behind.url}", "--handshake-timeout=5s")
        async with FaultProxy("127.0.0.1", gateway.port) as before:
            try:
                await backend.start()
                await gateway.start()
                targets = {Side.CLIENT: before, Side.UPSTREAM: behind}
                faults = Faults(targets, asyncio.get_running_loop(), provider=False)
                yield [gateway, backend], faults, before.listening_port
            finally:
                await asyncio.gather(gateway.kill(), backend.kill())


async def run(
    *,
    seconds: float,
    sockets: int,
    seed: int,
    folder: Path,
    pause: tuple[float, float] = PAUSE,
    parts: int = PARTS,
) -> Found:
    """Chat for so long, and measure at the start and after each of so many parts."""
    rng = random.Random(seed)
    found = Found({}, collections.Counter())
    raise_file_limit(1 << 16)
    async with _stack(folder) as (services, faults, port), asyncio.TaskGroup() as tasks:
        talkers = Talkers(port, sockets, rng, pause)
        running = [tasks.create_task(client.run()) for client in talkers.clients]
        running += [tasks.create_task(talkers.talk(client)) for client in talkers.clients]
        for part in range(parts + 1):
            if part:
                talkers.go_on()
                await _strike(faults, rng, seconds / parts, found.faults)
            await talkers.pause()
            for name, value in (await _sample(services, folder, talkers.said)).items():
                found.samples.setdefault(name, []).append(value)
            print(f"{part} of {parts}: {talkers.said} messages and answers", flush=True)
        for task in running:
            task.cancel()
    return found


def main(arguments: Sequence[str]) -> int:
    """The command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--sockets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args(arguments)
    print(f"soak: {given.sockets} sockets, {given.seconds:g} s, seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        found = asyncio.run(run(seconds=given.seconds, sockets=given.sockets, seed=given.seed, folder=Path(folder)))
    print(found)
    return 1 if found.growing() else 0
