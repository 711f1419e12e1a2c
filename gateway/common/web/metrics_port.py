"""`/metrics` on a port of its own, `metrics_port`, and on loopback alone: clients of the page do not reach it."""

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import hdrs, web

from moorline.gateway.common.access.middleware import access_middleware
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.web.listen import address, listen

__all__ = ["METRICS_SOCKET", "Render", "metrics_port"]

METRICS_SOCKET = web.AppKey("metrics_socket", socket.socket)
"""A socket that listens at `metrics_port`, and is kept for the process that takes over; without it one is made."""

#: From the Accept header of a scrape to the content type and the body.
Render = Callable[[str], Awaitable[tuple[str, bytes]]]

# A scrape that hangs must not keep the program from its end.
_SHUTDOWN_SECONDS = 0.25


@contextlib.asynccontextmanager
async def metrics_port(
    settings: CommonSettings, port: int, render: Render, log: logging.Logger, *, sock: socket.socket | None = None
) -> AsyncIterator[None]:
    """Answer scrapes as long as the block lasts, on `sock` where there is one.

    Raises:
        UsageError: the port is taken.
    """

    async def scrape(request: web.Request) -> web.Response:
        content_type, body = await render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})

    sockets = listen("127.0.0.1", port, option="metrics_port") if sock is None else [sock]
    # A page elsewhere could read the metrics by DNS rebinding.
    inner = web.Application(middlewares=[access_middleware(settings)])
    inner.router.add_get("/metrics", scrape)
    runner = web.AppRunner(inner, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    try:
        await runner.setup()
        for sock in sockets:
            await web.SockSite(runner, sock).start()
            log.info("metrics are on %s/metrics", address(sock))
        yield
    finally:
        await runner.cleanup()
        for sock in sockets:
            sock.close()
