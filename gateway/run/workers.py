"""`--workers N`: the gateway as N processes on one port, each a core's worth of it.

The parent listens, accepts and hands each connection to the worker that has the fewest. It serves nothing itself: a
connection costs it 50 µs once, a ninth of what the handshake costs the worker, and a tunnel lives for hours. The two
usual ways were tried, with 64 connections to two workers: of a listening socket that both inherit one of them takes 39
to 64, the one that wakes first taking all that wait; with SO_REUSEPORT, where a hash decides, 32 to 41. A worker that
has 41 of 64 is a core at its limit while another idles, and tunnels stay where they are. Beyond that, with SO_REUSEPORT
a second program of the same user gets half of the connections instead of a message that the port is taken, those that
wait at a worker that dies or hangs wait with it, and macOS does not spread them at all.

A worker is kept alive like the backend of `serve`, see `supervisor.py`, and ends with its parent. What each has for
itself: its connections, its share of `max_connections`, its counts of each upstream's connections and failures, its
metrics on a port of their own. The inspector shows those of all: the one that is asked asks its siblings.
"""

import asyncio
import contextlib
import dataclasses
import logging
import math
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Mapping

from moorline.gateway.app import create_app
from moorline.gateway.common import logs
from moorline.gateway.common.config.options import changed
from moorline.gateway.common.loop import run, stop_signals
from moorline.gateway.common.start import print_start
from moorline.gateway.common.supervised import Parent
from moorline.gateway.common.web.listen import listen
from moorline.gateway.common.web.server import running
from moorline.gateway.keys import SIBLINGS
from moorline.gateway.run import server
from moorline.gateway.run.handover import Acceptor, WorkerChannel, WorkerListener
from moorline.gateway.run.supervisor import Child, SpawnExtras, Supervisor
from moorline.gateway.settings import Settings
from moorline.gateway.siblings import Hub, Siblings

__all__ = ["Workers", "main", "run_worker"]

log = logging.getLogger("moorline.gateway")

# What a worker needs of the environment: how Python starts, and where certificates and temporary files are. nginx keeps
# TZ alone. A worker needs no key of the provider's and no password of the database's.
_ENVIRONMENT = {"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ"}
_ENVIRONMENT_PREFIXES = ("LC_", "MALLOC_", "PYTHON")


class Workers:
    """The parent's side: the port, and the processes that serve it.

    Raises:
        UsageError: an option that cannot work, or a port that is taken. All is said here, once, not by each worker.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        create_app(settings)
        self._acceptor = Acceptor(listen(settings.host, settings.port), scheme=settings.scheme)
        self.addresses = self._acceptor.addresses
        self.status = 0
        """Not 0 when a worker refused its options."""
        self._drain = settings.drain
        # Without a key of the user's, one for all: a chat has the same hash in the lines of each.
        settings = dataclasses.replace(settings, log_key=settings.log_key or secrets.token_hex())
        numbers = range(1, settings.workers + 1)
        # A hook of the user's may need anything.
        environ = _without_key(environ) if settings.authorize else _environ(environ)
        self._supervisors = [Supervisor(self._child(number, _share(settings, number), environ)) for number in numbers]
        self._channels: dict[int, WorkerChannel] = {}
        self._hub = Hub()
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

    def drain(self, within: float | None = None) -> None:
        """Begin the drain of all at the same time; leaving `running` completes it."""
        for supervisor in self._supervisors:
            supervisor.stop(within)

    def kill(self) -> None:
        """End all of them now."""
        for supervisor in self._supervisors:
            supervisor.kill()

    async def _keep(self, supervisor: Supervisor, stop: asyncio.Event) -> None:
        if status := await supervisor.run():
            self.status = status
            stop.set()

    def _child(self, number: int, settings: Settings, environ: Mapping[str, str]) -> Child:
        def is_ready(_: Mapping[str, str]) -> None:
            self._acceptor.add(self._channels[number])
            self._starting.discard(number)
            if not self._starting:
                self._ready.set()

        return Child(
            name=f"worker {number}",
            command="gateway",
            message={"settings": changed(settings), "number": number},
            environ=environ,
            drain=self._drain,
            on_ready=is_ready,
            spawn_context=lambda: self._channel(number),
        )

    @contextlib.contextmanager
    def _channel(self, number: int) -> Iterator[SpawnExtras]:
        """A new one for each life: what was on its way in the old one is not lost, see `Acceptor.remove`."""
        channel = self._channels[number] = WorkerChannel()
        try:
            with self._hub.member() as siblings:
                given = {"channel": channel.fileno(), "siblings": siblings}
                yield SpawnExtras(tuple(given.values()), given)
        finally:
            self._acceptor.remove(channel)


# What each has a part of, so that many workers together give a client no more than one would.
_SHARED = (
    "max_connections",
    "max_connections_per_address",
    "max_requests",
    "max_requests_per_address",
    "max_buffered",
)


def _share(settings: Settings, number: int) -> Settings:
    """A worker's share of what is meant for all. It does not listen itself, and does not warn of where all do."""
    shares = {name: getattr(settings, name) for name in _SHARED}
    return dataclasses.replace(
        settings,
        host="localhost",
        port=0,
        **{name: most and math.ceil(most / settings.workers) for name, most in shares.items()},
        # 0 is a free one for each.
        metrics_port=settings.metrics_port and settings.metrics_port + number - 1,
        workers=1,
    )


def _without_key(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith("OPENAI_")}


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environ.items() if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }


def main(settings: Settings, environ: Mapping[str, str]) -> int:
    """`moorline gateway --workers N`: serve until a signal ends them; the exit status."""
    logs.setup(settings)
    return run(_run(settings, environ))


async def _run(settings: Settings, environ: Mapping[str, str]) -> int:
    workers = Workers(settings, environ)
    with stop_signals(log, settings.drain, before_exit=workers.kill) as stop:
        async with workers.running(stop):
            stopped, ready = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(workers.ready())
            await asyncio.wait([stopped, ready], return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                facts = {"page": server.page(settings, workers.addresses), "backend": settings.upstream[0]}
                print_start(settings, facts)
            await stopped
            ready.cancel()
    return workers.status


def run_worker(parent: Parent) -> int:
    """Be a worker until a signal, or the end of the parent; the exit status."""
    message = parent.receive()
    settings = Settings(**message["settings"])
    logs.setup(settings, worker=message["number"])
    return run(_work(settings, parent, message["channel"], message["siblings"]))


async def _work(settings: Settings, parent: Parent, channel: int, siblings: int) -> int:
    app = create_app(settings)
    app[SIBLINGS] = Siblings(socket.socket(fileno=siblings))
    listener = WorkerListener(socket.socket(fileno=channel))
    with stop_signals(log, settings.drain) as stop:
        async with running(app, settings, listener=listener) as started:
            await parent.wait({}, stop, lambda: started.draining.begin(0))
            listener.leave()
    return 0
