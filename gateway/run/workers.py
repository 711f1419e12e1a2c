"""`--workers N`: the gateway as N processes on one port, each a core's worth of it.

The parent listens, accepts and hands each connection to the worker that has the fewest. It serves nothing itself: a
connection costs it 50 µs once, a ninth of what the handshake costs the worker, and a tunnel lives for hours. The two
usual ways were tried, with 64 connections to two workers: of a listening socket that both inherit one of them takes 39
to 64, whoever wakes first taking all that wait; with SO_REUSEPORT, where a hash decides, 32 to 41. A worker that has 41
of 64 is a core at its limit while another idles, and tunnels stay where they are. Beyond that, with SO_REUSEPORT a
second program of the same user gets half of the connections instead of a message that the port is taken, those that
wait at a worker that dies or hangs wait with it, and macOS does not spread them at all.

A worker is kept alive like the backend of `serve`, see `supervisor.py`, and ends with its parent. What each has for
itself: its connections, its share of `max_connections`, its counts of each upstream's connections and failures, its
metrics on a port of their own.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from moorline.gateway.app import create_app
from moorline.gateway.common.config.commandline import WORKER, start_block
from moorline.gateway.common.config.options import PREFIX, variables
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.signals import stop_signals
from moorline.gateway.common.supervised import supervised
from moorline.gateway.common.web.listen import listen
from moorline.gateway.common.web.server import running
from moorline.gateway.run import server
from moorline.gateway.run.handover import Acceptor, Handed, Lane
from moorline.gateway.run.supervisor import Child, Equipment, Supervisor
from moorline.gateway.settings import Settings

__all__ = ["Role", "Workers", "run", "work"]

log = logging.getLogger("moorline.gateway")

# The parent's business.
_NOT_FOR_WORKERS = {PREFIX + name for name in ("HOST", "PORT", "WORKERS")}


@dataclasses.dataclass(frozen=True, slots=True)
class Role:
    """Which worker a process is."""

    number: int
    descriptor: int
    """Where its connections come in."""
    backend_ends_too: bool

    @classmethod
    def of(cls, text: str) -> "Role":
        try:
            fields: dict[str, Any] = json.loads(text)
            return cls(**fields)
        except (ValueError, TypeError):
            raise UsageError(f"{WORKER}: it is set for workers of the gateway alone; unset it") from None


class Workers:
    """The parent's side: the port, and the processes that serve it.

    Raises:
        UsageError: an option that cannot work, or a port that is taken. All is said here, once, not by each worker.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, backend_ends_too: bool = False) -> None:
        create_app(settings)
        self._acceptor = Acceptor(listen(settings.host, settings.port))
        self.addresses = self._acceptor.addresses
        self.status = 0
        """Not 0 when a worker refused its options."""
        self._backend_ends_too = backend_ends_too
        self._drain = settings.drain
        # Without a key of the user's, one for all: the same chat is the same word in the lines of each.
        settings = dataclasses.replace(settings, log_key=settings.log_key or secrets.token_hex())
        numbers = range(1, settings.workers + 1)
        self._supervisors = [Supervisor(self._child(number, _environ(settings, environ, number))) for number in numbers]
        self._lanes: dict[int, Lane] = {}
        self._starting = set(numbers)
        self._ready = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Keep them alive; they drain at the end. `stop` is set when one refused its options."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for supervisor in self._supervisors:
                    tasks.create_task(self._keep(supervisor, stop))
                yield
                self.drain()
        finally:
            self._acceptor.close()

    async def ready(self) -> None:
        """Return when each of them has been ready once."""
        await self._ready.wait()

    def drain(self) -> None:
        """Begin the end, of all at the same time; leaving `running` completes it."""
        for supervisor in self._supervisors:
            supervisor.stop()

    def kill(self) -> None:
        """End all of them now."""
        for supervisor in self._supervisors:
            supervisor.kill()

    async def _keep(self, supervisor: Supervisor, stop: asyncio.Event) -> None:
        if status := await supervisor.run():
            self.status = status
            stop.set()

    def _child(self, number: int, environ: Mapping[str, str]) -> Child:
        def is_ready(_: Mapping[str, str]) -> None:
            self._acceptor.add(self._lanes[number])
            self._starting.discard(number)
            if not self._starting:
                self._ready.set()

        return Child(
            name=f"worker {number}",
            command="gateway",
            environ=environ,
            drain=self._drain,
            on_ready=is_ready,
            equipped=lambda: self._lane(number),
        )

    @contextlib.contextmanager
    def _lane(self, number: int) -> Iterator[Equipment]:
        """A new one for each life: what was on its way in the old one is not lost, see `Acceptor.remove`."""
        lane = self._lanes[number] = Lane()
        role = Role(number, lane.fileno(), self._backend_ends_too)
        try:
            yield Equipment((lane.fileno(),), {WORKER: json.dumps(dataclasses.asdict(role))})
        finally:
            self._acceptor.remove(lane)


def _environ(settings: Settings, environ: Mapping[str, str], number: int) -> dict[str, str]:
    """A worker's, with its share of what is meant for all."""
    settings = dataclasses.replace(
        settings,
        max_connections=math.ceil(settings.max_connections / settings.workers),
        # 0 is a free one for each.
        metrics_port=settings.metrics_port and settings.metrics_port + number - 1,
    )
    inherited = {name: value for name, value in environ.items() if not name.startswith(PREFIX)}
    options = {name: value for name, value in variables(settings).items() if name not in _NOT_FOR_WORKERS}
    return inherited | options


async def run(settings: Settings, environ: Mapping[str, str]) -> int:
    """Serve with several processes until a signal ends them; the exit status."""
    workers = Workers(settings, environ)
    with stop_signals(log, settings.drain, before_exit=workers.kill) as stop:
        async with workers.running(stop):
            stopped, ready = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(workers.ready())
            await asyncio.wait([stopped, ready], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                facts = {"page": server.page(settings, workers.addresses), "backend": settings.upstream[0]}
                print(start_block(facts), flush=True)
            await stopped
            ready.cancel()
    return workers.status


async def work(settings: Settings, role: Role, number: int) -> int:
    """Be a worker until a signal or the end of the line to the parent, descriptor `number`; the exit status."""
    app = create_app(settings, backend_ends_too=role.backend_ends_too)
    entrance = Handed(socket.socket(fileno=role.descriptor))
    with stop_signals(log, settings.drain) as stop:
        async with running(app, settings, entrance=entrance) as started:
            await supervised(started, {}, stop, number)
            entrance.leave()
    return 0
