"""A chat backend of another make that knows version 1 of the protocol alone: FastAPI on uvicorn, as people write it.

async with version1() as server:
    server.answers.put_nowait("Good morning.")     # None: the socket ends instead
    ... server.frames ...                          # all that clients have sent
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect

__all__ = ["Version1Server", "version1"]

STEP = 15.0


class Version1Server:
    """What its clients sent, and what it says."""

    def __init__(self) -> None:
        self.url = ""
        self.frames: list[Any] = []
        self.reads = 0
        """Requests for the history."""
        self.history: list[dict[str, str]] | None = []
        """None: there is no such address."""
        self.greeting: list[dict[str, str]] = []
        """Frames for each client that connects."""
        self.thinks = True
        """Whether it says so before it answers."""
        self.answers: asyncio.Queue[str | dict[str, str] | None] = asyncio.Queue()

    def application(self) -> FastAPI:
        app = FastAPI()
        app.add_api_websocket_route("/ws/chat/{patient_id}/{session_id}", self._chat)
        app.add_api_route("/api/chat/{session_id}/messages", self._messages)
        return app

    async def _chat(self, websocket: WebSocket, patient_id: str, session_id: str) -> None:
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            for frame in self.greeting:
                await websocket.send_json(frame)
            while True:
                self.frames.append(await websocket.receive_json())
                # Like most such programs it takes every frame for a message.
                assert self.frames[-1]["message"]
                if self.thinks:
                    await websocket.send_json({"type": "status", "status": "thinking"})
                answer = await self.answers.get()
                if answer is None:
                    return await websocket.close(1011)
                row = {"type": "message", "role": "assistant", "content": answer}
                await websocket.send_json(answer if isinstance(answer, dict) else row)

    async def _messages(self, session_id: str) -> list[dict[str, str]]:
        self.reads += 1
        if self.history is None:
            raise HTTPException(404)
        return self.history


@contextlib.asynccontextmanager
async def version1(server: Version1Server, port: int = 0) -> AsyncIterator[Version1Server]:
    """The server, listening."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            server.application(), log_level="critical", ws="websockets-sansio", timeout_graceful_shutdown=0
        )
        program = uvicorn.Server(config)
        serving = asyncio.create_task(program.serve([listener]))
        try:
            yield server
        finally:
            program.should_exit = True
            await asyncio.wait_for(serving, STEP)
