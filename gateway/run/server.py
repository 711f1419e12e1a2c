"""The gateway as a program: its application on its listeners, until a signal comes."""

import contextlib
import dataclasses
import logging
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from moorline.gateway.app import create_app
from moorline.gateway.common import logs, tracing
from moorline.gateway.common.access.authorize import Authorize
from moorline.gateway.common.loop import ReloadRequests, run, run_until, stop_signals
from moorline.gateway.common.start import print_start
from moorline.gateway.common.systemd import Systemd
from moorline.gateway.common.web import server
from moorline.gateway.run.configuration import Configuration
from moorline.gateway.run.generations import Gateway, keep_reloading
from moorline.gateway.settings import Settings

__all__ = ["main", "running", "where"]

log = logging.getLogger("moorline.gateway")

_EXAMPLE_CHAT = "/chat/patient:demo"


@contextlib.asynccontextmanager
async def running(settings: Settings, *, authorize: Authorize | None = None) -> AsyncIterator[server.Running]:
    """A gateway that accepts connections, as programs and tests start it; it drains at the end. See `create_app`."""
    app = create_app(settings, authorize=authorize)
    async with server.running(app, settings) as started:
        yield started


def where(settings: Settings, addresses: Sequence[str]) -> dict[str, str]:
    """For the start block of a gateway that listens at these addresses: what to open in a browser, and where that comes
    from.
    """
    folder = settings.frontend_folder and str(Path(settings.frontend_folder).absolute())
    frontend = settings.frontend_url or folder
    return {"page": _page(settings, addresses)} | ({"frontend": frontend} if frontend else {})


def _page(settings: Settings, addresses: Sequence[str]) -> str:
    address = addresses[0]
    if settings.host == "localhost":
        address = f"{settings.scheme}://localhost:{address.rpartition(':')[2]}"
    # The paths of another frontend are not known.
    return address + ("/" if settings.frontend else _EXAMPLE_CHAT)


def main(settings: Settings, environ: Mapping[str, str], configuration: Configuration, systemd: Systemd) -> int:
    """`moorline gateway`: serve until a signal ends it; the exit status."""
    settings = dataclasses.replace(settings, log_key=settings.log_key or secrets.token_hex())
    logs.setup(settings)
    if settings.workers == 1:
        tracing.start("moorline-gateway", environ)
    return run(_run(settings, environ, configuration, systemd))


async def _run(settings: Settings, environ: Mapping[str, str], configuration: Configuration, systemd: Systemd) -> int:
    gateway, requests = Gateway(settings, environ, systemd=systemd), ReloadRequests()

    async def reload(_: bool) -> None:  # noqa: FBT001 - the only one there is
        await gateway.reload((await configuration.read())[Settings])

    with stop_signals(log, settings.drain, before_exit=gateway.kill, reload=requests) as stop:
        async with gateway.running(stop):
            reloading = keep_reloading(requests, reload, systemd)
            await run_until(stop, reloading, _announce(gateway, settings, systemd), systemd.beat())
            systemd.stopping()
    return gateway.status


async def _announce(gateway: Gateway, settings: Settings, systemd: Systemd) -> None:
    await gateway.ready()
    systemd.ready()
    await print_start(settings, where(settings, gateway.addresses) | {"backend": settings.upstream[0]})
