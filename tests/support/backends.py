"""A backend on a real port, and a responder whose answers a test releases piece by piece."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect

from moorline.backend.app import LOG, create_app
from moorline.backend.errors import LLMError
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Finish
from moorline.backend.responder import Answer, Done, Piece, Prompt, Responder, Text, Turn
from moorline.backend.responder_factory import create_responder
from moorline.backend.settings import Settings
from moorline.gateway.common.access.authorize import Authorize
from moorline.gateway.common.web.server import running

__all__ = ["Backend", "Script", "asking_backend", "backend", "hello", "receive", "receive_until", "say"]

STEP = 10.0
"""Longest wait of a test for one thing; reached only when it fails."""


class Script:
    """Answers with whatever the test puts in: text, `None` for a proper end, or an error."""

    name = "script"
    scripted = False

    def __init__(self, *lines: str | LLMError | None) -> None:
        self._lines: asyncio.Queue[str | LLMError | None] = asyncio.Queue()
        self.chats: list[list[Prompt]] = []
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self.put(*lines)

    def put(self, *lines: str | LLMError | None) -> None:
        for line in lines:
            self._lines.put_nowait(line)

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        self.chats.append(turn.prompts)
        self.asked.set()
        self.closed.clear()
        try:
            while (line := await self._lines.get()) is not None:
                if isinstance(line, LLMError):
                    raise line
                yield Text(line)
            yield Done(Finish.STOP)
        finally:
            self.closed.set()


class Backend:
    """Where a backend listens, and its log."""

    def __init__(self, port: int, app: web.Application) -> None:
        self.http = f"http://127.0.0.1:{port}"
        self.port = port
        self.app = app
        self.log: EventLog = app[LOG]

    def socket(self, session: str = "s1", patient: str = "patient:demo", **options: Any) -> connect:
        """A client of another make; it answers Pings and leaves the heartbeat to the server."""
        url = f"ws://127.0.0.1:{self.port}/ws/chat/{patient}/{session}"
        return connect(url, ping_interval=None, proxy=None, **options)


@contextlib.asynccontextmanager
async def backend(
    path: Path,
    responder: Responder | Answer,
    *,
    authorize: Authorize | None = None,
    v1_ping: float = 30.0,
    **options: Any,
) -> AsyncIterator[Backend]:
    """A backend with its database at `path`/chat.db."""
    settings = Settings(**{"port": 0, "database": f"sqlite:///{path}/chat.db", "drain": 1.0, **options})
    app = create_app(settings, authorize=authorize, responder=responder, v1_ping=v1_ping)
    async with running(app, settings) as server:
        yield Backend(server.port, app)


@contextlib.asynccontextmanager
async def asking_backend(path: Path, base_url: str) -> AsyncIterator[Backend]:
    """A backend that asks this model's server."""
    environ = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": base_url}
    async with backend(path, create_responder(Settings(), environ)) as started:
        yield started


async def say(socket: ClientConnection, **frame: Any) -> None:
    """Send one frame."""
    await socket.send(json.dumps(frame))


async def receive(socket: ClientConnection) -> dict[str, Any]:
    """The next frame."""
    async with asyncio.timeout(STEP):
        frame = json.loads(await socket.recv())
    assert isinstance(frame, dict)
    return frame


async def receive_until(socket: ClientConnection, kind: str) -> list[dict[str, Any]]:
    """All frames up to the first of type `kind`."""
    frames = [await receive(socket)]
    while frames[-1]["type"] != kind:
        frames.append(await receive(socket))
    return frames


async def hello(socket: ClientConnection, **members: Any) -> list[dict[str, Any]]:
    """Greet in version 2; the hello and, where it says that one follows, the snapshot."""
    await say(socket, type="hello", v=2, **members)
    frames = await receive_until(socket, "hello")
    if not frames[-1]["recovered"]:
        frames.append(await receive(socket))
    return frames
