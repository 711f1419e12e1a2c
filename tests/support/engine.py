"""A server that wants a path and a query, and speaks first, as Socket.IO's does."""

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings

__all__ = ["QUERY", "engine"]

QUERY = "?EIO=4&transport=websocket"


async def _handle(request: web.Request) -> web.StreamResponse:
    if request.query.get("transport") != "websocket":
        return web.json_response({"code": 0, "message": "Transport unknown"}, status=400)
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_str('0{"sid":"x","pingInterval":25000}')
    await socket.receive()
    return socket


@contextlib.asynccontextmanager
async def engine() -> AsyncIterator[str]:
    """The address of its WebSocket, without the query."""
    app = web.Application()
    app.router.add_get("/socket.io/", _handle)
    async with running(app, Settings(host="127.0.0.1", port=0, drain=0.1)) as started:
        yield f"{started.addresses[0].replace('http', 'ws')}/socket.io/"
