"""The clients of a measurement, a process of its own that does what it is asked to, one thing at a time."""

import asyncio
import contextlib
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from typing import cast

from moorline.gateway.common.loop import run
from tests.bench.processes import commands, raise_file_limit
from tests.bench.wire import BINARY, CLOSE, PING, PONG, TEXT, Frames, frame, handshake

__all__ = ["Client", "Load", "exchanges"]

_ECHO = handshake("/ws/echo")
_BYE = frame(CLOSE, (1000).to_bytes(2, "big"), masked=True)
_START_OR_STOP = frame(TEXT, b"", masked=True)
# Handshakes under way at once, below every peer's backlog.
_AT_ONCE = 32
_PATIENCE = 30.0
_RETURN_PATIENCE = 120.0
# Messages before the first that counts.
_WARM_UP = 200
# With less there is no 99th percentile.
_FEWEST = 100


class Client(asyncio.Protocol):
    """One WebSocket."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.on_message: Callable[[Client], None] = lambda _: None
        self.failed: Callable[[Exception], None] = lambda _: None
        self.transport: asyncio.Transport
        self._head = b""
        self._frames = Frames()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(_ECHO)

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            head, _, data = self._head.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                self.opened.set_exception(RuntimeError(f"a handshake was refused: {head.decode()}"))
                return
            self.opened.set_result(None)
        for opcode, _, payload in self._frames.receive_data(data):
            if opcode == BINARY:
                self.on_message(self)
            elif opcode == PING:
                self.transport.write(frame(PONG, payload, masked=True))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("closed before the 101"))
        if not self.closed.done():
            self.closed.set_result(None)
        self.failed(exc or ConnectionResetError("the server closed a connection that was in use"))

    def leave(self) -> None:
        """Begin to end the connection as its protocol has it."""
        self.transport.write(_BYE)


async def exchanges(clients: Sequence[Client], message: bytes, go_on: Callable[[int], bool], *, patience: float) -> int:
    """Each client sends the message, waits for the reply, and sends it again; how many replies came.

    It ends when `go_on`, which is given that number, is false, and all replies are there.
    """
    waiting, count, over = len(clients), 0, asyncio.get_running_loop().create_future()

    def replied(client: Client) -> None:
        nonlocal waiting, count
        count += 1
        if go_on(count):
            client.transport.write(message)
            return
        waiting -= 1
        if not waiting and not over.done():
            over.set_result(None)

    def failed(error: Exception) -> None:
        if not over.done():
            over.set_exception(error)

    for client in clients:
        client.on_message, client.failed = replied, failed
        client.transport.write(message)
    await asyncio.wait_for(over, patience)
    return count


class Load:
    """The open connections, and what to do with them."""

    def __init__(self, client: Callable[[], Client] = Client) -> None:
        self._client = client
        self.clients: list[Client] = []

    async def open(self, port: int, count: int) -> int:
        """Open so many more sockets through the peer at `port`."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def one() -> Client:
            async with places, asyncio.timeout(_PATIENCE):
                client = (await asyncio.get_running_loop().create_connection(self._client, "127.0.0.1", port))[1]
                await client.opened
                return client

        self.clients += await asyncio.gather(*(one() for _ in range(count)))
        return len(self.clients)

    async def come_back(self, port: int, count: int) -> list[float]:
        """Open so many at once: seconds until all are open, of one the median and the 99th percentile; and how often
        one was turned away and dialled again, as clients do.
        """
        loop = asyncio.get_running_loop()
        began, turned_away = loop.time(), 0

        async def one() -> tuple[Client, float]:
            nonlocal turned_away
            dialled = loop.time()
            while True:
                try:
                    client = (await loop.create_connection(self._client, "127.0.0.1", port))[1]
                    await client.opened
                except OSError:
                    turned_away += 1
                else:
                    return client, loop.time() - dialled

        async with asyncio.timeout(_RETURN_PATIENCE):
            came = await asyncio.gather(*(one() for _ in range(count)))
        self.clients += [client for client, _ in came]
        quantiles = statistics.quantiles([seconds for _, seconds in came], n=100)
        return [loop.time() - began, quantiles[49], quantiles[98], turned_away]

    async def close(self) -> int:
        """End all of them as their protocol has it; how many ended by it."""
        for client in self.clients:
            if not client.transport.is_closing():
                client.leave()
        ends = [client.closed for client in self.clients]
        done, late = await asyncio.wait(ends, timeout=_PATIENCE) if ends else (set(), set())
        for client in self.clients:
            client.transport.abort()
        if late:
            await asyncio.wait(late)
        self.clients.clear()
        return len(done)

    async def alive(self) -> int:
        """How many are open."""
        return sum(not client.closed.done() for client in self.clients)

    async def round_trips(self, size: int, seconds: float) -> int:
        """Each socket sends a message, waits for the answer, and sends the next; how many came back."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        message = frame(BINARY, bytes(size), masked=True)
        return await exchanges(self.clients, message, lambda _: loop.time() < deadline, patience=seconds + _PATIENCE)

    async def listen(self, seconds: float) -> int:
        """Have the backend stream to each socket for a while; how many frames came."""
        count = 0

        def came(_: Client) -> None:
            nonlocal count
            count += 1

        for client in self.clients:
            client.on_message = came
            client.transport.write(_START_OR_STOP)
        await asyncio.sleep(seconds)
        for client in self.clients:
            client.transport.write(_START_OR_STOP)
        # What is under way arrives.
        await asyncio.sleep(0.2)
        return count

    async def latency(self, port: int, seconds: float, size: int) -> list[float]:
        """One message at a time on one blocking socket: median and 99th percentile, in seconds."""
        message = frame(BINARY, bytes(size), masked=True)
        answer_size = len(frame(BINARY, bytes(size), masked=False))
        times: list[float] = []
        with contextlib.closing(socket.create_connection(("127.0.0.1", port), _PATIENCE)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(_ECHO)
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(4096)
            deadline = time.perf_counter() + seconds
            while len(times) < _WARM_UP + _FEWEST or time.perf_counter() < deadline:
                before = time.perf_counter()
                sock.sendall(message)
                left = answer_size
                while left:
                    left -= len(sock.recv(left))
                times.append(time.perf_counter() - before)
        quantiles = statistics.quantiles(times[_WARM_UP:], n=100)
        return [quantiles[49], quantiles[98]]


async def main() -> None:
    raise_file_limit(1 << 16)
    load = Load()
    table = (load.open, load.come_back, load.close, load.alive, load.round_trips, load.listen, load.latency)
    await commands(0, {command.__name__: command for command in table})


if __name__ == "__main__":
    run(main())
