"""The upstream of the HTTP measurement, a process of its own: `/api/SIZE` is answered with a body of that size."""

import asyncio
import re
from typing import cast

from moorline.gateway.common.loop import run
from tests.bench.http_messages import Messages
from tests.bench.processes import commands

__all__ = ["Responder"]

_BACKLOG = 1024
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Responder(asyncio.Protocol):
    """One connection, kept open unless the request says otherwise."""

    responses: dict[bytes, bytes] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self._messages = Messages()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for headers, _ in self._messages.receive_data(data):
            path = headers.split(b" ", 2)[1]
            self._transport.write(self.responses.get(path) or self._response(path))
            if _CLOSE.search(headers):
                self._transport.close()

    def _response(self, path: bytes) -> bytes:
        size = int(path.rpartition(b"/")[2])
        headers = (
            "HTTP/1.1 200 OK\r\nServer: responder\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
            f"Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
        )
        return self.responses.setdefault(path, headers.encode() + b"x" * size)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Responder, "127.0.0.1", 0, backlog=_BACKLOG)
    await commands(server.sockets[0].getsockname()[1], {})
    server.close()


if __name__ == "__main__":
    run(main())
