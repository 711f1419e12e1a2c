"""The WebSocket client of `moorline check` against servers that break the protocol, or do not read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from socket import SO_SNDBUF, SOL_SOCKET

import pytest

from moorline.gateway.check import websocket
from moorline.gateway.check.address import ProbeOptions, parse_address
from moorline.gateway.check.probe import _Probe
from moorline.gateway.check.websocket import HopFailed, Target, WebSocket
from moorline.gateway.common.web.accept import accept_for
from tests.support.raw import Connection, listening
from tests.support.websocket_frames import PING, frame

SWITCHING = b"\r\n".join(
    (b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: ")
)


@contextlib.asynccontextmanager
async def sending(frames: bytes) -> AsyncIterator[WebSocket]:
    """An open socket of a server that sends these and reads nothing."""
    over = asyncio.Event()

    async def serve(connection: Connection) -> None:
        key = (await connection.head()).partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        await connection.send(SWITCHING + accept_for(key) + b"\r\n\r\n" + frames)
        await over.wait()

    async with listening(serve) as port:
        yield await WebSocket.open(Target("127.0.0.1", port, f"127.0.0.1:{port}", None), "/", {})
        over.set()


@pytest.mark.parametrize("ping", [b"\x89\x7e\x00\x80" + bytes(128), b"\x09\x00"], ids=["long", "in parts"])
async def test_a_ping_against_the_rules_is_named(ping: bytes) -> None:
    async with sending(ping) as socket:
        with pytest.raises(HopFailed, match="control frame"):
            await socket.receive()
        await socket.close()


async def test_a_server_that_pings_and_reads_nothing_fills_no_memory_and_holds_up_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0.05)
    # Their Pongs are more than the buffers of both ends take.
    async with sending(frame(PING, bytes(125)) * 40_000) as socket:
        socket._writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 16)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await socket.receive()
        assert socket._writer.transport.get_write_buffer_size() < 1 << 17
        async with asyncio.timeout(5):
            await socket.close()


async def test_an_end_once_a_server_has_read_what_was_left_raises_nothing() -> None:
    async def serve(connection: Connection) -> None:
        key = (await connection.head()).partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        await connection.send(SWITCHING + accept_for(key) + b"\r\n\r\n")
        await connection.rest()

    async with listening(serve) as port:
        socket = await WebSocket.open(Target("127.0.0.1", port, f"127.0.0.1:{port}", None), "/", {})
        socket._writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, 1 << 16)
        socket._writer.write(bytes(1 << 20))
        assert socket._writer.transport.get_write_buffer_size() > 0
        await socket.close()
        assert socket._writer.transport.get_write_buffer_size() == 0


async def test_a_name_in_another_script_is_sent_as_a_browser_sends_it() -> None:
    probe = _Probe(
        parse_address("wss://m\u00fcller.example:81/x"), ProbeOptions(hop_timeout=1, answer_timeout=1), moorline=False
    )
    await probe.end()
    assert probe._origin == "https://xn--mller-kva.example:81"
