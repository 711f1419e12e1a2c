"""`/metrics` on a port of its own, `metrics_port`, and on loopback alone: clients of the page do not reach it."""

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import hdrs, web

from moorline.gateway.common.access.middleware import access_middleware, add_security_headers
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.web.connection import SERVER
from moorline.gateway.common.web.listen import address, listen

__all__ = ["METRICS_PORT", "METRICS_SOCKET", "METRICS_WAIT", "MetricsPort", "Render", "metrics_port"]

METRICS_SOCKET = web.AppKey("metrics_socket", socket.socket)
"""A socket that listens at `metrics_port`, and is kept for the process that takes over; without it one is made."""

#: From the Accept header of a scrape to the content type and the body.
Render = Callable[[str], Awaitable[tuple[str, bytes]]]

# A scrape that hangs must not keep the program from its end.
_SHUTDOWN_SECONDS = 0.25


class MetricsPort:
    """Answers scrapes between `open` and `close`, on `sock` where there is one: connections that come before wait."""

    def __init__(
        self,
        settings: CommonSettings,
        port: int,
        render: Render,
        log: logging.Logger,
        sock: socket.socket | None = None,
    ) -> None:
        self._settings = settings
        self._port = port
        self._render = render
        self._log = log
        self._sockets = [] if sock is None else [sock]
        self._runner: web.AppRunner | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Answer from now on; not once it was closed.

        Raises:
            UsageError: the port is taken.
        """
        if self._is_closed or self._runner is not None:
            return
        self._sockets = self._sockets or listen("127.0.0.1", self._port, option="metrics_port")
        # A page elsewhere could read the metrics by DNS rebinding.
        inner = web.Application(middlewares=[access_middleware(self._settings)])
        inner.router.add_get("/metrics", self._scrape)
        inner.on_response_prepare.extend((add_security_headers, _name_server))
        self._runner = web.AppRunner(inner, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        for sock in self._sockets:
            await web.SockSite(self._runner, sock).start()
            self._log.info("metrics are on %s/metrics", address(sock))

    async def close(self) -> None:
        """Answer no more; a connection that is kept open is closed, so that the next scrape goes to another process."""
        self._is_closed = True
        if self._runner is not None:
            await self._runner.cleanup()
        for sock in self._sockets:
            sock.close()

    async def _scrape(self, request: web.Request) -> web.Response:
        content_type, body = await self._render(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})


async def _name_server(_: web.Request, response: web.StreamResponse) -> None:
    response.headers[hdrs.SERVER] = SERVER


METRICS_PORT = web.AppKey("metrics_port", MetricsPort)
"""While the application runs, where it has metrics."""
METRICS_WAIT = web.AppKey("metrics_wait", bool)
"""Whether the port is opened by what starts the application: another process has the counts."""


@contextlib.asynccontextmanager
async def metrics_port(
    settings: CommonSettings, port: int, render: Render, log: logging.Logger, *, sock: socket.socket | None = None
) -> AsyncIterator[None]:
    """Answer scrapes as long as the block lasts. See `MetricsPort`.

    Raises:
        UsageError: the port is taken.
    """
    opened = MetricsPort(settings, port, render, log, sock)
    try:
        await opened.open()
        yield
    finally:
        await opened.close()
