"""Clients that do not read, or are not there any more."""

import asyncio
import contextlib
import json
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from moorline.backend import websocket
from moorline.backend.wire import Wire
from tests.support.backends import STEP, Backend, Script, backend, hello, receive_until, say
from tests.support.faulty_upstream import Peer, dial

UPGRADE = (
    b"GET /ws/chat/patient:demo/s1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# In all less than 200 kB; the buffers of some machines take megabytes.
RECEIVE_BUFFER = 1 << 13
pytestmark = pytest.mark.usefixtures("small_send_buffers")


async def test_a_peer_that_answers_no_ping_is_disconnected(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), heartbeat=0.1) as server, asyncio.timeout(STEP):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(UPGRADE)
        assert b"\x89\x00" in await reader.read()
        writer.close()


class Captured(logging.Handler):
    """Tells when a line with `words` was logged."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.event.set()


@contextlib.contextmanager
def logged(name: str, words: str) -> Iterator[Captured]:
    captured, logger = Captured(words), logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(captured)
    try:
        yield captured
    finally:
        logger.removeHandler(captured)
        logger.setLevel(before)


@pytest.fixture
def stalled() -> Iterator[Captured]:
    with logged("moorline.backend.delivery", "does not read") as captured:
        yield captured


async def test_a_client_that_does_not_read_is_closed_with_4408_and_delays_no_other(
    tmp_path: Path, stalled: Captured
) -> None:
    script = Script(*["x" * 30_000] * 10, None)
    async with (
        backend(tmp_path, script, send_timeout=1) as server,
        dial(server.port, receive_buffer=RECEIVE_BUFFER) as client,
        server.socket(max_size=None) as socket,
    ):
        await client.send(UPGRADE)
        await client.head()
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        assert len((await receive_until(socket, "message"))[-1]["content"]) == 300_000
        await asyncio.wait_for(stalled.event.wait(), STEP)
        await client.until((4408).to_bytes(2, "big") + b"too slow")


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_abort_of_a_slow_socket_that_has_closed_meanwhile_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    errors: list[dict[str, Any]] = []
    abort = Wire.abort

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        aborted = asyncio.Event()

        def late(wire: Wire) -> None:
            # Set first: the abort is what may raise.
            aborted.set()
            abort(wire)

        monkeypatch.setattr(Wire, "abort", late)
        monkeypatch.setattr(websocket, "_CLOSE_TIMEOUT", 0.5)
        script = Script(*["x" * 30_000] * 10, None)
        with logged("moorline.backend.websocket", "socket closed") as closed:
            async with (
                backend(tmp_path, script, send_timeout=0.3) as server,
                dial(server.port, receive_buffer=RECEIVE_BUFFER) as client,
                asyncio.timeout(STEP),
            ):
                await client.send(UPGRADE + text_frame(message="Hi"))
                await closed.event.wait()
                await client.ended()
                await aborted.wait()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())
    assert errors == []


# Frozen, and back again ----------------------------------------------------------------------------------------------


def text_frame(**frame: object) -> bytes:
    """A client's frame with the mask 0, shorter than 126 bytes."""
    payload = json.dumps(frame).encode()
    return bytes([0x81, 0x80 | len(payload)]) + bytes(4) + payload


@contextlib.asynccontextmanager
async def frozen(server: Backend) -> AsyncIterator[Peer]:
    """A client of version 2 that reads its snapshot and nothing more."""
    async with dial(server.port, receive_buffer=RECEIVE_BUFFER) as client:
        await client.send(UPGRADE + text_frame(type="hello", v=2))
        await client.until(b"through_seq")
        yield client


async def test_nothing_queues_for_clients_that_do_not_read(tmp_path: Path) -> None:
    clients, pieces, size = 30, 40, 50_000
    script = Script()
    async with (
        backend(tmp_path, script, drain=0.1, max_answer=1 << 30) as server,
        server.socket(max_size=None) as socket,
        contextlib.AsyncExitStack() as stack,
    ):
        for _ in range(clients):
            await stack.enter_async_context(frozen(server))
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        script.put("first")
        await receive_until(socket, "delta")
        tracemalloc.start()
        try:
            for _ in range(pieces):
                script.put("x" * size)
                await receive_until(socket, "delta")
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # The log's tail, and for each client one frame and what its socket's buffer takes.
        assert grown < 10 * pieces * size < clients * pieces * size / 2


async def test_a_client_that_was_too_slow_resumes_with_all_that_it_missed(tmp_path: Path, stalled: Captured) -> None:
    script = Script()
    started = backend(tmp_path, script, send_timeout=1, max_answer=1 << 30)
    async with started as server, server.socket(max_size=None) as socket:
        epoch = (await hello(socket))[0]["epoch"]
        async with frozen(server):
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            while not stalled.event.is_set():
                script.put("x" * 200_000)
                await receive_until(socket, "delta")
        async with server.socket(max_size=None) as again:
            (greeting,) = await hello(again, resume={"epoch": epoch, "seq": 0})
            assert greeting["recovered"] is True
            script.put("the end", None)
            frames = await receive_until(again, "message")
            whole = (await receive_until(socket, "message"))[-1]
            assert frames[-1] == whole
            assert [frame["seq"] for frame in frames if "seq" in frame][:3] == [1, 2, 3]
