"""`moorline backend`: the chat backend as a program, by itself and as the child of `moorline serve`."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

from aiohttp import web

from moorline.backend.app import SERVICE, create_app
from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.settings import SQLITE, Settings, shown_database
from moorline.gateway.common import logs, tracing
from moorline.gateway.common.access.authorize import is_loopback
from moorline.gateway.common.collection import keep_start
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.loop import run, run_until, stop_signals
from moorline.gateway.common.start import print_start
from moorline.gateway.common.supervised import Parent
from moorline.gateway.common.systemd import Systemd
from moorline.gateway.common.web.metrics_port import METRICS_SOCKET
from moorline.gateway.common.web.server import Running, SocketListener, running

__all__ = ["run_backend", "run_supervised"]

log = logging.getLogger("moorline.backend")

# How long the thread that writes to SQLite waits for a busy event loop to release the interpreter: a dozen times for
# each commit. With Python's 5 ms all text is held up for a tenth of a second.
_SWITCH_SECONDS = 0.0005


def run_backend(settings: Settings, systemd: Systemd) -> int:
    """Serve until a signal ends it; the exit status."""
    listener = None
    if systemd.sockets:
        addresses = [sock.getsockname()[:2] for sock in systemd.sockets]
        # What the options say of it counts for nothing; of an address that others reach there is a warning.
        host, port = next((each for each in addresses if not is_loopback(each[0])), addresses[0])
        settings = dataclasses.replace(settings, host=host, port=port)
        listener = SocketListener(systemd.sockets)
    return _start(settings, systemd, listener)


def run_supervised(parent: Parent) -> int:
    """The same with the settings and the listening socket of the parent process, and no longer than that lives."""
    message = parent.receive()
    sock = socket.socket(fileno=message["listener"])
    return _start(Settings(**message["settings"]), parent, SocketListener([sock]))


def _start(settings: Settings, manager: Parent | Systemd, listener: SocketListener | None) -> int:
    logs.setup(settings)
    tracing.start("moorline-backend", os.environ)
    sys.setswitchinterval(_SWITCH_SECONDS)
    return run(_run(settings, manager, listener))


async def _run(settings: Settings, manager: Parent | Systemd, listener: SocketListener | None) -> int:
    async with manager.connected() if isinstance(manager, Parent) else _starting(manager) as parent:
        app = create_app(settings)
        if isinstance(manager, Systemd) and manager.metrics is not None:
            app[METRICS_SOCKET] = manager.metrics
        with stop_signals(log, settings.drain, is_child=parent is not None) as stop:
            try:
                async with running(app, settings, listener=listener) as started:
                    keep_start()
                    facts = _facts(app, settings, started)
                    if isinstance(manager, Systemd):
                        await _serve(manager, stop, print_start(settings, facts))
                        if manager.sockets:
                            await started.finish_accepted()
                            started.drain()
                    elif parent is not None and await parent.wait(facts, stop):
                        await started.finish_accepted()
                        started.drain(0)
            except LogUnavailable as error:
                raise UsageError(f"database: {error}") from error
    return 0


@contextlib.asynccontextmanager
async def _starting(systemd: Systemd) -> AsyncIterator[None]:
    task = asyncio.create_task(systemd.extend_start())
    try:
        yield
    finally:
        task.cancel()


async def _serve(systemd: Systemd, stop: asyncio.Event, printing: Coroutine[None, None, None]) -> None:
    """Print, and notify the manager of the start, of each beat and of the stop; return when `stop` is set."""
    systemd.ready()
    try:
        await run_until(stop, printing, systemd.beat())
    finally:
        systemd.stopping()


def _facts(app: web.Application, settings: Settings, started: Running) -> dict[str, str]:
    """What a person wants to know at the start. No password: a database's address may hold one."""
    path = settings.database.removeprefix(SQLITE)
    database = shown_database(path) if path == settings.database else str(Path(path).absolute())
    return {
        "backend": started.addresses[0],
        "responder" if settings.responder else "model": app[SERVICE].name,
        "database": database,
    }
