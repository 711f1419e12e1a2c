"""A backend whose sockets a test controls, frame by frame, for a client of version 2.

async with played() as server:
    socket = await server.socket()            # a client has connected and sent its hello
    await socket.send_hello()
    sent = await socket.receive("send")
    await socket.close(4503)
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import WSMsgType, web
from multidict import CIMultiDictProxy

from tests.support.serving import serving

__all__ = ["STEP", "Played", "PlayedSocket", "played"]

STEP = 15.0
"""Longest wait of a test for one thing; reached only when it fails."""


class PlayedSocket:
    """One socket. It answers pings while it is `alive`."""

    def __init__(self, socket: web.WebSocketResponse, hello: dict[str, Any], offered: str) -> None:
        self.hello = hello
        self.offered = offered
        """The subprotocols that the client offered."""
        self.alive = True
        self._socket = socket
        self._frames: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send_hello(self, *, epoch: str = "e1", recovered: bool = True, heartbeat: float = 20.0) -> None:
        await self.send("hello", v=2, epoch=epoch, head=0, recovered=recovered, heartbeat=heartbeat, max_bytes=1000)

    async def send_snapshot(
        self, through_seq: int, *messages: dict[str, Any], database: str = "d1", **members: Any
    ) -> None:
        rows = list(messages)
        await self.send("snapshot", messages=rows, earlier=False, database=database, through_seq=through_seq, **members)

    async def send(self, kind: str, **members: Any) -> None:
        await self._socket.send_json({"type": kind, **members})

    async def send_text(self, text: str) -> None:
        await self._socket.send_str(text)

    async def receive(self, kind: str) -> dict[str, Any]:
        """The next frame of the client, which must be of this type."""
        async with asyncio.timeout(STEP):
            frame = await self._frames.get()
        assert frame["type"] == kind, frame
        return frame

    def received_nothing(self) -> bool:
        return self._frames.empty()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._socket.close(code=code, message=reason.encode())

    async def listen(self) -> None:
        """Read the client's frames until the socket is closed."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            frame = message.json()
            if frame["type"] != "ping":
                self._frames.put_nowait(frame)
            elif self.alive:
                await self.send("pong")


class Played:
    """The sockets that clients opened, and what HTTP answers."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200
        """Of everything, upgrades included; 200 serves."""
        self.authorizations: list[str | None] = []
        """Of the HTTP requests so far."""
        self.headers: list[CIMultiDictProxy[str]] = []
        """Of the HTTP requests so far."""
        self.tickets = 0
        """That were asked for so far."""
        self.erased: list[str] = []
        """What was asked to be erased."""
        self.posts: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self._sockets: asyncio.Queue[PlayedSocket] = asyncio.Queue()

    async def socket(self) -> PlayedSocket:
        """The next socket whose client has sent a hello."""
        async with asyncio.timeout(STEP):
            return await self._sockets.get()

    def no_socket_waits(self) -> bool:
        return self._sockets.empty()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        if self.status != 200:
            return web.Response(status=self.status)
        socket = web.WebSocketResponse(protocols=("moorline",))
        await socket.prepare(request)
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        with contextlib.suppress(TypeError):  # the client closed the socket without a frame
            played = PlayedSocket(socket, await socket.receive_json(), offered)
            self._sockets.put_nowait(played)
            await played.listen()
        return socket

    async def messages(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers.get("Authorization"))
        self.headers.append(request.headers)
        # A client names the patient in each request, so that the authorize hook can be asked about it.
        status = self.status if "patient_id" in request.query else 400
        if status != 200:
            return web.json_response({"code": "forbidden"}, status=status)
        snapshot = {"type": "snapshot", "messages": [], "earlier": False, "through_seq": 0}
        return web.json_response({"epoch": "", "head": 0, "recovered": False, "events": [snapshot]})

    async def post(self, request: web.Request) -> web.Response:
        self.authorizations.append(request.headers.get("Authorization"))
        self.headers.append(request.headers)
        self.posts.put_nowait((request.path.rpartition("/")[2], await request.json()))
        return web.json_response({}, status=202)

    async def ticket(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers)
        self.tickets += 1
        return web.json_response({"ticket": f"k{self.tickets}", "expires_in": 30})

    async def erase(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers)
        self.erased.append(f"{request.path} {request.query['patient_id']}")
        return web.Response(status=204 if self.status == 200 else self.status)


@contextlib.asynccontextmanager
async def played() -> AsyncIterator[Played]:
    server = Played()
    app = web.Application()
    app.router.add_get("/ws/chat/{patient}/{session}", server.chat)
    app.router.add_get("/api/chat/{session}/messages", server.messages)
    app.router.add_post("/api/chat/{session}/{command}", server.post)
    app.router.add_post("/api/ticket", server.ticket)
    app.router.add_delete("/api/chat/{session}", server.erase)
    async with serving(app) as server.url:
        yield server
