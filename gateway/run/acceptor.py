"""Connections on their way from the process that accepts them to the workers that serve them.

Over a socket pair the acceptor sends one byte with each connection's descriptor, and the worker answers a byte for each
that it took and another when it is closed. So the acceptor knows how many each worker has. It keeps its own copy of a
connection until it is taken: what a dying worker had not taken goes to another, and no client notices.

The same socket pair introduces the old worker and the new one to each other, where the new one takes the old one's
tunnels over (`proxy/handover.py`): each gets one end of a socket pair between them. The old one tells when it has given
all that can go, or that it could not.
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
_SUCCESSOR = b"s"
_SUCCESSOR_IN_COUNTS = b"n"
_PREDECESSOR = b"p"
_OTHER_PREDECESSOR = b"o"
_HANDED_OVER = b"d"
_FAILED = b"f"
_ADOPTED = b"a"
_STOP = b"x"
_FINISHED = b"z"

# A worker that hangs gets no more than this many before others get all. The kernel has room for 277 on Linux.
_MOST_UNTAKEN = 64
# Accepted, or taken, in one turn of the loop.
_BURST = 64
_MESSAGE_BYTES = 4096
# For connections that come while each worker drains: the next life of one begins when it has ended. Behind that they
# have a 503 instead of silence. As long as a handshake waits for an upstream by default.
_PATIENCE_SECONDS = 10.0
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
        self.is_ready = False
        """Whether the worker is ready, and has not ended."""
        self.connections = 0
        """Given and not closed."""
        self.is_leaving = False
        """Whether it drains: what comes is for other workers, or for its next life."""
        self.is_retired = False
        """Whether it gets no new connection any more."""
        self.turn = 0
        self.finished = asyncio.Event()
        """Set when the worker has been stopped and has answered what it was given, or has ended."""
        self._handed_over: asyncio.Future[bool] | None = None
        # What the worker is to be told beside its connections, each with a socket; mostly none.
        self._untold: deque[tuple[bytes, socket.socket | None]] = deque()

    def fileno(self) -> int:
        """The worker's end, for it to inherit."""
        return self._theirs.fileno()

    def open(self) -> None:
        """The worker is ready."""
        self.is_ready = True
        asyncio.get_running_loop().add_reader(self._ours, self._receive)

    def on_message(self, callback: Callable[[], None]) -> None:
        """Call it when the worker may have become free for more."""
        self._on_message = callback

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

    async def hand_over(self, sock: socket.socket, *, only_counts: bool) -> bool:
        """Have the worker give its tunnels, or its counts alone, to the process behind `sock`; whether it has given all
        that can go."""
        self.is_retired = True
        self._handed_over = asyncio.get_running_loop().create_future()
        self._tell(_SUCCESSOR_IN_COUNTS if only_counts else _SUCCESSOR, sock)
        return await self._handed_over

    def take_over(self, sock: socket.socket, *, is_same_place: bool) -> None:
        """Have the worker take the tunnels of the process behind `sock`, and its counts where it had the same place."""
        self._tell(_PREDECESSOR if is_same_place else _OTHER_PREDECESSOR, sock)

    def stop(self) -> None:
        """Nothing is given any more, and what was given has to be handled before the worker drains."""
        self._tell(_STOP)

    def _tell(self, message: bytes, sock: socket.socket | None = None) -> None:
        self._untold.append((message, sock))
        self._flush()

    def _flush(self) -> None:
        while self._untold:
            message, sock = self._untold[0]
            try:
                socket.send_fds(self._ours, [message], [] if sock is None else [sock.fileno()])
            except BlockingIOError:
                # It has not read what it was given. It answers each of these, and is told then.
                return
            except ConnectionError:
                # It has ended, and this channel is closed next.
                return
            except OSError as error:
                if self._ours.fileno() != -1:
                    # The system has no descriptor left for it.
                    log.error("a worker cannot take part in the reload: %s", error.strerror)
                if message in (_SUCCESSOR, _SUCCESSOR_IN_COUNTS):
                    self._end_hand_over(done=False)
            self._untold.popleft()
            if sock is not None:
                # The close of the last copy tells the process behind it.
                sock.close()

    def close(self) -> Sequence[socket.socket]:
        """Give no more; what was not taken."""
        self.is_ready = False
        self.finished.set()
        self._end_hand_over(done=False)
        for _, sock in self._untold:
            if sock is not None:
                sock.close()
        self._untold.clear()
        asyncio.get_running_loop().remove_reader(self._ours)
        self._ours.close()
        self._theirs.close()
        return self._untaken

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            messages = self._ours.recv(_MESSAGE_BYTES)
            for _ in range(messages.count(_TAKEN)):
                self._untaken.popleft().close()
            self.connections += messages.count(_ADOPTED) - messages.count(_CLOSED)
            self.is_leaving = self.is_leaving or _LEAVING in messages
            if _FINISHED in messages:
                self.finished.set()
            if _HANDED_OVER in messages or _FAILED in messages:
                self._end_hand_over(done=_HANDED_OVER in messages)
            self._flush()
            self._on_message()

    def _end_hand_over(self, *, done: bool) -> None:
        if self._handed_over is not None and not self._handed_over.done():
            self._handed_over.set_result(done)


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
        # Whether workers that drain get what comes, and until when it waits for others.
        self._serves_leaving = False
        self._patience: asyncio.TimerHandle | None = None
        self._is_ending = False

    def add(self, channel: WorkerChannel) -> None:
        """A worker is ready."""
        self._be_patient()
        self._channels.append(channel)
        if not channel.is_ready:
            channel.open()
        channel.on_message(self._serve)
        self._serve()

    def remove(self, channel: WorkerChannel) -> None:
        """The worker has ended, or did not start; what it did not take goes to others."""
        if channel in self._channels:
            self._channels.remove(channel)
        self._waiting.extend(channel.close())
        self._serve()

    def end(self) -> None:
        """All workers drain for good: what comes is answered by them."""
        self._is_ending = True
        self._serve_leaving()

    def close(self) -> None:
        self._pause()
        self._be_patient()
        if self._retry is not None:
            self._retry.cancel()
        for sock in (*self._waiting, *self._sockets):
            sock.close()
        # A worker that becomes ready, or ends, calls `_serve` all the same.
        self._waiting.clear()
        self._sockets = ()

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
                log.error("cannot accept: %s; trying again in %gs; see ulimit -n", error.strerror, _RETRY_SECONDS)
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
        free = [channel for channel in self._channels if not (channel.is_full or channel.is_retired)]
        best = min(free, key=lambda channel: (channel.is_leaving, channel.connections, channel.turn), default=None)
        if best is not None and not best.is_leaving:
            # It was full for a moment, for example: what comes does not wait for the next life of another.
            self._be_patient()
            return best
        if best is None or self._serves_leaving:
            return best
        if self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(_PATIENCE_SECONDS, self._serve_leaving)
        return None

    def _serve_leaving(self) -> None:
        self._serves_leaving = True
        self._serve()

    def _be_patient(self) -> None:
        self._serves_leaving = self._is_ending
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give(self, channel: WorkerChannel, connection: socket.socket) -> None:
        self._turns += 1
        channel.turn = self._turns
        channel.give(connection)


class WorkerListener:
    """The `Listener` of a worker, which has no listening socket itself."""

    addresses: tuple[str, ...] = ()
    port = 0
    closed = False

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.on_successor: Callable[[socket.socket, bool], None] | None = None
        """Called with a connection to the process that is to take this one's tunnels, and whether it is to have its
        counts alone."""
        self.on_predecessor: Callable[[socket.socket, bool], None] | None = None
        """Called with a connection to a process whose tunnels are to be taken, and whether it had the same place."""
        self.on_stop: Callable[[], None] | None = None
        """Called once nothing is given any more, and this process is about to end."""
        self._connection: Callable[[], asyncio.Protocol] | None = None
        self._opening: set[asyncio.Task[None]] = set()
        # Two bytes for each connection at most; an acceptor that is stopped gives no more of them.
        self._outbox = bytearray()

    async def open(self, connection: Callable[[], asyncio.Protocol]) -> None:
        self._connection = connection
        self._loop.add_reader(self._sock, self._arrive)

    @property
    def opening(self) -> int:
        """See `Listener`."""
        return len(self._opening)

    def leave(self) -> None:
        """Have the acceptor prefer others from now on. What it has sent is received first: its stop, for one."""
        while not self.closed and self._arrive():
            pass
        self._send(_LEAVING)

    def handed_over(self, *, done: bool) -> None:
        """Tell whether all tunnels that can go have gone."""
        self._send(_HANDED_OVER if done else _FAILED)

    def finished(self) -> None:
        """Tell that what was given before the stop has been answered."""
        self._send(_FINISHED)

    def connection(self, descriptor: int) -> socket.socket:
        """A client's connection that came from another process: it counts as one that the acceptor gave."""
        self._send(_ADOPTED)
        return _Connection(descriptor, self._send)

    def close(self) -> None:
        self.closed = True
        self._loop.remove_reader(self._sock)

    def _arrive(self) -> bool:
        """Receive what was given; whether more may be there."""
        for _ in range(_BURST):
            try:
                given, descriptors, _, _ = socket.recv_fds(self._sock, 1, 1, _CLOSED_ON_EXEC)
            except BlockingIOError:
                return False
            except OSError:
                given = b""
            if not given:
                # The acceptor has ended. The supervisor, in the same process, ends this worker.
                self.close()
                return False
            if given in (_SUCCESSOR, _SUCCESSOR_IN_COUNTS, _PREDECESSOR, _OTHER_PREDECESSOR):
                self._introduce(given, descriptors)
                continue
            if given == _STOP:
                if self.on_stop is not None:
                    self.on_stop()
                return False
            # Before a byte of it is read: from here on no other worker can serve it.
            self._send(_TAKEN)
            if not descriptors:
                # No descriptor is left. Open connections are served on, and this client gets a reset.
                self._send(_CLOSED)
                continue
            task = self._loop.create_task(self._accept(_Connection(descriptors[0], self._send)))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        return True

    def _introduce(self, given: bytes, descriptors: Sequence[int]) -> None:
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            if given in (_SUCCESSOR, _SUCCESSOR_IN_COUNTS):
                callback, argument = self.on_successor, given == _SUCCESSOR_IN_COUNTS
            else:
                callback, argument = self.on_predecessor, given == _PREDECESSOR
            if callback is None:
                sock.close()
            else:
                callback(sock, argument)

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
