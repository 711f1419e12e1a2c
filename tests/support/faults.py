"""One fault of the catalogue between a client and a server, for tests of what either does about it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from moorline.gateway.faults.control import Faults
from moorline.gateway.faults.proxy import FaultProxy
from moorline.gateway.tunnel.endings import Side

__all__ = ["faulted"]


@contextlib.asynccontextmanager
async def faulted(url: str, name: str = "", **parameters: Any) -> AsyncIterator[str]:
    """The address of a proxy before the server at `url` that has this fault, or none."""
    server = urlsplit(url)
    assert server.hostname is not None
    async with FaultProxy(server.hostname, server.port or 80) as proxy:
        faults = Faults(dict.fromkeys(Side, proxy), asyncio.get_running_loop(), provider=False)
        async with faults.arm(name, **parameters) if name else contextlib.nullcontext():
            yield proxy.url
