"""A local server that speaks Chat Completions over real HTTP, and fails on demand.

async with openai_server() as server:
    server.reply(says("Good "), says("morning."), finish("stop"), DONE)
    server.reply(Status(429, headers={"Retry-After": "7"}))
    client = AsyncOpenAI(base_url=server.base_url, api_key="any")

A reply is a row of steps: an object is sent as an event, text as it is, an `asyncio.Event` is waited for, and so
is a number of seconds; bytes are sent around the response; a `Fault` is the last one.
"""

import asyncio
import contextlib
import dataclasses
import enum
import json
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

from aiohttp import web

from tests.support.serving import serving

__all__ = ["DONE", "Fault", "OpenAIServer", "Status", "error", "finish", "openai_server", "says", "usage"]

Chunk = dict[str, Any]
STEP = 20.0
"""Longest wait of a test for one thing; reached only when it fails."""

DONE = "data: [DONE]\n\n"


class Fault(enum.Enum):
    RESET = "the connection ends with RST"
    STALL = "nothing more is sent until the client goes away"


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """Instead of a stream. A body of bytes is sent as it is."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


def says(text: str) -> Chunk:
    """A piece of the answer."""
    return _chunk({"index": 0, "delta": {"content": text}, "finish_reason": None})


def finish(reason: str) -> Chunk:
    """The end of the answer."""
    return _chunk({"index": 0, "delta": {}, "finish_reason": reason})


def usage(prompt: int, completion: int) -> Chunk:
    """The last event, which has no choice."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {**_chunk(), "usage": counts}


def error(code: str | int, message: str = "quotes the patient") -> Chunk:
    """An error object, as a body or in the middle of a stream."""
    return {"error": {"message": message, "type": None, "param": None, "code": code}}


def _chunk(*choices: Chunk) -> Chunk:
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": list(choices)}


class OpenAIServer:
    """What was asked, and what will be answered."""

    def __init__(self) -> None:
        self.base_url = ""
        self.asked: list[Chunk] = []
        """The bodies of all requests."""
        self.keys: list[str] = []
        self.encodings: list[str] = []
        """Accept-Encoding of all requests."""
        self.traces: list[str] = []
        """Each request's traceparent."""
        self.gone = asyncio.Event()
        """A client went away before the end of its answer."""
        self._arrived = asyncio.Condition()
        self._replies: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    def reply(self, *steps: Any) -> None:
        """What the next request gets that has no reply yet."""
        self._replies.put_nowait(steps)

    async def next_reply(self) -> tuple[Any, ...]:
        """What the request that has just arrived gets."""
        return await self._replies.get()

    async def has(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        async with asyncio.timeout(STEP), self._arrived:
            await self._arrived.wait_for(lambda: len(self.asked) >= count)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        self.encodings.append(request.headers.get("Accept-Encoding", ""))
        self.traces.append(request.headers.get("traceparent", ""))
        body = await request.json()
        async with self._arrived:
            self.asked.append(body)
            self._arrived.notify_all()
        steps = await self.next_reply()
        if steps and isinstance(steps[0], Status):
            first = steps[0]
            if isinstance(first.body, bytes):
                return web.Response(body=first.body, status=first.status, headers=first.headers)
            return web.json_response(first.body, status=first.status, headers=first.headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await self._stream(request, response, steps)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, steps: tuple[Any, ...]) -> None:
        for step in steps:
            if step is Fault.RESET:
                _reset(request)
                return
            if isinstance(step, bytes):
                assert request.transport is not None
                request.transport.write(step)
                continue
            if not response.prepared:
                await response.prepare(request)
            if step is Fault.STALL:
                await asyncio.Event().wait()
            elif isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            else:
                text = step if isinstance(step, str) else f"data: {json.dumps(step)}\n\n"
                await response.write(text.encode())
        await response.write_eof()


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    sock = request.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()


@contextlib.asynccontextmanager
async def openai_server(server: OpenAIServer | None = None) -> AsyncIterator[OpenAIServer]:
    """A server on a free port; what is still under way at the end is cut."""
    server = server or OpenAIServer()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.handle)
    async with serving(app) as address:
        server.base_url = f"{address}/v1"
        yield server
