"""/healthz: this process answers. /readyz: an upstream is ready, too."""

import asyncio
import functools
import ssl

from aiohttp import web

from moorline.gateway.common.single_flight import SingleFlight
from moorline.gateway.common.web.time_limit import TimeLimits
from moorline.gateway.errors import GatewayError
from moorline.gateway.keys import DRAINING, TIME_LIMITS, UPSTREAMS
from moorline.gateway.proxy.connection import UpstreamConnection
from moorline.gateway.proxy.tls import tls_for
from moorline.gateway.proxy.upstreams import Upstream

__all__ = ["READINESS", "healthz", "readiness", "readyz"]

READINESS: web.AppKey[SingleFlight[tuple[int, str]]] = web.AppKey("readiness")

# Load balancers probe every few seconds, and take a probe without a response for a failed one.
_PROBE_SECONDS = 2.0
_HEADERS = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}


async def healthz(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return _said(200, "ok")


async def readyz(request: web.Request) -> web.Response:
    """200 where a new request would be served: not draining, and an upstream says the same of itself."""
    if request.app[DRAINING].is_set():
        return _said(503, "draining")
    return _said(*await request.app[READINESS].result())


def readiness(app: web.Application) -> SingleFlight[tuple[int, str]]:
    """What the upstreams say of themselves; for all that ask at the same time one connection to each of them."""
    return SingleFlight(functools.partial(_ask_upstreams, app))


async def _ask_upstreams(app: web.Application) -> tuple[int, str]:
    probes = [asyncio.create_task(_probe(each, app[TIME_LIMITS], tls_for(app, each))) for each in app[UPSTREAMS]]
    try:
        for probe in asyncio.as_completed(probes):
            if await probe:
                return 200, "ready"
    finally:
        for task in probes:
            task.cancel()
        found = await asyncio.gather(*probes, return_exceptions=True)
    return 503, "the backend is not ready" if False in found else "the backend cannot be reached"


async def _probe(upstream: Upstream, limits: TimeLimits, tls: ssl.SSLContext | None) -> bool | None:
    """What this upstream says of itself; None where it says nothing."""
    connection = UpstreamConnection(asyncio.get_running_loop())
    try:
        await connection.connect(
            upstream.host, upstream.port, _PROBE_SECONDS, limits=limits, tls=tls, through=upstream.through
        )
        connection.send("GET", b"GET /readyz HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % upstream.authority)
        return (await connection.response(_PROBE_SECONDS)).status == 200
    except GatewayError:
        return None
    finally:
        connection.abort()


def _said(status: int, words: str) -> web.Response:
    return web.Response(status=status, body=b'{"status": "%b"}' % words.encode(), headers=_HEADERS)
