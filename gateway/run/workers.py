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
import os
import secrets
import socket
from collections.abc import Callable, Collection, Container, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Self

from aiohttp import web

from moorline.gateway.app import create_app
from moorline.gateway.common import logs, tracing
from moorline.gateway.common.collection import keep_start, no_collection
from moorline.gateway.common.config.options import changed
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.loop import run, stop_signals
from moorline.gateway.common.supervised import Parent
from moorline.gateway.common.web.listen import listen
from moorline.gateway.common.web.metrics_port import METRICS_PORT, METRICS_SOCKET, METRICS_WAIT
from moorline.gateway.common.web.server import Running, running
from moorline.gateway.keys import SIBLINGS
from moorline.gateway.proxy.handover import HandOverFailed, begin_hand_over, take_over
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.proxy.tunnels import TUNNELS
from moorline.gateway.run.acceptor import Acceptor, WorkerChannel, WorkerListener
from moorline.gateway.run.supervisor import Child, SpawnExtras, Supervisor
from moorline.gateway.settings import Settings
from moorline.gateway.siblings import Hub, Siblings

__all__ = ["MetricsSockets", "Workers", "run_worker"]

log = logging.getLogger("moorline.gateway")

# Until a new worker is ready: imports on a machine that is busy.
_START_SECONDS = 60.0
# Until the counts of its predecessor are here, once it is ready. All workers have to be before.
_COUNTS_SECONDS = _START_SECONDS
# Until a worker that accepts no more says that it has answered what it had; it takes a second at most itself. One that
# was replaced is told nothing any more, and has that second.
_FINISH_SECONDS = 2.0
_REPLACED_SECONDS = 1.0
# What a worker needs of the environment: how Python starts, and where certificates and temporary files are. nginx keeps
# TZ alone. A worker needs no key of the provider's and no password of the database's.
_ENVIRONMENT = {"HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ"}
_ENVIRONMENT_PREFIXES = ("LC_", "MALLOC_", "OTEL_", "PYTHON")


class MetricsSockets:
    """Sockets that listen for the metrics of each worker: they outlive it, so that its successor has them at once."""

    def __init__(self, first: socket.socket | None = None) -> None:
        self._first = first
        self._sockets: dict[int, socket.socket] = {}

    def at(self, port: int, number: int = 1) -> socket.socket:
        """That of one worker; 0 is a free port for each.

        Raises:
            UsageError: the port is taken.
        """
        key = port or -number
        if self._first is not None and number == 1:
            return self._first
        if key not in self._sockets:
            (self._sockets[key],) = listen("127.0.0.1", port, option="metrics_port")
        return self._sockets[key]

    def close(self) -> None:
        self.keep(())
        if self._first is not None:
            self._first.close()

    def keep(self, used: Container[socket.socket]) -> None:
        """Close the others: a connection would wait in them for ever."""
        for key, sock in list(self._sockets.items()):
            if sock not in used:
                self._sockets.pop(key).close()


class Workers:
    """The parent's side: the processes that serve a port with one configuration.

    Raises:
        UsageError: the port of the metrics is taken.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        acceptor: Acceptor,
        metrics: MetricsSockets,
        unexpected: Collection[Owner] = (),
        *,
        predecessors: int = 0,
    ) -> None:
        self._acceptor = acceptor
        self._drain = settings.drain
        # Without a key of the user's, one for all: a chat has the same hash in the lines of each.
        settings = dataclasses.replace(settings, log_key=settings.log_key or secrets.token_hex())
        self._numbers = range(1, settings.workers + 1)
        # A hook of the user's may need anything.
        environ = _without_key(environ) if settings.authorize else _environ(environ)
        shares = {number: _share(settings, number) for number in self._numbers}
        self._metrics = {
            number: metrics.at(share.metrics_port, number)
            for number, share in shares.items()
            if share.metrics_port is not None
        }
        # Those that go on with another process's counts, which come with its tunnels.
        self._waiting_for_counts = set(range(1, predecessors + 1))
        self._channels: dict[int, WorkerChannel] = {}
        self._hub = Hub()
        self._frontend = ""
        # For later lives: `expect` is for those of the moment.
        self._unexpected = unexpected
        self._starting = set(self._numbers)
        self._ready = asyncio.Event()
        self._failed = asyncio.Event()
        self._is_open = False
        self._supervisors = {number: Supervisor(self._child(number, shares[number], environ)) for number in shares}
        self._keeping: list[asyncio.Task[None]] = []
        # Those that end by themselves, as others have their tunnels.
        self._left: set[int] = set()

    @property
    def size(self) -> int:
        return len(self._supervisors)

    @property
    def metrics(self) -> Collection[socket.socket]:
        """The sockets that listen for their metrics."""
        return self._metrics.values()

    def start(self, on_refused: Callable[[int], None] = lambda status: None) -> None:
        """Keep them alive until `end`. `on_refused` gets the status of one that refused its options."""
        self._keeping = [
            asyncio.create_task(self._keep(supervisor, on_refused)) for supervisor in self._supervisors.values()
        ]

    def open(self) -> None:
        """Accept connections, as soon as one is ready."""
        self._is_open = True
        for channel in self._channels.values():
            if channel.is_ready:
                self._acceptor.add(channel)

    async def ready(self) -> None:
        """Return when each of them has been ready once."""
        await self._ready.wait()

    async def settled(self) -> None:
        """Return when all have started.

        Raises:
            UsageError: one has not, or they were not ready in time.
        """
        waiting = [asyncio.create_task(event.wait()) for event in (self._ready, self._failed)]
        try:
            await asyncio.wait(waiting, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
        if self._failed.is_set():
            raise UsageError("the new processes do not start; the lines above say why")
        if not self._ready.is_set():
            raise UsageError(f"the new processes were not ready within {_START_SECONDS:g}s")

    async def take_over(self, number: int, sock: socket.socket, *, is_same_place: bool) -> bool:
        """Have the worker of this place take the tunnels of the process behind `sock`; False: it is not ready."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                # One that has ended is started again.
                while (channel := self._channels.get(number + 1)) is None or not channel.is_ready:
                    self._ready.clear()
                    await self._ready.wait()
            channel.take_over(sock, is_same_place=is_same_place)
            return True
        return False

    def has_taken_over(self, number: int) -> None:
        """A later life of this worker has no predecessor."""
        self._waiting_for_counts.discard(number + 1)

    async def hand_over(self, number: int, sock: socket.socket, *, only_counts: bool = False) -> bool:
        """See `Generation`. A worker that has ended has none left."""
        channel = self._channels.get(number + 1)
        if channel is None or not channel.is_ready:
            sock.close()
            return True
        done = await channel.hand_over(sock, only_counts=only_counts)
        if done:
            self._left.add(number + 1)
            self._supervisors[number + 1].leave()
        return done or not channel.is_ready

    def move_frontend(self, address: str) -> None:
        """See `Generation`."""
        self._frontend = address
        self._hub.tell({"frontend": address})

    def expect(self, owner: Owner, *, expected: bool) -> None:
        """See `Generation`."""
        self._hub.tell({"owner": owner.name, "expected": expected})

    async def faults(self) -> Sequence[Mapping[str, Any]]:
        """See `Generation`. All workers have the same ones."""
        answers = await self._hub.ask({"lasting_faults": None})
        return list({each["id"]: each for answer in answers for each in answer or ()}.values())

    async def arm(self, faults: Sequence[Mapping[str, Any]]) -> None:
        """Arm these in all workers, which have the option `faults`."""
        for each in faults:
            await self._hub.ask({"arm": each})

    def stop_accepting(self) -> None:
        """See `Generation`: the acceptor gives nothing more, and what was given has its answer."""
        for channel in self._channels.values():
            channel.is_retired = True
            channel.stop()

    async def finish_requests(self) -> None:
        """See `Generation`."""
        # One that hangs says nothing, and one that has been replaced ends.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPLACED_SECONDS if self._left else _FINISH_SECONDS):
                await asyncio.gather(*(each.finished.wait() for each in self._channels.values() if each.is_ready))

    def drain(self, within: float | None = None) -> None:
        """Begin the drain of all at the same time, also of those that would end by themselves; `end` completes it."""
        if within is not None:
            # They know `drain` alone, and would be killed in it.
            self._hub.tell({"drain": within})
        for supervisor in self._supervisors.values():
            supervisor.stop(within)

    async def end(self) -> None:
        """Return when all have ended."""
        for number, supervisor in self._supervisors.items():
            if number not in self._left:
                supervisor.stop()
        await asyncio.gather(*self._keeping)

    def kill(self) -> None:
        """End all of them now."""
        for supervisor in self._supervisors.values():
            supervisor.kill()

    async def _keep(self, supervisor: Supervisor, on_refused: Callable[[int], None]) -> None:
        if status := await supervisor.run():
            self._failed.set()
            on_refused(status)

    def _child(self, number: int, settings: Settings, environ: Mapping[str, str]) -> Child:
        def is_ready(_: Mapping[str, str]) -> None:
            channel = self._channels[number]
            channel.open()
            if self._frontend:
                self._hub.tell({"frontend": self._frontend})
            for owner in self._unexpected:
                self._hub.tell({"owner": owner.name, "expected": False})
            if self._is_open:
                self._acceptor.add(channel)
            self._starting.discard(number)
            if not self._starting:
                # At each life, for those that wait for one that has ended.
                self._ready.set()

        return Child(
            name=f"worker {number}",
            command="gateway",
            message={"settings": changed(settings), "number": number},
            environ=environ,
            drain=self._drain,
            watchdog=settings.watchdog,
            start_timeout=settings.start_timeout,
            on_ready=is_ready,
            on_failed_start=self._failed.set,
            spawn_context=lambda: self._channel(number),
        )

    @contextlib.contextmanager
    def _channel(self, number: int) -> Iterator[SpawnExtras]:
        """A new one for each life: what was on its way in the old one is not lost, see `Acceptor.remove`."""
        channel = self._channels[number] = WorkerChannel()
        try:
            with self._hub.member() as siblings:
                given = {"channel": channel.fileno(), "siblings": siblings}
                if number in self._metrics:
                    given["metrics"] = self._metrics[number].fileno()
                yield SpawnExtras(
                    tuple(given.values()), {**given, "waits_for_counts": number in self._waiting_for_counts}
                )
        finally:
            self._acceptor.remove(channel)


# What each has a part of, so that many workers together give a client no more than one would.
_SHARED = (
    "max_connections",
    "max_connections_per_address",
    "handshakes_per_address",
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


def run_worker(parent: Parent) -> int:
    """Be a worker until a signal, the end of the parent, or a successor; the exit status."""
    message = parent.receive()
    try:
        settings = Settings(**message["settings"])
    except TypeError as error:
        # The parent is of another version.
        raise UsageError(f"the installed version cannot be started by the running one: {error}") from None
    logs.setup(settings, worker=message["number"])
    tracing.start("moorline-gateway", os.environ)
    return run(_work(settings, parent, message))


async def _work(settings: Settings, parent: Parent, message: Mapping[str, Any]) -> int:
    async with parent.connected() as connection:
        app = create_app(settings)
        app[SIBLINGS] = Siblings(socket.socket(fileno=message["siblings"]))
        if "metrics" in message:
            app[METRICS_SOCKET] = socket.socket(fileno=message["metrics"])
            app[METRICS_WAIT] = message["waits_for_counts"]
        listener = WorkerListener(socket.socket(fileno=message["channel"]))
        with stop_signals(log, settings.drain, is_child=True) as stop:
            async with (
                _Introductions(app, listener) as introductions,
                running(app, settings, listener=listener) as started,
            ):
                keep_start()
                ending = introductions.begin(started, stop)
                if await connection.wait({}, ending):
                    started.drain(0)
                listener.leave()
                if not started.draining.is_leaving:
                    # What the acceptor has given until now is answered, and the other workers get what comes.
                    started.give_way()
    return 0


class _Introductions:
    """What this worker gives to its successor, and takes from its predecessor."""

    def __init__(self, app: web.Application, listener: WorkerListener) -> None:
        self._app = app
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_counts = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def begin(self, started: Running, stop: asyncio.Event) -> asyncio.Event:
        """Be ready for both. The event is set when a successor has the tunnels, and by `stop`."""
        ending = asyncio.Event()
        if self._app.get(METRICS_WAIT):
            self._add(self._answer_scrapes())
        self._listener.on_predecessor = lambda sock, is_same_place: self._add(self._take_over(sock, is_same_place))
        self._listener.on_successor = lambda sock, only_counts: self._add(
            self._hand_over(sock, started, ending, only_counts=only_counts)
        )
        self._listener.on_stop = lambda: self._finish_requests(started)
        self._add(self._stop(started, stop, ending))
        return ending

    def _add(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _finish_requests(self, started: Running) -> None:
        started.stop_accepting()
        self._add(self._say_finished(started))

    async def _say_finished(self, started: Running) -> None:
        await started.finish_requests()
        self._listener.finished()

    async def _take_over(self, sock: socket.socket, is_same_place: bool) -> None:  # noqa: FBT001 - a listener's callback
        with contextlib.ExitStack() as taking:
            taking.enter_context(no_collection())

            def have_all() -> None:
                # They live for hours, and no search goes through them any more.
                keep_start()
                taking.close()

            await take_over(
                self._app[TUNNELS],
                sock,
                self._listener.connection,
                on_counts=self._has_counts.set,
                on_all=have_all,
                is_same_place=is_same_place,
            )

    async def _answer_scrapes(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._has_counts.wait(), _COUNTS_SECONDS)
        await self._app[METRICS_PORT].open()

    async def _stop(self, started: Running, stop: asyncio.Event, ending: asyncio.Event) -> None:
        await stop.wait()
        if ending.is_set():
            # It would wait for all that is under way; the whole program ends.
            await started.finish_and_drain()
        ending.set()

    async def _hand_over(
        self, sock: socket.socket, started: Running, ending: asyncio.Event, *, only_counts: bool
    ) -> None:
        giving = None
        if METRICS_PORT in self._app:
            await self._app[METRICS_PORT].close()
        try:
            with no_collection():
                giving = await begin_hand_over(
                    self._app[TUNNELS], sock, self._listener.connection, only_counts=only_counts
                )
        finally:
            # Also after an error that is not expected: the reload waits for this.
            self._listener.handed_over(done=giving is not None)
        if giving is not None:
            started.leave()
            ending.set()
            try:
                await giving
            except HandOverFailed as error:
                log.warning("sockets that open in the old process end with it: %s", error)
            finally:
                giving.cancel()
