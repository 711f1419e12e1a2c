"""Clients that do not read their answers."""

import asyncio

import pytest
from aiohttp import web

from moorline.gateway.common.web.connection import Connection
from tests.gateway.common.test_server import served
from tests.support.faulty_upstream import HANDSHAKE, STEP, dial

pytestmark = pytest.mark.usefixtures("small_send_buffers")


async def test_a_client_that_takes_no_answer_is_cut_after_send_timeout() -> None:
    done = asyncio.Event()

    async def long(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=bytes(16 << 20))
        finally:
            done.set()

    async with served(long, send_timeout=0.2) as server, dial(server.port, receive_buffer=4096) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await done.wait()
        await asyncio.sleep(0.5)  # longer than send_timeout
        data, _ = await client.end()
        assert len(data) < 16 << 20


async def test_a_websocket_that_is_not_read_is_its_handlers_to_end() -> None:
    ended: asyncio.Future[type[BaseException] | None] = asyncio.get_running_loop().create_future()

    async def talk(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        assert isinstance(request.protocol, Connection)
        request.protocol.leave_sends_to_handler()
        try:
            async with asyncio.timeout(0.5):  # longer than send_timeout
                while True:
                    await socket.send_bytes(bytes(1 << 20))
        except (TimeoutError, ConnectionError) as error:
            ended.set_result(type(error))
        return socket

    async with served(talk, send_timeout=0.1) as server, dial(server.port, receive_buffer=4096) as client:
        await client.send(HANDSHAKE.replace(b"/ws/chat/p/s", b"/"))
        assert await asyncio.wait_for(ended, STEP) is TimeoutError


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it() -> None:
    async def long(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(1 << 20))

    # Large buffers would take all of it at once, and small ones 16 MB in ten seconds.
    async with served(long, send_timeout=0.6) as server, dial(server.port, receive_buffer=1 << 16) as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        for _ in range(8):
            await client.exactly(1 << 17)
            await asyncio.sleep(0.1)  # the pace of the client, more than send_timeout in all
