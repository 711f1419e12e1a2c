"""asyncio_relay PORT BACKEND_PORT: relays TCP on loopback with two of asyncio's protocols, and looks at no byte.

The least that a relay in Python can do, on the loop that the gateway has: what it costs beside the relay in C is the
event loop's and the interpreter's, and what the gateway costs beside it is the gateway's. What a side does not take is
kept by its transport. The end of one side ends the other.
"""

import asyncio
import sys
from collections.abc import Callable
from typing import cast

from moorline.gateway.common.loop import run

_BACKLOG = 1024
_UPSTREAM = ("127.0.0.1", int(sys.argv[2])) if len(sys.argv) > 2 else ("", 0)


class _Side(asyncio.Protocol):
    """One connection; `write` takes what comes from it."""

    def __init__(self, other: "_Side | None" = None) -> None:
        self.other = other
        self.early: list[bytes] = []
        self.write: Callable[[bytes], None] = self.early.append
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if (client := self.other) is None:
            self._dialling = asyncio.get_running_loop().create_task(self._dial())
        else:
            client.write, self.write = self.transport.write, client.transport.write
            self.transport.writelines(client.early)

    async def _dial(self) -> None:
        upstream = _Side(self)
        try:
            await asyncio.get_running_loop().create_connection(lambda: upstream, *_UPSTREAM)
        except OSError:
            self.transport.abort()
        else:
            self.other = upstream

    def data_received(self, data: bytes) -> None:
        self.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None:
            self.other.transport.close()
            self.other = None


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(_Side, "127.0.0.1", int(sys.argv[1]), backlog=_BACKLOG)
    await server.serve_forever()


if __name__ == "__main__":
    run(main())
