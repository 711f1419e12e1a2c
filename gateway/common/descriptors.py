"""Messages with file descriptors between two processes, over a Unix stream socket (SCM_RIGHTS).

    4 bytes      length of the payload
    the payload  as it is

A message's descriptors travel with its first byte, and no read of the kernel's crosses into a message with others. What
was sent and not received when the sender dies is received all the same.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from types import TracebackType

__all__ = ["DescriptorChannel"]

_LENGTH = 4
# Far more than a tunnel's unsent bytes.
_LONGEST = 64 << 20
_MOST_DESCRIPTORS = 4
# macOS has no such flag.
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class DescriptorChannel:
    """One end, which closes `sock`. One task sends and one receives."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> "DescriptorChannel":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._sock.close()

    async def send(self, payload: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send it. The descriptors may be closed as soon as this returns.

        Raises:
            OSError: the other end is gone, or too many descriptors are under way.
        """
        message = len(payload).to_bytes(_LENGTH, "big") + payload
        while True:
            try:
                sent = socket.send_fds(self._sock, [message], descriptors)
                break
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
        if sent < len(message):
            # A cancellation here leaves a message that the other end never has whole; without the rest there is none.
            await self._loop.sock_sendall(self._sock, message[sent:])

    def finish(self) -> None:
        """Send nothing more: the other end receives what it was sent whole, and then the end."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    async def receive(self) -> tuple[bytes, list[int]] | None:
        """The next message, and its descriptors, which are the caller's to close; None at the end.

        Raises:
            OSError: the connection broke off within a message.
        """
        header, descriptors = b"", list[int]()
        try:
            while len(header) < _LENGTH:
                try:
                    data, received, _, _ = socket.recv_fds(
                        self._sock, _LENGTH - len(header), _MOST_DESCRIPTORS, _CLOSED_ON_EXEC
                    )
                except BlockingIOError:
                    await self._ready(self._loop.add_reader, self._loop.remove_reader)
                    continue
                descriptors += received
                header += data
                if not data:
                    if header:
                        raise ConnectionResetError("ended within a message")
                    return None
            return await self._payload(int.from_bytes(header, "big")), descriptors
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    async def _payload(self, size: int) -> bytes:
        if size > _LONGEST:
            raise ConnectionResetError("a message that is too long")
        payload = bytearray()
        while len(payload) < size:
            try:
                # It is mostly here, and uvloop's call would wait for the next iteration.
                data = self._sock.recv(size - len(payload))
            except BlockingIOError:
                data = await self._loop.sock_recv(self._sock, size - len(payload))
            if not data:
                raise ConnectionResetError("ended within a message")
            payload += data
        return bytes(payload)

    async def _ready(self, add: Callable[..., None], remove: Callable[[socket.socket], bool]) -> None:
        ready = asyncio.Event()
        add(self._sock, ready.set)
        try:
            await ready.wait()
        finally:
            remove(self._sock)
