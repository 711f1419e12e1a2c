"""The backend's no to a handshake, passed on as it is: status, headers, and the body as it comes."""

import asyncio
import logging

from aiohttp import ClientError, StreamReader, web
from moorline.gateway.settings import Settings

__all__ = ["pass_on"]

log = logging.getLogger("moorline.gateway.ws")


async def pass_on(
    request: web.Request, response: web.StreamResponse, body: StreamReader, settings: Settings
) -> web.StreamResponse:
    """Answer the client with `response`. A body that breaks off or stalls ends in a connection that does."""
    try:
        async with asyncio.timeout(settings.send_timeout):
            await response.prepare(request)
        while piece := await _read(body, settings.proxy_read_timeout):
            async with asyncio.timeout(settings.send_timeout):
                await response.write(piece)
        async with asyncio.timeout(settings.send_timeout):
            await response.write_eof()
    except (ClientError, TimeoutError) as error:
        log.warning("a refusal broke off: %s", type(error).__name__)
        if request.transport is not None:
            # What was sent is in the kernel and arrives. A close would let aiohttp complete the body.
            request.transport.abort()
    return response


async def _read(body: StreamReader, proxy_read_timeout: float) -> bytes:
    async with asyncio.timeout(proxy_read_timeout):
        return await body.readany()
