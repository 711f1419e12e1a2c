"""`/metrics` on a port of its own, `metrics_port`, and on loopback alone: clients of the page do not reach it."""

import logging
from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from moorline.gateway.common.access.middleware import access_middleware
from moorline.gateway.common.web.listen import address, listen
from moorline.gateway.keys import METRICS, SETTINGS

__all__ = ["metrics_port"]

log = logging.getLogger("moorline.gateway")

# A scrape that hangs must not keep the gateway from its end.
_SHUTDOWN_SECONDS = 0.25


async def metrics_port(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that holds the metrics and their listener.

    Raises:
        UsageError: the port is taken.
    """
    port = app[SETTINGS].metrics_port
    assert port is not None, "create_app asks for this only with a port"
    sockets = listen("127.0.0.1", port, option="metrics_port")
    # A page elsewhere could read the metrics by DNS rebinding.
    inner = web.Application(middlewares=[access_middleware(app[SETTINGS])])
    inner[METRICS] = app[METRICS]
    inner.router.add_get("/metrics", _metrics)
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


async def _metrics(request: web.Request) -> web.Response:
    content_type, body = request.app[METRICS].render(request.headers.get(hdrs.ACCEPT, ""))
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.CACHE_CONTROL: "no-store"})
