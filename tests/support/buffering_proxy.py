"""A proxy that buffers frames, as a process: `python -m tests.support.buffering_proxy HOST PORT SIZE SECONDS`.

Whatever the server sends behind a 101 passes once SIZE bytes of it have come, or SECONDS after the first of them. All
else passes as it comes. It shares no code with the product, and prints `passing http://HOST:PORT`.
"""

import asyncio
import contextlib
import sys
from asyncio import StreamReader, StreamWriter

_HOST = "127.0.0.1"
_READ = 1 << 16


async def _pass(source: StreamReader, to: StreamWriter) -> None:
    while data := await source.read(_READ):
        to.write(data)
        await to.drain()
    to.close()


async def _buffer(source: StreamReader, to: StreamWriter, size: int, seconds: float) -> None:
    head = await source.readuntil(b"\r\n\r\n")
    to.write(head)
    if head.split(b" ", 2)[1] != b"101":
        await _pass(source, to)
    while first := await source.read(size):
        kept = first
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(kept) < size and (data := await source.read(size - len(kept))):
                    kept += data
        to.write(kept)
        await to.drain()
    to.close()


async def _main(host: str, port: int, size: int, seconds: float) -> None:
    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(host, port)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await asyncio.gather(_pass(reader, to_server), _buffer(from_server, writer, size, seconds))
        for each in (writer, to_server):
            each.close()

    server = await asyncio.start_server(serve, _HOST, 0)
    print(f"passing http://{_HOST}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
