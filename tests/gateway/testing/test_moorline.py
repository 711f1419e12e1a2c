"""The fixture `moorline`, used as others use it."""

import asyncio
import resource
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect as connect_in_thread

from moorline.gateway.common.errors import UsageError
from moorline.testing import Moorline


def echo() -> web.Application:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/ws/echo", handle)
    app.router.add_get("/api/hello", hello)
    return app


async def echoes(url: str) -> bool:
    async with asyncio.timeout(10), connect(url, proxy=None) as socket:
        await socket.send("hello")
        return await socket.recv() == "hello"


async def test_an_aiohttp_application_is_reached_through_a_gateway(moorline: Moorline) -> None:
    async with moorline.gateway(upstream=echo()) as gw, aiohttp.ClientSession(gw.url) as client:
        assert await echoes(gw.ws_url("/ws/echo"))
        async with client.get("/api/hello") as response:
            assert await response.text() == "hello"
            assert response.headers["X-Request-ID"]


async def test_the_limit_of_a_shell_is_no_warning(moorline: Moorline) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        async with moorline.gateway(upstream=echo()) as gw:
            assert gw.story == ()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_an_asgi_application_shares_the_loop_of_its_test(moorline: Moorline) -> None:
    app, received = FastAPI(), asyncio.Event()

    @app.websocket("/ws/x")
    async def handle(socket: WebSocket) -> None:
        await socket.accept()
        received.set()
        await socket.close(4000)

    async with moorline.gateway(upstream=app) as gw, connect(gw.ws_url("/ws/x"), proxy=None) as socket:
        await received.wait()
        await socket.wait_closed()
        assert socket.close_code == 4000


async def test_a_server_that_runs_already_is_an_upstream(moorline: Moorline) -> None:
    async with moorline.gateway(upstream=echo()) as first, moorline.gateway(upstream=first.url) as gw:
        assert await echoes(gw.ws_url("/ws/echo"))


def test_a_test_without_a_loop_has_one_on_a_thread(moorline: Moorline) -> None:
    with moorline.gateway(upstream=echo()) as gw:
        assert urllib.request.urlopen(f"{gw.url}/api/hello").read() == b"hello"
        with gw.faults.close(code=4001, after_bytes=1) as fault, connect_in_thread(gw.ws_url("/ws/echo")) as socket:
            socket.send("hello")
            assert socket.recv() == "hello"
            with pytest.raises(ConnectionClosedError, match="4001"):
                socket.recv()
        assert fault.met == 1


async def test_a_fault_is_over_with_its_block(moorline: Moorline) -> None:
    async with moorline.gateway(upstream=echo()) as gw:
        async with gw.faults.reset(after_bytes=1):
            with pytest.raises(ConnectionClosedError):
                await echoes(gw.ws_url("/ws/echo"))
        assert await echoes(gw.ws_url("/ws/echo"))


async def test_a_fault_of_the_upstreams_side_reaches_the_client_as_the_gateway_tells_it(moorline: Moorline) -> None:
    async with moorline.gateway(upstream=echo()) as gw, connect(gw.ws_url("/ws/echo"), proxy=None) as socket:
        async with gw.faults.reset(side="upstream") as fault:
            with pytest.raises(ConnectionClosedError, match="1014"):
                await socket.recv()
        assert fault.met == 1


async def test_the_options_are_the_gateways(moorline: Moorline) -> None:
    async with (
        moorline.gateway(upstream=echo(), connect_retry=None) as gw,
        gw.faults.refuse(),
        aiohttp.ClientSession(gw.url) as client,
        client.get("/api/hello") as response,
    ):
        assert response.status == 502


async def test_options_may_be_written_as_in_the_configuration(moorline: Moorline) -> None:
    options = {"proxy_read_timeout": "1h", "client_heartbeat": "off", "allowed_hosts": "chat.example.com"}
    headers = {"Host": "chat.example.com"}
    async with (
        moorline.gateway(upstream=echo(), **options) as gw,
        aiohttp.request("GET", f"{gw.url}/api/hello", headers=headers) as response,
    ):
        assert response.status == 200


async def test_the_story_tells_of_each_socket_and_of_the_fault_that_it_met(moorline: Moorline) -> None:
    async with moorline.gateway(upstream=echo()) as gw, gw.faults.fin(side="upstream", after_bytes=1):
        with pytest.raises(ConnectionClosedError):
            await echoes(gw.ws_url("/ws/echo"))
    story = "\n".join(gw.story)
    assert "fin(after_bytes=1) on the side of the upstream met a WebSocket" in story
    assert "WebSocket closed: " in story


async def test_a_gateway_starts_in_an_instant(moorline: Moorline) -> None:
    async with moorline.gateway(upstream=echo()):
        pass
    # One of many: other tests may have the processor.
    for _ in range(30):
        if await _start_seconds(moorline) < 0.15:
            return
    pytest.fail("each start took longer")


async def _start_seconds(moorline: Moorline) -> float:
    began = time.perf_counter()
    async with moorline.gateway(upstream=echo()):
        return time.perf_counter() - began


# What is wrong --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda gw: gw.faults.rest, "rest: there is no such fault; did you mean reset"),
        (lambda gw: gw.faults.reset(after=1), "reset: there is no parameter after"),
        (lambda gw: gw.faults.reset(side="backend"), 'reset: side="backend" is neither "client" nor "upstream"'),
        (lambda gw: gw.faults.provider_429(), "provider_429: it is a fault of a model's server"),
    ],
)
async def test_a_mistake_is_named(moorline: Moorline, use: Callable[[Any], Any], words: str) -> None:
    async with moorline.gateway(upstream=echo()) as gw:
        with pytest.raises((UsageError, AttributeError), match=words):
            use(gw)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"proxy_read_timout": 1.0}, "proxy_read_timout: there is no such option; did you mean proxy_read_timeout"),
        ({"proxy_read_timeout": "soon"}, 'proxy_read_timeout: "soon" is not a duration'),
    ],
)
async def test_a_wrong_option_is_named(moorline: Moorline, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        async with moorline.gateway(upstream=echo(), **options):
            pass


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        (5, "upstream: int is no aiohttp or ASGI application and no address"),
        ("https://127.0.0.1:1", 'upstream: "https://127.0.0.1:1" is not an address'),
    ],
)
async def test_an_upstream_that_is_none_is_refused(moorline: Moorline, upstream: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        async with moorline.gateway(upstream=upstream):
            pass


def test_a_mistake_is_raised_in_a_test_without_a_loop_too(moorline: Moorline) -> None:
    with pytest.raises(UsageError, match="is not an address"), moorline.gateway(upstream="mailto:x"):
        pass


async def test_a_missing_uvicorn_is_named(moorline: Moorline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match="served by uvicorn, which is not installed"):
        async with moorline.gateway(upstream=FastAPI()):
            pass


async def test_an_application_that_fails_to_start_does_not_end_the_tests(moorline: Moorline) -> None:
    async def broken(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(UsageError, match="the ASGI application failed to start"):
        async with moorline.gateway(upstream=broken):
            pass
