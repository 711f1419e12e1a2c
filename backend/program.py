"""`moorline backend`: the chat backend as a program, by itself and as the child of `moorline serve`."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiohttp import web
from moorline.backend.app import RESPONDER, create_app
from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.settings import SQLITE, Settings, shown_database
from moorline.gateway.common import logs
from moorline.gateway.common.config.command import Command
from moorline.gateway.common.config.commandline import SUPERVISOR, read, start_block
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.signals import stop_signals
from moorline.gateway.common.supervised import lifeline, supervised
from moorline.gateway.common.web.server import Running, run, running
from moorline.gateway.settings import Settings as GatewaySettings

__all__ = ["run_backend"]

log = logging.getLogger("moorline.backend")

BACKEND = Command(
    name="backend",
    summary="Start the chat backend alone.",
    options={"backend": Settings},
    examples=(
        ("moorline backend", "chats in moorline.db in the current folder"),
        ("moorline backend --database sqlite:////var/lib/moorline/chats.db --port 9000", "and elsewhere"),
        ("moorline backend --database postgresql://moorline@db/chats", "in PostgreSQL, which many backends may share"),
    ),
)
# `serve` and `check` have options of their own beside those of the parts; as variables they are known here, too.
_SERVE_OPTIONS = frozenset({"backend_port", "reload"})
_CHECK_OPTIONS = frozenset({"backend"})
# How long the thread that writes to SQLite waits for a busy event loop to let go of the interpreter: a dozen times for
# each commit. With Python's 5 ms all text is held up for a tenth of a second.
_SWITCH_SECONDS = 0.0005


def run_backend(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the backend with the options in `argv`, `environ` and moorline.toml; the exit status."""
    given = read(BACKEND, argv, environ=environ, others=(GatewaySettings,), elsewhere=_SERVE_OPTIONS | _CHECK_OPTIONS)
    settings = given.load(Settings, "backend", elsewhere=_SERVE_OPTIONS)
    logs.setup(settings)
    sys.setswitchinterval(_SWITCH_SECONDS)
    return run(_run(settings, lifeline(environ.get(SUPERVISOR))))


async def _run(settings: Settings, supervisor: int | None) -> int:
    app = create_app(settings)
    with stop_signals(log, settings.drain) as stop:
        try:
            async with running(app, settings) as started:
                facts = _facts(app, settings, started)
                if supervisor is None:
                    print(start_block(facts), flush=True)
                    await stop.wait()
                else:
                    await supervised(started, facts, stop, supervisor)
        except LogUnavailable as error:
            raise UsageError(f"database: {error}") from error
    return 0


def _facts(app: web.Application, settings: Settings, started: Running) -> dict[str, str]:
    """What a person wants to know at the start. No password: a database's address may hold one."""
    path = settings.database.removeprefix(SQLITE)
    database = shown_database(path) if path == settings.database else str(Path(path).absolute())
    return {"backend": started.addresses[0], "model": app[RESPONDER].name, "database": database}
