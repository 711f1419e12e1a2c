"""A client or a server of `websockets`, as a process that can be stopped: `python -m tests.support.websocket_peer`.

    client URL    prints `open`, then `closed CODE REASON`
    serve HOST    prints `serving PORT`, then `closed CODE REASON` for each socket

Both answer Pings and nothing else.
"""

import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import serve


async def _wait(connection: Connection) -> None:
    await connection.wait_closed()
    print("closed", connection.close_code, connection.close_reason, flush=True)


async def _client(url: str) -> None:
    async with connect(url, ping_interval=None, proxy=None) as connection:
        print("open", flush=True)
        await _wait(connection)


async def _serve(host: str) -> None:
    async with serve(_wait, host, 0, ping_interval=None) as server:
        print("serving", next(iter(server.sockets)).getsockname()[1], flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[2]) if sys.argv[1] == "serve" else _client(sys.argv[2]))
