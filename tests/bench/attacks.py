"""What hostile clients, providers and files do to moorline, each as a measurement with a bound.

Every client is on this machine. The hostile ones have the address 127.0.0.1, the others one of TEST-NET-1, which they
name in X-Forwarded-For as a proxy on this machine does.
"""

import asyncio
import contextlib
import dataclasses
import multiprocessing
import os
import socket
import sqlite3
import threading
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from websockets.asyncio.client import connect

from tests.bench.services import Service
from tests.bench.usage import memory
from tests.support.odd_paths import AMBIGUOUS, OUT_OF_API
from tests.support.websocket_frames import BINARY, PING, frame

__all__ = ["ATTACKS", "Figure", "Scale"]

_MIB = 1 << 20
_KEY = b"\x01\x02\x03\x04"
_OTHER = {"X-Forwarded-For": "192.0.2.1"}
_PATIENCE = 60.0
# Between two requests of a client that is not hostile, and between two looks for room in the kernel's buffers.
_PAUSE = 0.01
_FLOOD_PAUSE = 0.001
_HANDSHAKE = (
    "GET /ws/chat/p1/{} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of each is done."""

    requests: int = 4000
    sockets: int = 3000
    messages: int = 1500
    event: int = 300 * _MIB
    bomb: int = 512 * _MIB
    flooding: int = 50
    paths: int = 588
    races: int = 2326


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """What was measured, and what it may be at most."""

    name: str
    value: float
    unit: str
    bound: float

    @property
    def holds(self) -> bool:
        return self.value <= self.bound


class Provider:
    """The model's server: counts calls, and answers each as the attack says."""

    def __init__(self) -> None:
        self.calls = 0
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] = self.silence

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        await request.read()
        return await self.answer(request)

    async def silence(self, request: web.Request) -> web.StreamResponse:
        """Nothing, until the client goes away."""
        await asyncio.Event().wait()
        raise AssertionError("it waits for ever")


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """moorline at work: a gateway before a backend before a provider."""

    folder: Path
    gateway: Service
    backend: Service
    provider: Provider

    def memory(self) -> int:
        """Bytes of both."""
        return memory(self.gateway.pid) + memory(self.backend.pid)


@contextlib.asynccontextmanager
async def _serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    app = web.Application(handler_args={"handler_cancellation": True})
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _parts(folder: Path, *options: str) -> AsyncIterator[Parts]:
    provider = Provider()
    os.makedirs(folder)
    async with _serving(provider.handle) as port:
        env = {"OPENAI_API_KEY": "any", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "MOORLINE_LOG_LEVEL": "error"}
        backend = Service("backend", folder, "backend", ["--database", f"sqlite:///{folder}/chat.db", *options], env)
        gateway = Service("gateway", folder, "gateway", ["--upstream", backend.address], env)
        try:
            await backend.start()
            await gateway.start()
            yield Parts(folder, gateway, backend, provider)
        finally:
            await asyncio.gather(gateway.kill(), backend.kill())


async def _send(http: aiohttp.ClientSession, session: str, text: str = "Hi") -> int:
    body = {"patient_id": "p1", "message": text, "client_msg_id": "c1"}
    async with http.post(f"/api/chat/{session}/messages", json=body) as answer:
        return answer.status


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


@contextlib.asynccontextmanager
async def _others(parts: Parts) -> AsyncIterator[list[float]]:
    """Another client that asks for its history again and again; how long each took."""
    took: list[float] = []

    async def ask() -> None:
        async with aiohttp.ClientSession(parts.gateway.address, headers=_OTHER) as http:
            while True:
                began = time.perf_counter()
                async with http.get("/api/chat/other/messages") as answer:
                    await answer.read()
                took.append(time.perf_counter() - began)
                await asyncio.sleep(_PAUSE)

    asking = asyncio.create_task(ask())
    try:
        yield took
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


# How much ------------------------------------------------------------------------------------------------------------


async def unread_requests(folder: Path, scale: Scale) -> Sequence[Figure]:
    """Each on a connection of its own, whose client reads nothing of a long history."""
    async with _parts(folder) as parts, contextlib.AsyncExitStack() as clients:
        async with aiohttp.ClientSession(parts.gateway.address, headers=_OTHER) as http:
            for number in range(20):
                assert await _send(http, "long" if not number else f"other{number}", "x" * 60_000) == 202
        before = parts.memory()
        async with _others(parts) as took:
            for _ in range(scale.requests):
                sock = await _open(clients, parts.gateway.port)
                sock.send(b"GET /api/chat/long/messages HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.sleep(3)
            grown = parts.memory() - before
        return [
            Figure(f"{scale.requests} unread GETs: memory", grown / _MIB, "MiB", 100),
            Figure("  others' 99th percentile meanwhile", _quantile(took, 0.99), "s", 0.5),
        ]


async def _open(clients: contextlib.AsyncExitStack, port: int) -> socket.socket:
    """A connection whose kernel takes little that is not read."""
    sock = clients.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    # Where the gateway accepts no more at the moment it lasts, and the others are measured meanwhile.
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


async def unfinished_messages(folder: Path, scale: Scale) -> Sequence[Figure]:
    """A third of a large frame on each of many sockets, then nothing."""
    data = frame(BINARY, bytes(300_000), key=_KEY)[:100_000]
    loop = asyncio.get_running_loop()
    async with _parts(folder) as parts, contextlib.AsyncExitStack() as clients:
        sockets = [await _handshaken(clients, parts, f"s{number}") for number in range(scale.sockets)]
        before = parts.memory()
        for sock in sockets:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(loop.sock_sendall(sock, data), 1)
        await asyncio.sleep(3)
        return [Figure(f"{scale.sockets} unfinished messages: memory", (parts.memory() - before) / _MIB, "MiB", 100)]


async def _handshaken(clients: contextlib.AsyncExitStack, parts: Parts, session: str) -> socket.socket:
    loop, sock = asyncio.get_running_loop(), clients.enter_context(socket.socket())
    sock.setblocking(False)
    async with asyncio.timeout(_PATIENCE):
        await loop.sock_connect(sock, ("127.0.0.1", parts.gateway.port))
        await loop.sock_sendall(sock, _HANDSHAKE.format(session).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += await loop.sock_recv(sock, 4096) or b"\r\n\r\n"
    return sock


async def model_calls(folder: Path, scale: Scale) -> Sequence[Figure]:
    """Messages to one new session after the other, each erased at once, on one connection."""
    async with _parts(folder) as parts:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(parts.gateway.address, connector=connector) as http:
            began = time.perf_counter()
            for number in range(scale.messages):
                await _send(http, f"s{number}")
                async with http.delete(f"/api/chat/s{number}", params={"patient_id": "p1"}):
                    pass
            seconds = time.perf_counter() - began
        # As many as begin at once, and then one in each second.
        return [Figure(f"{scale.messages} messages, erased: model calls", parts.provider.calls, "", 60 + seconds + 1)]


async def handshakes(folder: Path, scale: Scale) -> Sequence[Figure]:
    """Sockets that say nothing: a session begins with its first message."""
    async with _parts(folder) as parts:
        for number in range(scale.sockets):
            async with contextlib.AsyncExitStack() as client:
                await _handshaken(client, parts, f"s{number}")
        # It locks the file for itself.
        await parts.backend.kill()
        with contextlib.closing(sqlite3.connect(parts.folder / "chat.db")) as database:
            (rows,) = database.execute("SELECT count(*) FROM sessions").fetchone()
        return [Figure(f"{scale.sockets} handshakes: rows in the database", rows, "", 0)]


# What a provider sends -----------------------------------------------------------------------------------------------


async def large_event(folder: Path, scale: Scale) -> Sequence[Figure]:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        # The backend ends the connection long before.
        with contextlib.suppress(ConnectionError):
            await response.write(b"data: ")
            for _ in range(scale.event // _MIB):
                await response.write(b"x" * _MIB)
        return response

    return await _provided(folder, answer, f"an event of {scale.event // _MIB} MiB")


async def gzip_bomb(folder: Path, scale: Scale) -> Sequence[Figure]:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(_MIB)) for _ in range(scale.bomb // _MIB)) + packer.flush()

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip", "Content-Type": "text/event-stream"})

    return await _provided(folder, answer, f"gzip of {scale.bomb // _MIB} MiB")


async def _provided(
    folder: Path, answer: Callable[[web.Request], Awaitable[web.StreamResponse]], what: str
) -> Sequence[Figure]:
    """What this answer costs: memory at its most, and the database."""
    async with _parts(folder) as parts, aiohttp.ClientSession(parts.gateway.address) as http:
        parts.provider.answer = answer
        before = most = parts.memory()
        assert await _send(http, "s1") == 202
        async with asyncio.timeout(_PATIENCE):
            while len(await (await http.get("/api/chat/s1/messages")).json()) < 2:
                most = max(most, parts.memory())
                await asyncio.sleep(_PAUSE)
        size = sum(path.stat().st_size for path in parts.folder.glob("chat.db*"))
        return [
            Figure(f"{what}: memory", (most - before) / _MIB, "MiB", 32),
            Figure("  database", size / _MIB, "MiB", 8),
        ]


# Tiny pieces ---------------------------------------------------------------------------------------------------------

_CHUNKS = b"1\r\n \r\n" * 40_000
_UPLOAD = (
    b"POST /api/chat/s1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_TINY = {
    "Pings": frame(PING, b"", key=_KEY) * 40_000,
    "fragments of one byte": b"\x02\x80" + _KEY + (b"\x00\x81" + _KEY + b"a") * 40_000,
}


async def tiny_pieces(folder: Path, scale: Scale) -> Sequence[Figure]:
    """Connections that send nothing but tiny pieces, as fast as they are read, and what another one waits for."""
    found = []
    async with _parts(folder, "--max-requests-per-address=off") as parts:
        for port, part in ((parts.gateway.port, "gateway"), (parts.backend.port, "backend")):
            for what, data in (*_TINY.items(), ("chunks of one byte", _CHUNKS)):
                async with contextlib.AsyncExitStack() as clients:
                    sockets = [_flooding(clients, port, is_upload=data is _CHUNKS) for _ in range(scale.flooding)]
                    with _flood(sockets, data):
                        took = await _pings(port)
                name = f"{scale.flooding} connections of {what} at the {part}: others' 99th percentile"
                found.append(Figure(name, _quantile(took, 0.99) * 1000, "ms", 50))
    return found


def _flooding(clients: contextlib.AsyncExitStack, port: int, *, is_upload: bool) -> socket.socket:
    sock = clients.enter_context(socket.socket())
    sock.connect(("127.0.0.1", port))
    sock.sendall(_UPLOAD if is_upload else _HANDSHAKE.format("s1").encode())
    if not is_upload:
        sock.recv(4096)
    sock.setblocking(False)
    return sock


@contextlib.contextmanager
def _flood(sockets: Sequence[socket.socket], data: bytes) -> Iterator[None]:
    """Send it over and over, on each connection whatever its kernel takes; from a process of its own, since a thread
    would keep the client that is measured waiting for the interpreter."""
    process = multiprocessing.get_context("fork").Process(target=_send_on, args=(sockets, data), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _send_on(sockets: Sequence[socket.socket], data: bytes) -> None:
    left = {sock: memoryview(data) for sock in sockets}
    while left:
        time.sleep(_FLOOD_PAUSE)
        for sock in list(left):
            try:
                left[sock] = left[sock][sock.send(left[sock]) :] or memoryview(data)
            except BlockingIOError:
                continue
            except OSError:
                del left[sock]


async def _pings(port: int) -> list[float]:
    """How long a socket of another client waits for the answer to each of its messages."""
    took = []
    async with connect(
        f"ws://127.0.0.1:{port}/ws/chat/p1/other", additional_headers=_OTHER, ping_interval=None, proxy=None
    ) as other:
        for _ in range(300):
            began = time.perf_counter()
            await other.send('{"type":"ping"}')
            await other.recv()
            took.append(time.perf_counter() - began)
            await asyncio.sleep(_PAUSE)
    return took


# Paths and files -----------------------------------------------------------------------------------------------------


async def odd_paths(folder: Path, scale: Scale) -> Sequence[Figure]:
    """Spellings that a lenient backend reads as another path, by every method."""
    reached = 0

    async def backend(request: web.Request) -> web.Response:
        nonlocal reached
        reached += 1
        return web.Response()

    os.makedirs(folder)
    targets = [
        (method, target)
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "PROPFIND")
        for target in (*OUT_OF_API, *AMBIGUOUS)
    ][: scale.paths]
    async with _serving(backend) as port:
        gateway = Service("gateway", folder, "gateway", ["--upstream", f"http://127.0.0.1:{port}"], {})
        await gateway.start()
        try:
            for method, target in targets:
                reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
                writer.write(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
                await reader.read()
                writer.close()
        finally:
            await gateway.kill()
    return [Figure(f"{len(targets)} odd paths: passed to the backend", reached, "", 0)]


async def swapped_files(folder: Path, scale: Scale) -> Sequence[Figure]:
    """An asset that is a file, a link out of the folder and a FIFO in turn, while it is asked for."""
    site, secret = folder / "site", folder / "secret"
    site.mkdir(parents=True)
    secret.write_text("secret", encoding="utf-8")
    (site / "index.html").write_text("page", encoding="utf-8")
    gateway = Service("gateway", folder, "gateway", ["--frontend", str(site)], {})
    await gateway.start()
    leaked, slowest = 0, 0.0
    try:
        with _swapping(site / "app.js", secret):
            async with aiohttp.ClientSession(gateway.address) as http:
                for _ in range(scale.races):
                    began = time.perf_counter()
                    async with http.get("/app.js") as answer:
                        leaked += "secret" in await answer.text()
                    slowest = max(slowest, time.perf_counter() - began)
    finally:
        await gateway.kill()
    return [
        Figure(f"{scale.races} races with links and FIFOs: leaked", leaked, "", 0),
        Figure("  slowest answer", slowest, "s", 2),
    ]


@contextlib.contextmanager
def _swapping(path: Path, secret: Path) -> Any:
    stopped = threading.Event()
    draft = path.with_suffix(".draft")
    makers: Sequence[Callable[[], object]] = (
        lambda: draft.write_text("asset", encoding="utf-8"),
        lambda: draft.symlink_to(secret),
        lambda: os.mkfifo(draft),
    )

    def swap() -> None:
        while not stopped.wait(0.0002):
            for make in makers:
                make()
                draft.replace(path)

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


ATTACKS: Sequence[Callable[[Path, Scale], Awaitable[Sequence[Figure]]]] = (
    unread_requests,
    unfinished_messages,
    model_calls,
    handshakes,
    large_event,
    gzip_bomb,
    tiny_pieces,
    odd_paths,
    swapped_files,
)
