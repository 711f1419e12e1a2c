"""/healthz: this process answers. /readyz: it also has a backend that does."""

import asyncio

import aiohttp
from aiohttp import web

from gateway.keys import DRAINING, SESSION, SETTINGS

__all__ = ["healthz", "readyz"]

# A load balancer asks every few seconds and takes no answer for a no.
_PROBE_SECONDS = 2.0


async def healthz(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return _said(200, "ok")


async def readyz(request: web.Request) -> web.Response:
    """200 where a new request would be served: not draining, and the backend says the same of itself."""
    if request.app[DRAINING].is_set():
        return _said(503, "draining")
    url = f"{request.app[SETTINGS].upstream[0]}/readyz"
    try:
        async with asyncio.timeout(_PROBE_SECONDS), request.app[SESSION].get(url, allow_redirects=False) as answer:
            ready = answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return _said(503, "the backend cannot be reached")
    return _said(200, "ready") if ready else _said(503, "the backend is not ready")


def _said(status: int, words: str) -> web.Response:
    return web.json_response({"status": words}, status=status, headers={"Cache-Control": "no-store"})
