"""`moorline serve`: the gateway, in this process or in workers of it, and the backend in another."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from moorline.gateway.common.config.commandline import start_block
from moorline.gateway.common.signals import stop_signals
from moorline.gateway.common.web.server import Running
from moorline.gateway.run import server
from moorline.gateway.run.reload import changes
from moorline.gateway.run.supervisor import Child, Supervisor
from moorline.gateway.run.workers import Workers
from moorline.gateway.settings import Settings

__all__ = ["serve"]

log = logging.getLogger("moorline.serve")

# Somebody who starts with a broken source wants to know all the same where the page will be.
_FAILED: Mapping[str, str] = {"backend": "it did not start; its own lines say why"}


async def serve(settings: Settings, environ: Mapping[str, str], *, reload: bool = False) -> int:
    """Run gateway and backend until a signal ends them; the exit status. `environ` is the backend's."""
    reports: asyncio.Queue[Mapping[str, str]] = asyncio.Queue()
    backend = Supervisor(
        Child(
            name="the backend",
            command="backend",
            environ=environ,
            drain=settings.drain,
            on_ready=reports.put_nowait,
            on_failed_start=lambda: reports.put_nowait(_FAILED),
            waits_for_changes=reload,
        )
    )
    pool = Workers(settings, environ, backend_ends_too=True) if settings.workers > 1 else None

    def kill() -> None:
        backend.kill()
        if pool is not None:
            pool.kill()

    with stop_signals(log, settings.drain, before_exit=kill) as stop:
        async with _gateway(settings, pool, stop) as gateway, asyncio.TaskGroup() as tasks:
            stopped = tasks.create_task(stop.wait())
            beside = [tasks.create_task(_announce(settings, gateway, reports))]
            if reload:
                beside.append(tasks.create_task(_reload(backend)))
            supervising = tasks.create_task(backend.run())
            await asyncio.wait([stopped, supervising], return_when=asyncio.FIRST_COMPLETED)
            # Both parts drain at the same time, the gateway as this block is left.
            gateway.drain()
            backend.stop()
            for task in (stopped, *beside):
                task.cancel()
    return supervising.result() or (pool.status if pool is not None else 0)


@contextlib.asynccontextmanager
async def _gateway(settings: Settings, pool: Workers | None, stop: asyncio.Event) -> AsyncIterator[Running | Workers]:
    if pool is None:
        async with server.running(settings, backend_ends_too=True) as started:
            yield started
    else:
        async with pool.running(stop):
            yield pool


async def _announce(settings: Settings, gateway: Running | Workers, reports: asyncio.Queue[Mapping[str, str]]) -> None:
    """Print the start block, and again with the rest of it if the backend's first start failed."""
    if isinstance(gateway, Workers):
        await gateway.ready()
    facts = _FAILED
    while facts is _FAILED:
        facts = await reports.get()
        print(start_block({"page": server.page(settings, gateway.addresses), **facts}), flush=True)


async def _reload(backend: Supervisor) -> None:
    async for path in changes():
        log.info("%s changed; starting the backend again", path)
        backend.restart()
