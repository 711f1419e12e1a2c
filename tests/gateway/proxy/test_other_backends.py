"""A backend of another make behind the gateway: uvicorn with a small FastAPI application and its WebSocket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
import uvicorn
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from websockets import Subprotocol
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from yarl import URL

from moorline.gateway.run import server
from moorline.gateway.settings import Settings

STEP = 10.0


def application() -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept(subprotocol="chat.v2")
        while (text := await websocket.receive_text()) != "bye":
            await websocket.send_text(f"{websocket.headers['x-forwarded-proto']} {text}")
        await websocket.close(4001, "as you wish")

    @app.websocket("/ws/closed")
    async def closed(websocket: WebSocket) -> None:
        await websocket.close()

    @app.get("/api/events")
    async def events() -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            for number in range(3):
                yield f"data: {number}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.post("/api/upload")
    async def upload(request: Request) -> dict[str, str]:
        return {"type": request.headers["content-type"], "body": (await request.body()).decode()}

    return app


@pytest.fixture
async def gateway() -> AsyncIterator[str]:
    """A gateway before uvicorn; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uvicorn_server = uvicorn.Server(uvicorn.Config(application(), log_level="error", ws="websockets-sansio"))
        serving = asyncio.create_task(uvicorn_server.serve([listener]))
        settings = Settings(host="127.0.0.1", port=0, upstream=(f"http://127.0.0.1:{listener.getsockname()[1]}",))
        try:
            async with server.running(settings) as started:
                yield started.addresses[0]
        finally:
            uvicorn_server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(serving, STEP)


async def test_its_socket_passes_with_subprotocol_compression_and_close_code(gateway: str) -> None:
    address = gateway.replace("http", "ws", 1)
    async with (
        asyncio.timeout(STEP),
        connect(f"{address}/ws/echo", subprotocols=[Subprotocol("chat.v1"), Subprotocol("chat.v2")]) as client,
    ):
        assert client.subprotocol == "chat.v2"
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        for text in ("Hello", "ünï" * 50_000):
            await client.send(text)
            assert await client.recv() == f"http {text}"
        await (await client.ping())
        await client.send("bye")
        with pytest.raises(ConnectionClosed) as ended:
            await client.recv()
    assert ended.value.rcvd is not None
    assert (ended.value.rcvd.code, ended.value.rcvd.reason) == (4001, "as you wish")


async def test_its_refusal_passes(gateway: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{gateway.replace('http', 'ws', 1)}/ws/closed")
    assert refused.value.response.status_code == 403


async def test_its_http_streams_through(gateway: str) -> None:
    async with aiohttp.ClientSession() as client, client.get(f"{gateway}/api/events") as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert await answer.text() == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/csv"])
async def test_its_forms_and_uploads_pass(gateway: str, kind: str) -> None:
    headers = {"Content-Type": kind, "Origin": gateway}
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{gateway}/api/upload", data=b"name=x", headers=headers) as answer:
            assert (answer.status, await answer.json()) == (200, {"type": kind, "body": "name=x"})
        async with session.post(f"{gateway}/api/upload", data=b"x", headers=headers | {"Origin": "null"}) as answer:
            assert answer.status == 403


@pytest.mark.parametrize("path", ["/api/chat/s/messages", "/api/ticket", "/api/%63hat/s", "/-/faults"])
async def test_a_form_reaches_neither_the_chat_nor_the_gateways_own_addresses(gateway: str, path: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    address = URL(gateway + path, encoded=True)
    async with aiohttp.request("POST", address, data=b"a=b", headers=headers) as answer:
        assert answer.status == 415
