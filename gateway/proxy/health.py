"""/healthz: this process answers. /readyz: it also has a backend that does."""

import asyncio

import aiohttp
from aiohttp import web
from moorline.gateway.keys import DRAINING, SESSION, UPSTREAMS

__all__ = ["healthz", "readyz"]

# A load balancer asks every few seconds and takes no answer for a no.
_PROBE_SECONDS = 2.0


async def healthz(request: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return _said(200, "ok")


async def readyz(request: web.Request) -> web.Response:
    """200 where a new request would be served: not draining, and a backend says the same of itself."""
    if request.app[DRAINING].is_set():
        return _said(503, "draining")
    probes = [asyncio.create_task(_probe(request.app[SESSION], each.url)) for each in request.app[UPSTREAMS]]
    try:
        for probe in asyncio.as_completed(probes):
            if await probe:
                return _said(200, "ready")
    finally:
        for task in probes:
            task.cancel()
        found = await asyncio.gather(*probes, return_exceptions=True)
    return _said(503, "the backend is not ready" if False in found else "the backend cannot be reached")


async def _probe(client: aiohttp.ClientSession, url: str) -> bool | None:
    """What this backend says of itself; None where it says nothing."""
    try:
        async with asyncio.timeout(_PROBE_SECONDS), client.get(f"{url}/readyz", allow_redirects=False) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return None


def _said(status: int, words: str) -> web.Response:
    return web.json_response({"status": words}, status=status, headers={"Cache-Control": "no-store"})
