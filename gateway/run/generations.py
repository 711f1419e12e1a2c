"""The gateway of a program, whichever processes serve it: SIGHUP and SIGUSR2 have new ones take the old ones' place.

    this process                               one worker or more, the first generation with `workers`
      | serves the first generation itself       |
      | SIGHUP: the configuration is read        | and so on
      v                                          v
    workers 1..N start with it     ->  they accept     ->  the old ones give their tunnels, finish their requests, end

This process keeps its id, the listening sockets and the backend of `serve`, so that a supervisor, a container or a
terminal sees one program. A configuration that cannot be used, or a version that does not start, changes nothing.
"""

import asyncio
import contextlib
import dataclasses
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from moorline.gateway.app import create_app
from moorline.gateway.common.access.authorize import warn_if_open
from moorline.gateway.common.collection import keep_start, no_collection
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.loop import ReloadRequests
from moorline.gateway.common.systemd import Systemd
from moorline.gateway.common.web.listen import address, listen
from moorline.gateway.common.web.metrics_port import METRICS_PORT, METRICS_SOCKET
from moorline.gateway.common.web.server import Running, SocketListener, running
from moorline.gateway.keys import LIVE_FAULTS, RIGHTS, ROUTES
from moorline.gateway.proxy.commands import expect
from moorline.gateway.proxy.handover import begin_hand_over
from moorline.gateway.proxy.routes import Owner
from moorline.gateway.proxy.tunnels import TUNNELS
from moorline.gateway.run.acceptor import Acceptor
from moorline.gateway.run.workers import MetricsSockets, Workers
from moorline.gateway.settings import Settings

__all__ = ["Gateway", "keep_reloading"]

log = logging.getLogger("moorline.gateway")

# A new worker that dies while it takes tunnels is started again, and takes the rest.
_ATTEMPTS = 3
_RETRY_SECONDS = 0.25


class Generation(Protocol):
    """Processes with one configuration."""

    @property
    def size(self) -> int:
        """How many processes have tunnels."""

    async def hand_over(self, number: int, sock: socket.socket, *, only_counts: bool = False) -> bool:
        """Accept no more, and give the tunnels of one of them to the process behind `sock`; whether it has them.
        `only_counts`: it gets the counts alone, and the tunnels end here, within `drain`."""

    def move_frontend(self, address: str) -> None:
        """The dev server serves at this address from now on."""

    def expect(self, owner: Owner, *, expected: bool) -> None:
        """Whether the command of the backend or the front end may listen soon: requests wait for it."""

    async def faults(self) -> Sequence[Mapping[str, Any]]:
        """What its processes have armed with the option `faults`, for those that take their place."""

    def stop_accepting(self) -> None:
        """Accept no more; what comes waits for another process."""

    async def finish_requests(self) -> None:
        """Behind `stop_accepting`: return when what was accepted has been answered, as far as that takes a second."""

    def drain(self, within: float | None = None) -> None:
        """Begin the drain, which `end` completes."""

    async def end(self) -> None:
        """Finish what is under way, and end."""

    def kill(self) -> None:
        """End now."""


class _Local:
    """The first generation without `workers`: this process."""

    size = 1

    def __init__(self, settings: Settings, app: web.Application) -> None:
        self._settings = settings
        self._app = app
        self._stack = contextlib.AsyncExitStack()
        self._started: Running | None = None
        # Cancelled at its end: what gives later tunnels, and what begins the drain.
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self._finished = False
        """Whether what it accepted until `stop_accepting` has been answered."""

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        listener = SocketListener([sock.dup() for sock in sockets], scheme=self._settings.scheme)
        self._started = await self._stack.enter_async_context(running(self._app, self._settings, listener=listener))

    async def hand_over(self, number: int, sock: socket.socket, *, only_counts: bool = False) -> bool:
        assert self._started is not None, "it serves"
        self._started.leave()
        if METRICS_PORT in self._app:
            await self._app[METRICS_PORT].close()
        with no_collection():
            giving = await begin_hand_over(self._app[TUNNELS], sock, only_counts=only_counts)
        if giving is not None:
            self._tasks.append(giving)
        return giving is not None

    def move_frontend(self, address: str) -> None:
        self._app[ROUTES].move_frontend(address)

    def expect(self, owner: Owner, *, expected: bool) -> None:
        expect(self._app, owner, expected=expected)

    async def faults(self) -> Sequence[Mapping[str, Any]]:
        return self._app[LIVE_FAULTS].lasting()

    def stop_accepting(self) -> None:
        self._stopped = True
        if self._started is not None:
            self._started.stop_accepting()

    async def finish_requests(self) -> None:
        if self._started is not None:
            await self._started.finish_requests()
        self._finished = True

    def drain(self, within: float | None = None) -> None:
        if self._started is None:
            return
        if self._started.draining.is_leaving and not self._finished:
            self._tasks.append(asyncio.create_task(self._started.finish_and_drain(within)))
        elif self._finished or not self._stopped:
            # Else `end` begins it, once requests that were on their way have been handled.
            self._started.drain(within)

    async def end(self) -> None:
        try:
            await self._stack.aclose()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def kill(self) -> None:
        """It ends with this process."""


async def keep_reloading(requests: ReloadRequests, reload: Callable[[bool], Awaitable[None]], systemd: Systemd) -> None:
    """Call `reload` with whether it is an upgrade, whenever it is asked for, until this is cancelled. It raises
    UsageError where it changes nothing, and may raise OSError."""
    while True:
        upgrade = await requests.next()
        log.info("starting the installed version" if upgrade else "reading the configuration again")
        systemd.reloading()
        try:
            await reload(upgrade)
        except UsageError as error:
            log.error("nothing is changed: %s", error)
        except OSError as error:
            # No process or descriptor is left, for example. What serves goes on, and so do later requests.
            log.error("the reload failed, and the present processes serve on: %s; reload again later", error)
        except Exception:
            log.exception("the reload failed, and the present processes serve on")
        else:
            log.info("the new processes serve")
        systemd.ready()


class Gateway:
    """Use: `async with gateway.running(stop)`, and `reload` within.

    `unexpected` are the owners whose command is not to be waited for, now and later: `expect` is to be called when it
    changes.

    Raises:
        UsageError: an option that cannot work, or a port that is taken. All is said here, once, not by each worker.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        systemd: Systemd | None = None,
        unexpected: Collection[Owner] = (),
    ) -> None:
        app = create_app(settings)
        self._settings = settings
        self._environ = environ
        systemd = systemd or Systemd()
        self._sockets = list(systemd.sockets) or listen(settings.host, settings.port)
        # The manager's, which go on to listen between this process and the next.
        self._given = bool(systemd.sockets)
        if self._given and RIGHTS not in app:
            # The option `host`, of which `create_app` warns, says nothing about them.
            for sock in self._sockets:
                warn_if_open(log, sock.getsockname()[0], None)
        self._metrics = MetricsSockets(systemd.metrics)
        self._metrics_used: Collection[socket.socket] = ()
        self._unexpected = unexpected
        self._acceptor: Acceptor | None = None
        # Of the first generation, where this process serves.
        self._local = app if settings.workers == 1 else None
        self._generation: Generation | None = None
        self._starting: Workers | None = None
        # Generations that were replaced, by the task that waits for their end.
        self._ending: dict[asyncio.Task[None], Generation] = {}
        self.status = 0
        """Not 0 when a worker refused its options."""

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(address(sock, self._settings.scheme) for sock in self._sockets)

    @contextlib.asynccontextmanager
    async def running(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Serve; drain at the end. `stop` is set when a worker refused its options."""
        try:
            self._generation = await self._first(stop)
            # Of the first one alone: those that a reload replaces have to be collected.
            keep_start()
            yield
        finally:
            self.drain()
            if self._generation is not None:
                await self._generation.end()
            await asyncio.gather(*self._ending)
            if self._acceptor is not None:
                self._acceptor.close()
            self._metrics.close()
            for sock in self._sockets:
                sock.close()

    async def ready(self) -> None:
        """Return when each worker has been ready once."""
        if isinstance(self._generation, Workers):
            await self._generation.ready()

    def stop_accepting(self) -> None:
        """Before the drain, where the sockets are the manager's: connections wait for the next process."""
        if self._given:
            if self._acceptor is not None:
                self._acceptor.close()
            if self._generation is not None:
                self._generation.stop_accepting()

    async def finish_requests(self) -> None:
        """As `stop_accepting`, before an upstream is ended: return when what was accepted has been answered, as far as
        that takes a second; also by processes that were replaced, whose requests have no other way."""
        self.stop_accepting()
        finishing = list(self._ending.values())
        for replaced in finishing:
            replaced.stop_accepting()
        if self._given and self._generation is not None:
            finishing.append(self._generation)
        await asyncio.gather(*(generation.finish_requests() for generation in finishing))

    def drain(self, within: float | None = None) -> None:
        """Begin the drain, which leaving `running` completes."""
        self.stop_accepting()
        if self._acceptor is not None:
            self._acceptor.end()
        for generation in self._all():
            generation.drain(within)

    def kill(self) -> None:
        """End all other processes now."""
        for generation in self._all():
            generation.kill()

    def _all(self) -> Sequence[Generation]:
        generations = (self._generation, self._starting, *self._ending.values())
        return [generation for generation in generations if generation is not None]

    def move_frontend(self, address: str) -> None:
        """The dev server serves at this address from now on."""
        for generation in self._all():
            generation.move_frontend(address)

    def expect(self, owner: Owner, *, expected: bool) -> None:
        """Whether the command of the backend or the front end may listen soon: requests wait for it."""
        for generation in self._all():
            generation.expect(owner, expected=expected)

    async def reload(self, settings: Settings) -> None:
        """Have new processes with these settings take the place of the present ones.

        Raises:
            UsageError: they do not start, and the present ones serve on.
        """
        # A chat has the same hash in the log as before.
        settings = dataclasses.replace(settings, log_key=settings.log_key or self._settings.log_key)
        sockets = self._sockets
        moves = (settings.host, settings.port) != (self._settings.host, self._settings.port) and not self._given
        if moves:
            sockets = listen(settings.host, settings.port)
        acceptor = self._acceptor
        if moves or acceptor is None:
            acceptor = Acceptor([sock.dup() for sock in sockets])
        try:
            workers = await self._started(settings, acceptor)
        except BaseException:
            self._metrics.keep(self._metrics_used)
            if acceptor is not self._acceptor:
                acceptor.close()
            for sock in sockets if moves else ():
                sock.close()
            raise
        workers.open()
        old, old_acceptor, old_sockets = self._generation, self._acceptor, self._sockets
        self._generation, self._acceptor, self._settings, self._sockets = workers, acceptor, settings, sockets
        assert old is not None, "it runs"
        if moves and old_acceptor is not None:
            old_acceptor.close()
        try:
            await asyncio.gather(*(_hand_over(old, number, workers) for number in range(old.size)))
        finally:
            # Also where the program is told to end meanwhile.
            self._local = None
            for sock in old_sockets if moves else ():
                sock.close()
            self._metrics_used = workers.metrics
            self._metrics.keep(self._metrics_used)
            ending = asyncio.create_task(old.end())
            self._ending[ending] = old
            ending.add_done_callback(self._ending.pop)

    async def _started(self, settings: Settings, acceptor: Acceptor) -> Workers:
        """Workers that are all ready, and accept nothing yet."""
        assert self._generation is not None, "it runs"
        predecessors = self._generation.size
        workers = self._starting = self._workers(settings, acceptor, predecessors=predecessors)
        try:
            workers.start()
            await workers.settled()
            if self._settings.faults and settings.faults:
                await workers.arm(await self._generation.faults())
        except BaseException:
            workers.drain()
            workers.kill()
            await workers.end()
            raise
        finally:
            self._starting = None
        return workers

    async def _first(self, stop: asyncio.Event) -> Generation:
        settings = self._settings
        if self._local is None:
            self._acceptor = Acceptor([sock.dup() for sock in self._sockets])
            workers = self._workers(settings, self._acceptor)
            self._metrics_used = workers.metrics
            workers.start(on_refused=lambda status: self._refused(status, stop))
            workers.open()
            return workers
        if settings.metrics_port is not None:
            self._metrics_used = [self._metrics.at(settings.metrics_port)]
            self._local[METRICS_SOCKET] = self._metrics_used[0].dup()
        local = _Local(settings, self._local)
        await local.start(self._sockets)
        for owner in self._unexpected:
            local.expect(owner, expected=False)
        return local

    def _workers(self, settings: Settings, acceptor: Acceptor, *, predecessors: int = 0) -> Workers:
        return Workers(settings, self._environ, acceptor, self._metrics, self._unexpected, predecessors=predecessors)

    def _refused(self, status: int, stop: asyncio.Event) -> None:
        self.status = status
        stop.set()


async def _hand_over(old: Generation, number: int, new: Workers) -> None:
    taker = number % new.size
    try:
        for attempt in range(_ATTEMPTS + 1):
            if attempt:
                await asyncio.sleep(_RETRY_SECONDS)
            # The old process answers no scrape any more.
            only_counts = attempt == _ATTEMPTS
            if only_counts:
                log.error(
                    "the sockets of an old process end with it, within drain; "
                    "the lines above say why none took them over"
                )
            one, other = socket.socketpair()
            if not await new.take_over(taker, other, is_same_place=taker == number):
                one.close()
                other.close()
            elif await old.hand_over(number, one, only_counts=only_counts):
                return
    finally:
        new.has_taken_over(taker)
