"""Clients that do not read, or are not there any more."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import STEP, Script, backend, hello, receive_until, say

UPGRADE = (
    b"GET /ws/chat/patient:demo/s1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def test_a_peer_that_answers_no_ping_is_let_go_of(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), heartbeat=0.1) as server, asyncio.timeout(STEP):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(UPGRADE)
        assert b"\x89\x00" in await reader.read()
        writer.close()


class Heard(logging.Handler):
    """Tells when a line with `words` was logged."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words
        self.event = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.event.set()


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    heard = Heard("does not read")
    logger = logging.getLogger("moorline.backend.delivery")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addHandler(heard)
    yield heard
    logger.removeHandler(heard)


async def test_a_client_that_does_not_read_is_closed_with_4408_and_holds_nobody_up(
    tmp_path: Path, stalled: Heard
) -> None:
    async with backend(tmp_path, Script(*["x" * 1_000_000] * 20, None), send_timeout=0.3) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 10)
        writer.write(UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        async with server.socket(max_size=None) as socket:
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            assert len((await receive_until(socket, "message"))[-1]["content"]) == 20_000_000
        await asyncio.wait_for(stalled.event.wait(), STEP)
        tail = b""
        async with asyncio.timeout(STEP):
            while not tail.endswith((4408).to_bytes(2, "big") + b"too slow"):
                chunk = await reader.read(1 << 20)
                assert chunk
                tail = (tail + chunk)[-64:]
        writer.close()
