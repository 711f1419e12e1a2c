"""One line for each request, whatever becomes of it."""

import asyncio
import contextlib
import logging
import subprocess
import sys

import pytest
from aiohttp import web

from moorline.gateway.access_log import access_log
from moorline.gateway.common.access.rules import AccessRules
from moorline.gateway.common.web.server import running
from moorline.gateway.keys import ACCESS_RULES
from moorline.gateway.settings import Settings
from tests.support.raw import dial


async def test_a_client_that_is_gone_before_its_answer_is_a_499_and_no_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    handled = asyncio.Event()

    async def vanish(request: web.Request) -> web.StreamResponse:
        # As the switch finds it: the transport is closing, and no handler has been told yet.
        assert request.transport is not None
        request.transport.abort()
        handled.set()
        raise ConnectionResetError

    settings = Settings(host="127.0.0.1", port=0, drain=1)
    app = web.Application(middlewares=[access_log])
    app[ACCESS_RULES] = AccessRules.of(settings)
    app.router.add_get("/ws", vanish)
    async with running(app, settings) as server, dial(server.port) as client:
        await client.send(b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.ended()
        await handled.wait()
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("moorline")]
    assert line.startswith("GET /ws 499 ")
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_request_that_is_cut_at_the_end_of_the_drain_is_not_put_down_to_its_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    asked = asyncio.Event()

    async def never(request: web.Request) -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError("it is cancelled")

    settings = Settings(host="127.0.0.1", port=0, drain=0.1)
    app = web.Application(middlewares=[access_log])
    app[ACCESS_RULES] = AccessRules.of(settings)
    app.router.add_get("/api/x", never)
    async with contextlib.AsyncExitStack() as stack:
        async with running(app, settings) as server:
            client = await stack.enter_async_context(dial(server.port))
            await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asked.wait()
        await client.ended()
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("moorline")]
    assert line.endswith(" cause=GD-response")


async def test_an_answer_that_cannot_be_completed_ends_in_a_broken_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10"})
        await response.prepare(request)
        await response.write(b"12345")
        raise ConnectionResetError

    settings = Settings(host="127.0.0.1", port=0, drain=1)
    app = web.Application(middlewares=[access_log])
    app[ACCESS_RULES] = AccessRules.of(settings)
    app.router.add_get("/", break_off)
    async with running(app, settings) as server, dial(server.port) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await client.ended()
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_the_line_names_the_route_and_no_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def answer(request: web.Request) -> web.Response:
        return web.Response()

    settings = Settings(host="127.0.0.1", port=0, drain=1)
    app = web.Application(middlewares=[access_log])
    app[ACCESS_RULES] = AccessRules.of(settings)
    app.router.add_get("/api/chat/{session_id}/messages", answer)
    async with running(app, settings) as server, dial(server.port) as client:
        for path in ("/api/chat/private/messages", "/private"):
            await client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await client.head()
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("moorline")]
    assert lines[0].startswith("GET /api/chat/{session_id}/messages 200 ")
    assert "private" not in caplog.text


def test_a_forked_process_has_ids_of_its_own() -> None:
    script = """
import os
from moorline.gateway.access_log import fresh_id
fresh_id()
reading, writing = os.pipe()
child = os.fork()
os.write(writing, fresh_id().encode())
if not child:
    os._exit(0)
os.waitpid(child, 0)
one = os.read(reading, 64).decode()
print(len(one), one[:32] != one[32:])
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "64 True\n"
