"""The clients of the HTTP measurement, a process of its own: each has one connection and asks again and again."""

import asyncio
from typing import cast

from moorline.gateway.common.loop import run
from tests.bench.http_messages import Messages, request
from tests.bench.load import Client, Load, exchanges
from tests.bench.processes import commands, raise_file_limit

__all__ = ["HttpLoad"]

# Of a measurement; a peer that does not answer would not end it.
_PATIENCE = 120.0


class HttpClient(Client):
    """One keep-alive connection; `size` is that of the body which each response must have."""

    size = 0

    def __init__(self) -> None:
        super().__init__()
        self._messages = Messages()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.opened.set_result(None)

    def data_received(self, data: bytes) -> None:
        for headers, size in self._messages.receive_data(data):
            if not headers.startswith(b"HTTP/1.1 200 ") or size != self.size:
                self.failed(RuntimeError(f"{size} bytes instead of {self.size} with {headers.decode()}"))
            self.on_message(self)

    def leave(self) -> None:
        self.transport.close()


class HttpLoad(Load):
    """The connections, and what to ask on them."""

    def __init__(self) -> None:
        super().__init__(HttpClient)

    async def requests(self, path: str, size: int, body: int, each: int) -> int:
        """Connections ask, wait for the whole response of `size`, and ask again, `each` times on average; how many."""
        for client in self.clients:
            cast("HttpClient", client).size = size
        last = (each - 1) * len(self.clients)
        return await exchanges(self.clients, request(path, body=body), lambda count: count <= last, patience=_PATIENCE)


async def main() -> None:
    raise_file_limit(1 << 16)
    load = HttpLoad()
    table = (load.open, load.close, load.requests)
    await commands(0, {command.__name__: command for command in table})


if __name__ == "__main__":
    run(main())
