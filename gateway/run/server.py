"""The gateway as a program: its application on its listeners, until a signal comes."""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from moorline.gateway.app import create_app
from moorline.gateway.common import logs
from moorline.gateway.common.access.authorize import Authorize
from moorline.gateway.common.loop import run, stop_signals
from moorline.gateway.common.start import print_start
from moorline.gateway.common.web import server
from moorline.gateway.settings import Settings

__all__ = ["main", "page", "running"]

log = logging.getLogger("moorline.gateway")

_EXAMPLE_CHAT = "/chat/patient:demo"


@contextlib.asynccontextmanager
async def running(settings: Settings, *, authorize: Authorize | None = None) -> AsyncIterator[server.Running]:
    """A gateway that accepts connections, as programs and tests start it; it drains at the end. See `create_app`."""
    app = create_app(settings, authorize=authorize)
    async with server.running(app, settings) as started:
        yield started


def page(settings: Settings, addresses: Sequence[str]) -> str:
    """The address to open in a browser, of a gateway that listens at these."""
    address = addresses[0]
    if settings.host == "localhost":
        address = f"{settings.scheme}://localhost:{address.rpartition(':')[2]}"
    # The paths of another frontend are not known.
    return address + ("/" if settings.frontend else _EXAMPLE_CHAT)


def main(settings: Settings) -> int:
    """`moorline gateway`: serve until a signal ends it; the exit status."""
    logs.setup(settings)
    return run(_run(settings))


async def _run(settings: Settings) -> int:
    with stop_signals(log, settings.drain) as stop:
        async with running(settings) as started:
            print_start(settings, {"page": page(settings, started.addresses), "backend": settings.upstream[0]})
            await stop.wait()
    return 0
