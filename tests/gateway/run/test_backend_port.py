"""The backend's listening socket through the lives of its process, which is played here."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import pytest

from moorline.gateway.common.web.listen import listen
from moorline.gateway.run import backend_port
from moorline.gateway.run.backend_port import BackendPort
from tests.support.faulty_upstream import dial

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 "
NEVER = 3600.0


@contextlib.asynccontextmanager
async def opened(hold: float) -> AsyncIterator[tuple[BackendPort, int]]:
    """The port, of which nothing is known to be up, and its number."""
    (sock,) = listen("127.0.0.1", 0)
    number = sock.getsockname()[1]
    port = BackendPort(sock, hold)
    try:
        yield port, number
    finally:
        await port.close()


@contextlib.asynccontextmanager
async def life(port: BackendPort) -> AsyncIterator[None]:
    """A life of the backend, which says `hello` to each connection. It has its own descriptor, as a process does."""

    async def hello(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    with port.life() as extras:
        (descriptor,) = extras.descriptors
        assert extras.message == {"listener": descriptor}
        async with await asyncio.start_server(hello, sock=socket.socket(fileno=os.dup(descriptor))):
            port.up()
            yield


async def test_a_connection_waits_for_the_next_life() -> None:
    async with opened(NEVER) as (port, number), dial(number) as first:
        async with life(port):
            assert await first.rest() == b"hello"
        async with dial(number) as second, life(port):
            assert await second.rest() == b"hello"


async def test_a_backend_that_is_down_for_too_long_is_answered_for() -> None:
    async with opened(0.05) as (port, number), dial(number) as waiting:
        with port.life():
            await waiting.send(REQUEST)
            assert (await waiting.head()).startswith(UNAVAILABLE)
            async with dial(number) as late:
                await late.send(REQUEST)
                assert (await late.head()).startswith(UNAVAILABLE)


async def test_nothing_is_answered_for_a_backend_that_is_up_again() -> None:
    async with opened(0.0) as (port, number):
        with port.life():
            async with dial(number) as client:
                await client.send(REQUEST)
                assert (await client.head()).startswith(UNAVAILABLE)
        async with life(port):
            for _ in range(3):
                async with dial(number) as client:
                    assert await client.rest() == b"hello"


async def test_a_client_that_sends_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_port, "_HEAD_SECONDS", 0.05)
    async with opened(0.0) as (port, number), dial(number) as client:
        with port.life():
            assert await client.rest() == b""


async def test_what_waits_at_the_end_is_reset() -> None:
    async with opened(NEVER) as (port, number), dial(number) as client:
        await port.close()
        assert (await client.end())[1] == "RST"
