"""Clients that do not read their answers."""

import asyncio

import pytest
from aiohttp import web

from tests.gateway.common.test_server import raw, served


async def test_a_client_that_takes_no_answer_is_cut_after_send_timeout() -> None:
    done = asyncio.Event()

    async def long(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=bytes(16 << 20))
        finally:
            done.set()

    async with served(long, send_timeout=0.2) as server, raw(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await done.wait()
        await asyncio.sleep(0.5)  # longer than send_timeout
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(16 << 20)


async def test_a_client_that_takes_its_answer_slowly_gets_all_of_it() -> None:
    async def long(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(16 << 20))

    async with served(long, send_timeout=0.3) as server, raw(server) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(8):
            await reader.readexactly(2 << 20)
            await asyncio.sleep(0.1)  # the pace of the client, more than send_timeout in all
