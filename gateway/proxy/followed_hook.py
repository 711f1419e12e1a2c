"""`--reload` in the gateway: the `authorize` hook is what its sources say now.

The process is not restarted for it: that would drop every socket, those of the dev server's hot reload included. A
version that does not load leaves the one before it in place.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from moorline.gateway.common.access.authorize import as_authorize
from moorline.gateway.common.config.named import load_again
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.sources import changed_sources
from moorline.gateway.keys import RIGHTS, SETTINGS

__all__ = ["followed_hook"]

log = logging.getLogger("moorline.gateway")


async def followed_hook(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that loads the option's hook again when a module in the current folder changes."""
    following = asyncio.create_task(_follow(app))
    yield
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


async def _follow(app: web.Application) -> None:
    async for _ in changed_sources(log, Path.cwd()):
        try:
            hook = as_authorize(load_again(app[SETTINGS].authorize, "authorize"))
        except UsageError as error:
            log.error("%s; the gateway asks the version before", error)
        else:
            app[RIGHTS].replace(hook)
            log.info("authorize: %s was loaded again", app[SETTINGS].authorize)
