"""An upstream with faults on demand, and peers that read and write only when a test says so.

One fault for every connection, where the test is about what the client gets:

    async with faulty_upstream(Fault.RESET) as port:
        ...

Or each connection by hand, where it is about bytes and their order:

    async with Upstream() as upstream, dial(gateway_port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(SWITCH)
        backend.reset()
"""

import asyncio
import contextlib
import enum
import socket
import struct
from collections.abc import AsyncIterator
from typing import Self

from tests.support.faults import faulted

__all__ = [
    "HANDSHAKE",
    "REFUSAL",
    "STEP",
    "SWITCH",
    "UNFINISHED",
    "Fault",
    "Peer",
    "Upstream",
    "accepted",
    "dial",
    "echoing_in_pieces",
    "faulty_upstream",
    "handshake",
    "held_handshakes",
]

STEP = 10.0
"""Longest wait of a test for one thing; reached only when it fails."""
# So many attempts to send, 10 ms apart, take longer than anything that is not a stall. Attempts and no time: while the
# process waits for a processor nothing is taken, either.
_STALLED = 30

SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nnever"


def handshake(target: str = "/ws/chat/p/s", *lines: str) -> bytes:
    """A client's handshake, with more header lines if wanted."""
    head = (
        f"GET {target} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *lines,
    )
    return "".join(f"{line}\r\n" for line in (*head, "")).encode()


HANDSHAKE = handshake()

UNFINISHED = (
    b"POST /api/chat/s/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
)
"""A request without its body; the answer shows that it is being handled."""


class Peer:
    """One end of a TCP connection. Nothing is read, not even by the loop, before a test asks for it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._unread = b""
        self.request = b""
        """What an accepted connection began with, up to and with the empty line."""

    async def send(self, data: bytes) -> None:
        """Send all of it; waits as long as the other end does not read, which is the test's to bound."""
        await self._loop.sock_sendall(self._sock, data)

    async def send_to(self, other: "Peer", data: bytes) -> bytes:
        """What `other` receives of it, while it is sent: what lies between need not hold it."""
        _, received = await asyncio.gather(self.send(data), other.exactly(len(data)))
        return received

    async def send_in_pieces(self, data: bytes, size: int = 1) -> None:
        """Each piece a segment of its own, and each gets its chance to arrive alone."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await asyncio.sleep(0)

    def send_now(self, data: bytes | memoryview) -> int:
        """Send what the kernel takes at once; how much that is."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def send_until_stalled(self, data: bytes) -> tuple[int, float]:
        """Send this over and over until nothing is taken for a while: how many bytes were taken, and when the last."""
        rest, sent, refused = memoryview(data), 0, 0
        last = self._loop.time()
        while refused < _STALLED:
            if taken := self.send_now(rest):
                rest = rest[taken:] or memoryview(data)
                sent += taken
                last = self._loop.time()
            refused = 0 if taken else refused + 1
            await asyncio.sleep(0 if taken else 0.01)  # no event tells of a window that stays closed
        return sent, last

    async def head(self) -> bytes:
        """Up to and with the empty line."""
        return await self.until(b"\r\n\r\n")

    async def until(self, end: bytes) -> bytes:
        """Up to and with `end`."""
        while end not in self._unread:
            await self._more()
        data, _, self._unread = self._unread.partition(end)
        return data + end

    async def exactly(self, size: int) -> bytes:
        parts, missing = [self._unread], size - len(self._unread)
        self._unread = b""
        while missing > 0:
            parts.append(await self._receive())
            if not parts[-1]:
                raise EOFError(f"{missing} bytes are missing")
            missing -= len(parts[-1])
        data = b"".join(parts)
        self._unread = data[size:]
        return data[:size]

    async def rest(self) -> bytes:
        """Everything up to the FIN.

        Raises:
            ConnectionResetError: it ends with RST.
        """
        parts, self._unread = [self._unread], b""
        while part := await self._receive():
            parts.append(part)
        return b"".join(parts)

    async def end(self) -> tuple[bytes, str]:
        """What comes up to the end, and how that comes: `FIN` or `RST`."""
        data, self._unread = bytearray(self._unread), b""
        try:
            while part := await self._receive():
                data += part
        except ConnectionError:
            return bytes(data), "RST"
        return bytes(data), "FIN"

    async def ended(self) -> bool:
        """Wait for the other end's end, in any way."""
        with contextlib.suppress(ConnectionError):
            await self.rest()
        return True

    def fin(self) -> None:
        """End this half; the other may go on."""
        self._sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with RST."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def close(self) -> None:
        """FIN; the kernel answers anything that comes afterwards with RST."""
        self._sock.close()

    async def _more(self) -> None:
        part = await self._receive()
        if not part:
            raise EOFError(self._unread)
        self._unread += part

    async def _receive(self) -> bytes:
        async with asyncio.timeout(STEP):
            return await self._loop.sock_recv(self._sock, 1 << 18)


class Upstream:
    """A listener whose connections a test plays by hand. They end with it."""

    def __init__(self, *, receive_buffer: int | None = None) -> None:
        self._listener = socket.socket()
        if receive_buffer is not None:
            # Before listening: accepted sockets inherit it, and with it the window that they offer.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._peers: list[Peer] = []

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    async def __aenter__(self) -> Self:
        self._listener.listen(1024)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for peer in self._peers:
            peer.close()

    async def accept(self) -> Peer:
        """The next connection, with the head of its request read."""
        peer = await self.accept_silently()
        peer.request = await peer.head()
        return peer

    async def accept_silently(self) -> Peer:
        """The next connection, with nothing read."""
        async with asyncio.timeout(STEP):
            sock, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers.append(Peer(sock))
        return self._peers[-1]


@contextlib.asynccontextmanager
async def dial(port: int, *, receive_buffer: int | None = None) -> AsyncIterator[Peer]:
    """A client; it ends with the block."""
    sock = socket.socket()
    sock.setblocking(False)
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        yield Peer(sock)
    finally:
        sock.close()


# One fault for all ----------------------------------------------------------------------------------------------------


class Fault(enum.Enum):
    """By name in the catalogue."""

    REFUSE = "refuse"
    SILENT = "silent"
    CLOSE = "fin_handshake"
    RESET = "reset_handshake"
    NOT_HTTP = "not_http"
    HALF_HEADERS = "half_headers"
    SLOW_HEADERS = "slow_headers"


@contextlib.asynccontextmanager
async def faulty_upstream(fault: Fault) -> AsyncIterator[int]:
    """An upstream that does this to every client; yields its port."""
    async with Upstream() as upstream, faulted(f"http://127.0.0.1:{upstream.port}", fault.value) as url:
        yield int(url.rpartition(":")[2])


@contextlib.asynccontextmanager
async def echoing_in_pieces() -> AsyncIterator[int]:
    """An upstream that takes each handshake and echoes, byte by byte; yields its port."""
    async with Upstream() as upstream:
        serving = asyncio.create_task(_echo_all(upstream))
        try:
            yield upstream.port
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def _echo_all(upstream: Upstream) -> None:
    async with asyncio.TaskGroup() as tasks:
        while True:
            with contextlib.suppress(TimeoutError):
                tasks.create_task(_echo(await upstream.accept()))


async def _echo(peer: Peer) -> None:
    with contextlib.suppress(ConnectionError, EOFError, TimeoutError):
        await peer.send_in_pieces(SWITCH)
        while True:
            await peer.send_in_pieces(await peer.exactly(1))


@contextlib.asynccontextmanager
async def held_handshakes(port: int, upstream: Upstream, count: int) -> AsyncIterator[list[tuple[Peer, Peer]]]:
    """Handshakes of so many clients of a gateway at this port that the upstream has not answered: both ends of each."""
    async with contextlib.AsyncExitStack() as stack:
        held = []
        for _ in range(count):
            client = await stack.enter_async_context(dial(port))
            await client.send(HANDSHAKE)
            held.append((client, await upstream.accept()))
        yield held


async def accepted(held: list[tuple[Peer, Peer]]) -> bool:
    """Answer all of them with 101; whether each client has that."""
    for _, peer in held:
        await peer.send(SWITCH)
    return all([(await client.head()).startswith(b"HTTP/1.1 101 ") for client, _ in held])
