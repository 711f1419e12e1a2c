"""Connections on their way from the process that accepts them to the workers that serve them.

Over a socket pair the acceptor sends one byte with each connection's descriptor, and the worker answers a byte for each
that it took and another when it is closed. So the acceptor knows how many each worker has. It keeps its own copy of a
connection until it is taken: what a dying worker had not taken goes to another, and no client notices.

The descriptors pass by SCM_RIGHTS. For spreading connections alone SO_REUSEPORT would do with less code, if not as
evenly (`workers.py`); a process that hands live tunnels to its successor needs SCM_RIGHTS in any case.
"""

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence

from moorline.gateway.common.web.listen import address

__all__ = ["Acceptor", "WorkerChannel", "WorkerListener"]

log = logging.getLogger("moorline.gateway")

_GIVEN = b"g"
_TAKEN = b"t"
_CLOSED = b"c"
_LEAVING = b"l"

# A worker that hangs gets no more than this many before others get all. The kernel has room for 277 on Linux.
_MOST_UNTAKEN = 64
# Accepted, or taken, in one turn of the loop.
_BURST = 64
_MESSAGE_BYTES = 4096
# asyncio's own pause where the system can open no more files.
_RETRY_SECONDS = 1.0
# macOS has no such flag, and a worker starts no programs.
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class WorkerChannel:
    """The socket pair to one life of a worker, at the acceptor's end."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._untaken: deque[socket.socket] = deque()
        self._on_message: Callable[[], None] = lambda: None
        self.connections = 0
        """Given and not closed."""
        self.is_leaving = False
        """Whether it drains: it gets a new connection only where no other worker can take it."""
        self.turn = 0

    def fileno(self) -> int:
        """The worker's end, for it to inherit."""
        return self._theirs.fileno()

    def open(self, on_message: Callable[[], None]) -> None:
        """The worker is ready. `on_message`: it may have become free for more."""
        self._on_message = on_message
        asyncio.get_running_loop().add_reader(self._ours, self._receive)

    @property
    def is_full(self) -> bool:
        return len(self._untaken) >= _MOST_UNTAKEN

    def give(self, connection: socket.socket) -> None:
        """Hand it over. When this channel is closed it is the worker's, or back."""
        try:
            socket.send_fds(self._ours, [_GIVEN], [connection.fileno()])
        except OSError:
            # The system's limit on descriptors under way. One connection is lost, as it is where no file can be opened.
            connection.close()
            return
        self.connections += 1
        self._untaken.append(connection)

    def close(self) -> Sequence[socket.socket]:
        """Give no more; what was not taken."""
        asyncio.get_running_loop().remove_reader(self._ours)
        self._ours.close()
        self._theirs.close()
        return self._untaken

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            messages = self._ours.recv(_MESSAGE_BYTES)
            for _ in range(messages.count(_TAKEN)):
                self._untaken.popleft().close()
            self.connections -= messages.count(_CLOSED)
            self.is_leaving = self.is_leaving or _LEAVING in messages
            self._on_message()


class Acceptor:
    """Accepts connections, each for the worker that has the fewest; of equals, for the one whose last turn is longest
    ago. While no worker can take one they wait in the listening sockets' queues.
    """

    def __init__(self, sockets: Sequence[socket.socket], *, scheme: str = "http") -> None:
        self.addresses = tuple(address(sock, scheme) for sock in sockets)
        self._sockets = sockets
        self._channels: list[WorkerChannel] = []
        # Connections that came back while no other worker was ready.
        self._waiting: deque[socket.socket] = deque()
        self._turns = 0
        self._is_accepting = False
        self._retry: asyncio.TimerHandle | None = None

    def add(self, channel: WorkerChannel) -> None:
        """A worker is ready."""
        self._channels.append(channel)
        channel.open(self._serve)
        self._serve()

    def remove(self, channel: WorkerChannel) -> None:
        """The worker has ended, or did not start; what it did not take goes to others."""
        if channel in self._channels:
            self._channels.remove(channel)
        self._waiting.extend(channel.close())
        self._serve()

    def close(self) -> None:
        self._pause()
        if self._retry is not None:
            self._retry.cancel()
        for sock in (*self._waiting, *self._sockets):
            sock.close()

    def _serve(self) -> None:
        """Go on, now that a worker may have room."""
        while self._waiting and (channel := self._next()) is not None:
            self._give(channel, self._waiting.popleft())
        if not self._is_accepting and self._retry is None and self._next() is not None:
            self._is_accepting = True
            for sock in self._sockets:
                asyncio.get_running_loop().add_reader(sock, self._arrive, sock)

    def _arrive(self, listener: socket.socket) -> None:
        for _ in range(_BURST):
            channel = self._next()
            if channel is None:
                self._pause()
                return
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                # The client did not wait.
                continue
            except OSError as error:
                log.error("cannot accept: %s; trying again in %gs", error.strerror, _RETRY_SECONDS)
                self._pause()
                self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._try_again)
                return
            self._give(channel, connection)

    def _pause(self) -> None:
        if self._is_accepting:
            self._is_accepting = False
            for sock in self._sockets:
                asyncio.get_running_loop().remove_reader(sock)

    def _try_again(self) -> None:
        self._retry = None
        self._serve()

    def _next(self) -> WorkerChannel | None:
        """The channel for the next connection; None while no worker can take one."""
        free = [channel for channel in self._channels if not channel.is_full]
        return min(free, key=lambda channel: (channel.is_leaving, channel.connections, channel.turn), default=None)

    def _give(self, channel: WorkerChannel, connection: socket.socket) -> None:
        self._turns += 1
        channel.turn = self._turns
        channel.give(connection)


class WorkerListener:
    """The `Listener` of a worker, which has no listening socket itself."""

    addresses: tuple[str, ...] = ()
    port = 0

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._connection: Callable[[], asyncio.Protocol] | None = None
        self._opening: set[asyncio.Task[None]] = set()
        # Two bytes for each connection at most; an acceptor that is stopped gives no more of them.
        self._outbox = bytearray()

    async def open(self, connection: Callable[[], asyncio.Protocol]) -> None:
        self._connection = connection
        self._loop.add_reader(self._sock, self._arrive)

    def leave(self) -> None:
        """Have the acceptor prefer others from now on."""
        self._send(_LEAVING)

    def close(self) -> None:
        self._loop.remove_reader(self._sock)

    def _arrive(self) -> None:
        for _ in range(_BURST):
            try:
                given, descriptors, _, _ = socket.recv_fds(self._sock, 1, 1, _CLOSED_ON_EXEC)
            except BlockingIOError:
                return
            except OSError:
                given = b""
            if not given:
                # The acceptor has ended. The supervisor, in the same process, ends this worker.
                self.close()
                return
            # Before a byte of it is read: from here on no other worker can serve it.
            self._send(_TAKEN)
            if not descriptors:
                # No descriptor is left. Open connections are served on, and this client gets a reset.
                self._send(_CLOSED)
                continue
            task = self._loop.create_task(self._accept(_Connection(descriptors[0], self._send)))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _accept(self, connection: socket.socket) -> None:
        assert self._connection is not None
        try:
            await self._loop.connect_accepted_socket(self._connection, connection)
        except OSError:
            # It was reset on its way here.
            connection.close()

    def _send(self, message: bytes) -> None:
        self._outbox += message
        if len(self._outbox) == len(message):
            self._flush()

    def _flush(self) -> None:
        try:
            del self._outbox[: self._sock.send(self._outbox)]
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
            return
        except OSError:
            # The acceptor has ended.
            self._outbox.clear()
        self._loop.remove_writer(self._sock)


class _Connection(socket.socket):
    """A socket that reports when it is closed, by whichever protocol has it then."""

    __slots__ = ("_send_closed",)

    def __init__(self, descriptor: int, send: Callable[[bytes], None]) -> None:
        super().__init__(fileno=descriptor)
        self.setblocking(False)
        self._send_closed: Callable[[bytes], None] | None = send

    def close(self) -> None:
        super().close()
        self._closed_now()

    def detach(self) -> int:
        """uvloop closes the descriptor itself and takes it away from here."""
        descriptor = super().detach()
        self._closed_now()
        return descriptor

    def _closed_now(self) -> None:
        if self._send_closed is not None:
            self._send_closed(_CLOSED)
            self._send_closed = None
