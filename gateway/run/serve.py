"""`moorline serve`: the gateway, in this process or in workers of it, and the backend in another.

The backend's process is started before this one imports what the gateway needs: each takes a third of a second.
"""

import asyncio
import contextlib
import dataclasses
import importlib
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common import logs
from moorline.gateway.common.config.options import PREFIX, changed
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.loop import run, stop_signals
from moorline.gateway.common.program import start_block
from moorline.gateway.common.web.listen import listen
from moorline.gateway.run.backend_port import BackendPort
from moorline.gateway.run.commands import ServeSettings
from moorline.gateway.run.supervisor import Child, Supervisor
from moorline.gateway.settings import Settings

if TYPE_CHECKING:
    from moorline.gateway.common.web.server import Running
    from moorline.gateway.run.workers import Workers

__all__ = ["main"]

log = logging.getLogger("moorline.serve")

_BACKEND_PORT = 8000
# For the gateway, of whose sockets the backend has closed all by then, where the backend took all of `drain`.
_LEAST_DRAIN = 1.0
# Printed where the first start fails: the page's address is of use to the person who mends the source, too.
_FAILED: Mapping[str, str] = {"backend": "it did not start; its own lines say why"}


def main(settings: Settings, backend: BackendSettings, own: ServeSettings, environ: Mapping[str, str]) -> int:
    """Run gateway and backend until a signal ends them; the exit status."""
    sock = _backend_socket(own.backend_port)
    host, port = sock.getsockname()[:2]
    # Without a key of the user's, one for both: a chat has the same hash in both parts' lines.
    log_key = settings.log_key or secrets.token_hex()
    settings = dataclasses.replace(settings, upstream=(f"http://{host}:{port}",), log_key=log_key)
    backend = dataclasses.replace(backend, port=port, drain=settings.drain, log_key=log_key)
    logs.setup(settings)
    return run(_serve(settings, backend, sock, environ, reload=own.reload))


def _backend_socket(wanted: int | None) -> socket.socket:
    """A socket that listens for the backend; UsageError where the user insists on a port that is taken."""
    try:
        (sock,) = listen("127.0.0.1", _BACKEND_PORT if wanted is None else wanted, option="backend_port")
    except UsageError:
        if wanted is not None:
            raise
        (sock,) = listen("127.0.0.1", 0)
    return sock


async def _serve(
    settings: Settings,
    backend_settings: BackendSettings,
    sock: socket.socket,
    environ: Mapping[str, str],
    *,
    reload: bool,
) -> int:
    reports: asyncio.Queue[Mapping[str, str]] = asyncio.Queue()
    port = BackendPort(sock, settings.connect_retry or 0.0)
    backend = Supervisor(_backend(backend_settings, port, environ, reports, reload=reload))
    pool: Workers | None = None

    def kill() -> None:
        backend.kill()
        if pool is not None:
            pool.kill()

    with stop_signals(log, settings.drain, before_exit=kill) as stop:
        supervising = asyncio.create_task(backend.run())
        try:
            # In a thread, so that the loop can start the backend meanwhile.
            await asyncio.to_thread(importlib.import_module, "moorline.gateway.run.workers")
            from moorline.gateway.run import workers

            pool = workers.Workers(settings, environ) if settings.workers > 1 else None
            async with _gateway(settings, pool, stop) as gateway, asyncio.TaskGroup() as tasks:
                stopped = tasks.create_task(stop.wait())
                # Before the start block is printed: a change from then on must not be missed.
                beside = [tasks.create_task(_reload(backend))] if reload else []
                beside.append(tasks.create_task(_announce(settings, gateway, reports)))
                await asyncio.wait([stopped, supervising], return_when=asyncio.FIRST_COMPLETED)
                for task in (stopped, *beside):
                    task.cancel()
                # The backend first, so that it ends its sockets itself, with its own Close frames, through a gateway
                # that still relays. What is left drains as this block is left, in what is left of the time.
                began = asyncio.get_running_loop().time()
                backend.stop()
                await supervising
                left = settings.drain - (asyncio.get_running_loop().time() - began)
                gateway.drain(max(left, _LEAST_DRAIN))
                # Connections that wait in its queue are reset, so that the gateway's drain does not wait for them.
                await port.close()
        finally:
            backend.stop()
            status = await supervising
            await port.close()
    return status or (pool.status if pool is not None else 0)


def _backend(
    settings: BackendSettings,
    port: BackendPort,
    environ: Mapping[str, str],
    reports: asyncio.Queue[Mapping[str, str]],
    *,
    reload: bool,
) -> Child:
    def on_ready(facts: Mapping[str, str]) -> None:
        port.up()
        reports.put_nowait(facts)

    return Child(
        name="the backend",
        command="backend",
        message={"settings": changed(settings)},
        # Options reach it as settings. The rest is for the provider's and the database's libraries.
        environ={name: value for name, value in environ.items() if not name.startswith(PREFIX)},
        drain=settings.drain,
        on_ready=on_ready,
        on_failed_start=lambda: reports.put_nowait(_FAILED),
        spawn_context=port.life,
        waits_for_changes=reload,
    )


@contextlib.asynccontextmanager
async def _gateway(
    settings: Settings, pool: "Workers | None", stop: asyncio.Event
) -> AsyncIterator["Running | Workers"]:
    from moorline.gateway.run import server

    if pool is None:
        async with server.running(settings) as started:
            yield started
    else:
        async with pool.running(stop):
            yield pool


async def _announce(
    settings: Settings, gateway: "Running | Workers", reports: asyncio.Queue[Mapping[str, str]]
) -> None:
    """Print the start block, and once more when the backend is up if its first start failed."""
    from moorline.gateway.run import server, workers

    if isinstance(gateway, workers.Workers):
        await gateway.ready()
    printed: Mapping[str, str] | None = None
    while printed is None or printed is _FAILED:
        facts = await reports.get()
        if facts is not printed:
            print(start_block({"page": server.page(settings, gateway.addresses), **facts}), flush=True)
            printed = facts


async def _reload(backend: Supervisor) -> None:
    from moorline.gateway.run.reload import changes

    async for path in changes():
        log.info("%s changed; starting the backend again", path)
        backend.restart()
