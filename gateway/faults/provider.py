"""A model's server on loopback that speaks OpenAI's Chat Completions, and fails where a fault says so."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiohttp import web

from moorline.gateway.faults.armed import Armed
from moorline.gateway.faults.catalogue import Refusal, Step
from moorline.gateway.faults.control import Faults
from moorline.gateway.tunnel import kernel
from moorline.gateway.tunnel.endings import Side

__all__ = ["ANSWER", "Provider", "provider"]

#: The pieces of its answer, where nothing else is asked for.
ANSWER = ("This answer ", "comes from ", "a test.")
_MODEL = "test"


class Provider:
    """Answers every request with the same pieces; `base_url` is for OPENAI_BASE_URL."""

    def __init__(self, pieces: Sequence[str], note: Callable[[str], None]) -> None:
        self.base_url = ""
        self.requests: list[dict[str, Any]] = []
        """The bodies of all requests so far."""
        self.faults = Faults(dict.fromkeys(Side, self), asyncio.get_running_loop(), provider=True)
        self._pieces = pieces
        self._note = note
        self._armed: list[Armed] = []

    def arm(self, armed: Armed) -> None:
        self._armed.append(armed)

    def disarm(self, armed: Armed) -> None:
        self._armed.remove(armed)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions"""
        body = await request.json()
        self.requests.append(body)
        step: Step | None = None
        for armed in self._armed:
            if armed.claims(request.path):
                self._note(f"{armed} met a request")
                made = armed.make()
                if isinstance(made, Refusal):
                    return _refused(made)
                step = made
        if body.get("stream"):
            return await self._stream(request, step)
        if step is not None:
            return await _break_off(request, web.Response(), step)
        message = {"role": "assistant", "content": "".join(self._pieces)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(_completion("chat.completion", choice))

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models"""
        return web.json_response({"object": "list", "data": [{"id": _MODEL, "object": "model", "owned_by": "test"}]})

    async def _stream(self, request: web.Request, step: Step | None) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in self._pieces[: len(self._pieces) if step is None else 1]:
            await response.write(_event({"index": 0, "delta": {"content": piece}, "finish_reason": None}))
        if step is not None:
            return await _break_off(request, response, step)
        await response.write(_event({"index": 0, "delta": {}, "finish_reason": "stop"}) + b"data: [DONE]\n\n")
        return response


async def _break_off(request: web.Request, response: web.StreamResponse, step: Step) -> web.StreamResponse:
    """An answer without its end."""
    if step is Step.SILENCE:
        await asyncio.Event().wait()
    if request.transport is not None and step is Step.RESET:
        kernel.reset(request.transport)
    return response


def _refused(refusal: Refusal) -> web.Response:
    error = {"message": "injected by a test", "type": None, "param": None, "code": refusal.code}
    return web.json_response({"error": error}, status=refusal.status)


def _completion(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c1", "object": kind, "created": 1, "model": _MODEL, "choices": [choice]}


def _event(choice: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(_completion("chat.completion.chunk", choice)).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def provider(
    pieces: Sequence[str] = ANSWER, note: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Provider]:
    """A server on a free port; what is under way at the end is cut."""
    server = Provider(pieces, note)
    app = web.Application(handler_args={"handler_cancellation": True})
    app.router.add_post("/v1/chat/completions", server.completions)
    app.router.add_get("/v1/models", server.models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
