"""The gateway's own hook is asked again about open tunnels and held requests, and they end with the right to them."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.support.eventlogs import until
from tests.support.serving import serving

AGAIN = 0.05
STEP = 10.0


class Hook:
    """Answers with `result`, or raises it."""

    def __init__(self) -> None:
        self.result: Any = "alice"
        self.asked = 0

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Any:
        self.asked += 1
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class SlowHook(Hook):
    """Decides once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.decided = asyncio.Event()

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Any:
        self.asked += 1
        await self.decided.wait()
        return self.result


async def echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def held(request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    return web.Response()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"begun")
    await asyncio.Event().wait()
    return response


@contextlib.asynccontextmanager
async def gateway(hook: Hook | None, *, again: float | None = AGAIN, **options: Any) -> AsyncIterator[str]:
    """The address of a gateway before a backend that echoes, holds and streams."""
    app = web.Application()
    app.add_routes([web.get("/ws/{x:.*}", echo), web.get("/api/held", held), web.get("/api/endless", endless)])
    async with serving(app) as backend:
        settings = Settings(host="127.0.0.1", port=0, upstream=(backend,), drain=0.2, authorize_again=again, **options)
        async with server.running(settings, authorize=hook) as started:
            yield started.addresses[0]


def socket(address: str) -> connect:
    return connect(address.replace("http", "ws", 1) + "/ws/chat/p/s", proxy=None)


async def close_code(client: ClientConnection) -> int | None:
    async with asyncio.timeout(STEP):
        await client.wait_closed()
    return client.close_code


async def test_a_tunnel_that_is_refused_later_ends_with_4503_and_is_asked_about_no_more() -> None:
    hook = Hook()
    async with gateway(hook) as address, socket(address) as client:
        await client.send("x")
        assert await client.recv() == "x"
        await until(lambda: hook.asked > 2)
        hook.result = web.HTTPForbidden()
        assert await close_code(client) == 4503
        asked = hook.asked
        await asyncio.sleep(3 * AGAIN)
        assert hook.asked == asked


async def test_a_tunnel_whose_right_expires_ends_with_4401(go_on: Callable[[float], None]) -> None:
    hook = Hook()
    hook.result = Principal("alice", expires=time.time() + 1000)
    async with gateway(hook, again=None) as address, socket(address) as client:
        go_on(1000)
        assert await close_code(client) == 4401
        assert hook.asked == 1


@pytest.mark.parametrize("failure", [RuntimeError("no database"), web.HTTPServiceUnavailable(), None])
async def test_a_hook_that_fails_has_decided_nothing(failure: Any) -> None:
    hook = Hook()
    async with gateway(hook) as address, socket(address) as client:
        hook.result, asked = failure, hook.asked
        await until(lambda: hook.asked > asked + 1)
        await client.send("x")
        assert await client.recv() == "x"


@pytest.mark.parametrize(("expires", "status"), [(False, 403), (True, 401)])
async def test_a_held_request_ends_with_the_right_to_it(
    go_on: Callable[[float], None], *, expires: bool, status: int
) -> None:
    hook = Hook()
    if expires:
        hook.result = Principal("alice", expires=time.time() + 1000)
    async with gateway(hook) as address, aiohttp.ClientSession(address) as http:
        asking = asyncio.ensure_future(http.get("/api/held"))
        await until(lambda: hook.asked > 0)
        if expires:
            go_on(1000)
        else:
            hook.result = web.HTTPForbidden()
        async with asyncio.timeout(STEP), await asking as response:
            assert response.status == status


async def test_a_request_counts_while_the_hook_is_asked_about_it() -> None:
    hook = SlowHook()
    async with gateway(hook, max_requests=2) as address, aiohttp.ClientSession(address) as http:
        first = asyncio.ensure_future(http.post("/api/none"))
        await until(lambda: hook.asked > 0)
        async with http.post("/api/none") as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")
        hook.decided.set()
        assert (await first).status == 404
        async with http.post("/api/none") as response:
            assert response.status == 404


async def test_a_response_that_has_begun_is_cut_off_and_not_completed() -> None:
    hook = Hook()
    async with gateway(hook) as address, aiohttp.ClientSession(address) as http, http.get("/api/endless") as response:
        assert await response.content.readexactly(5) == b"begun"
        hook.result = web.HTTPForbidden()
        with pytest.raises(aiohttp.ClientPayloadError):
            async with asyncio.timeout(STEP):
                await response.read()


async def test_an_expired_principal_opens_nothing() -> None:
    hook = Hook()
    hook.result = Principal("alice", expires=time.time() - 1)
    async with gateway(hook) as address, aiohttp.ClientSession(address) as http, http.get("/api/held") as response:
        assert response.status == 401


@pytest.mark.parametrize(("given", "told"), [({}, ["Bearer"]), ({"WWW-Authenticate": "Digest"}, ["Digest"])])
async def test_a_401_names_a_scheme(given: dict[str, str], told: list[str]) -> None:
    hook = Hook()
    hook.result = web.HTTPUnauthorized(headers=given)
    async with gateway(hook) as address, aiohttp.request("GET", f"{address}/api/held") as response:
        with pytest.raises(InvalidStatus) as refused:
            await socket(address)
    assert response.headers.getall("WWW-Authenticate") == told
    assert refused.value.response.headers.get_all("WWW-Authenticate") == told


# An edited hook -------------------------------------------------------------------------------------------------------


RULES = "from aiohttp import web\n\nasync def authorize(request, patient_id, session_id):\n    {}\n"


async def test_an_edited_hook_counts_at_once_and_a_broken_one_leaves_the_version_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    rules = tmp_path / "rules_of_the_gateway.py"
    rules.write_text(RULES.format("return 'alice'"), encoding="utf-8")
    options = {"authorize": "rules_of_the_gateway:authorize", "follow_authorize": True}
    async with gateway(None, again=None, **options) as address, socket(address) as client:
        rules.write_text("this is not Python\n", encoding="utf-8")
        await until(lambda: "the gateway asks the version before" in caplog.text)
        await client.send("Hello")
        assert await client.recv() == "Hello"
        rules.write_text(RULES.format("raise web.HTTPForbidden"), encoding="utf-8")
        assert await close_code(client) == 4503
