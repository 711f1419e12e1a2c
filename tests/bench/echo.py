"""The backend of a measurement, a process of its own: echoes, answers Pings, and streams where it is asked to."""

import asyncio
import sys
from typing import cast

from moorline.gateway.common.loop import run
from tests.bench.processes import commands, raise_file_limit
from tests.bench.wire import BINARY, CLOSE, PING, PONG, TEXT, Frames, accept, frame

__all__ = ["PACE", "TICK"]

TICK = 0.01
"""Seconds between two frames of a stream, each in a write of its own: slow enough that a relay meets them singly."""
PACE = 60
"""Bytes of such a frame, with its header."""

_BACKLOG = 1024


class Backend(asyncio.Protocol):
    """One connection. A text message begins or ends the stream to it; others are echoed."""

    streams: set["Backend"] = set()  # noqa: RUF012
    answers: dict[int, bytes] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self._head = b""
        self._is_open = False
        self._frames = Frames()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            head, _, data = self._head.partition(b"\r\n\r\n")
            self.transport.write(accept(head))
            self._is_open = True
        for opcode, size, payload in self._frames.receive_data(data):
            if opcode == BINARY:
                self.transport.write(self.answers.get(size) or self._answer(size))
            elif opcode == TEXT:
                self.streams.symmetric_difference_update({self})
            elif opcode == PING:
                self.transport.write(frame(PONG, payload, masked=False))
            elif opcode == CLOSE:
                self.transport.write(frame(CLOSE, payload, masked=False))
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.streams.discard(self)

    def _answer(self, size: int) -> bytes:
        return self.answers.setdefault(size, frame(BINARY, bytes(size), masked=False))


async def _stream() -> None:
    piece = frame(BINARY, bytes(PACE - 2), masked=False)
    while True:
        await asyncio.sleep(TICK)
        for connection in Backend.streams:
            connection.transport.write(piece)


async def main() -> None:
    raise_file_limit(1 << 16)
    # Several may share a port, where one is not enough.
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Backend, "127.0.0.1", port, backlog=_BACKLOG, reuse_port=True)
    streaming = asyncio.create_task(_stream())
    await commands(server.sockets[0].getsockname()[1], {})
    streaming.cancel()
    server.close()


if __name__ == "__main__":
    run(main())
