"""How `moorline backup` and `moorline revoke` reach the process that has locked the SQLite file: by a Unix socket.

It is beside the file. The client sends `backup` or `revoke PRINCIPAL`, and a line feed. For a revocation the server
sends `+` and its time. For a backup it sends a dot from time to time, as long as the copy is being made, and then `+`
with the descriptor of the copy. So the copy is written where the client may write, which the server perhaps must not,
and is the client's own file. Where it does neither it sends `-` and the reason.

Who may read the database may use the socket: its permissions are those of the file. Each side also asks the kernel
whose process the other is. Not every system checks the permissions of a socket; and another user with the right to
write to the folder could listen there, receive the names of revoked principals, and answer that they were revoked.
"""

import asyncio
import contextlib
import functools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, BinaryIO, TypeVar

from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.eventlog.sqlite.peer import may_use, peer_uid
from moorline.gateway.common.errors import UsageError

__all__ = ["ControlRefused", "ControlSocket", "NoServer", "complaining", "request_copy", "request_revocation"]

log = logging.getLogger("moorline.backend")

T = TypeVar("T")

_BACKUP, _REVOKE = b"backup\n", b"revoke "
_WORKING, _DONE, _FAILED = b".", b"+", b"-"
#: Between two signs of life.
_SIGN_SECONDS = 2.0
#: After so long without one the server has stopped working.
_SILENCE_SECONDS = 30.0
#: For a client to say what it wants.
_REQUEST_SECONDS = 5.0
# More than any request has: a socket that is closed before all was read resets the answer.
_REQUEST_BYTES = 4096
_BACKLOG = 8
_ACCEPT_AGAIN_SECONDS = 1.0
_ANSWER_BYTES = 4096
# Of a socket's name, with its end; the rest of a longer one stands in for its folder's descriptor.
_LONGEST_NAME = 100
# macOS has neither flag; such a longer name then has no socket, which `open` says.
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class NoServer(Exception):
    """No process of moorline has the database."""


class ControlRefused(Exception):
    """The server has the database, and did not do it: the reason."""


def control_path(database: str) -> str:
    """Where the socket of the database at `database` is."""
    return f"{os.path.realpath(database)}-control"


@contextlib.contextmanager
def _address(path: str) -> Iterator[str]:
    """`path`, or where that is too long for a socket's name another one of the same file."""
    if len(os.fsencode(path)) < _LONGEST_NAME:
        yield path
        return
    folder = os.open(os.path.dirname(path), _SEARCH)
    try:
        yield f"/proc/self/fd/{folder}/{os.path.basename(path)}"
    finally:
        os.close(folder)


# The server -----------------------------------------------------------------------------------------------------------


class ControlSocket:
    """Listens beside the database at `database`, which this process has locked.

    `copy` makes a copy of it, `revoke` revokes what a principal has and returns the time of that.
    """

    def __init__(
        self, database: str, copy: Callable[[], Awaitable[BinaryIO]], revoke: Callable[[str], Awaitable[float]]
    ) -> None:
        self._path = control_path(database)
        self._copy = copy
        self._revoke = revoke
        self._one_at_a_time = asyncio.Lock()
        self._sock: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen. Where that cannot be done there is a warning: everything but those two commands works."""
        # What is there is a dead process's: this one has the lock.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _address(self._path) as address:
                sock.bind(address)
                # By its name, as macOS refuses fchmod(2) on a socket. Until it listens no process connects.
                os.chmod(address, 0o600)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            log.warning(
                "database: moorline's backup and revoke work only while this is stopped: no socket (%s)", error.strerror
            )
            return
        self._sock = sock
        self._begin(self._accept(sock))

    async def close(self) -> None:
        """Stop listening and break off what is under way. Idempotent."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sock.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(sock)
            except OSError as error:
                # Too many open files, for example, which ends when others are closed.
                log.warning("database: a connection for moorline's backup was not accepted (%s)", error.strerror)
                await asyncio.sleep(_ACCEPT_AGAIN_SECONDS)
            else:
                self._begin(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        # A client that has ended, or takes nothing, gets no copy.
        with connection, contextlib.suppress(OSError, TimeoutError):
            await self._answer(connection)

    async def _answer(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        request = await asyncio.wait_for(loop.sock_recv(connection, _REQUEST_BYTES), _REQUEST_SECONDS)
        if not may_use(peer_uid(connection)):
            await loop.sock_sendall(connection, _FAILED + b"run this as the user that moorline runs as")
        elif request.startswith(_REVOKE) and request.endswith(b"\n"):
            await loop.sock_sendall(connection, await self._revoked(request.removeprefix(_REVOKE)[:-1]))
        elif request == _BACKUP:
            await self._send_copy(connection)
        else:
            await loop.sock_sendall(connection, _FAILED + b"the backend is of another version")

    async def _revoked(self, name: bytes) -> bytes:
        try:
            return _DONE + repr(await self._revoke(name.decode())).encode()
        except (LogUnavailable, UnicodeDecodeError) as error:
            return _FAILED + str(error).encode()[: _ANSWER_BYTES - 1]

    async def _send_copy(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        copying = asyncio.create_task(self._copy_alone())
        try:
            while not (await asyncio.wait([copying], timeout=_SIGN_SECONDS))[0]:
                await asyncio.wait_for(loop.sock_sendall(connection, _WORKING), _REQUEST_SECONDS)
            try:
                file = copying.result()
            except (LogUnavailable, OSError) as error:
                await loop.sock_sendall(connection, _FAILED + str(error).encode()[: _ANSWER_BYTES - 1])
            else:
                # One byte: there is room for it, unless the client has read nothing for hours.
                socket.send_fds(connection, [_DONE], [file.fileno()])
        finally:
            copying.add_done_callback(_close)

    async def _copy_alone(self) -> BinaryIO:
        async with self._one_at_a_time:
            return await self._copy()


def _close(copying: "asyncio.Task[BinaryIO]") -> None:
    if not copying.cancelled() and copying.exception() is None:
        copying.result().close()


# The client -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def complaining(command: str, database: str) -> Iterator[None]:
    """What the two requests below raise, but for NoServer, as one line for who gave the command."""
    try:
        yield
    except ControlRefused as error:
        raise UsageError(f'{command}: "{database}": {error}') from error
    except OSError as error:
        raise UsageError(
            f'{command}: "{database}" is in use by a process that cannot be reached ({error.strerror}); '
            "run this as the user that moorline runs as"
        ) from error


def request_copy(database: str) -> BinaryIO:
    """A copy of the database, made by the process that has locked it.

    Raises:
        NoServer: no process has.
        ControlRefused: it made none.
        PermissionError: it belongs to another user.
    """
    return _asked(database, _BACKUP, _received)


def request_revocation(database: str, name: str) -> float:
    """Have the process that has locked the database revoke what a principal has; the time of that.

    Raises:
        NoServer, ControlRefused, PermissionError: as `request_copy`.
    """

    def received(sock: socket.socket) -> float:
        answer = sock.recv(_ANSWER_BYTES)
        if not answer.startswith(_DONE):
            raise ControlRefused(answer[1:].decode("utf-8", "replace") or "the backend ended")
        return float(answer[1:])

    return _asked(database, _REVOKE + name.encode() + b"\n", received)


def _asked(database: str, request: bytes, received: Callable[[socket.socket], T]) -> T:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_SILENCE_SECONDS)
        try:
            with _address(control_path(database)) as address:
                sock.connect(address)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoServer from error
        if not may_use(uid := peer_uid(sock), os.stat(database).st_uid):
            raise ControlRefused(
                f'a process of user {uid}, who does not own the database, listens at "{control_path(database)}"; '
                "nothing was asked of it: find out which it is, and end it"
            )
        try:
            sock.sendall(request)
            return received(sock)
        except TimeoutError as error:
            raise ControlRefused(f"the backend did not answer for {_SILENCE_SECONDS:g} s") from error
        except OSError as error:
            raise ControlRefused(f"the backend broke off ({error.strerror})") from error


def _received(sock: socket.socket) -> BinaryIO:
    for data, descriptors in iter(functools.partial(_receive, sock), (b"", [])):
        answer = data.lstrip(_WORKING)
        if answer.startswith(_DONE) and descriptors:
            return os.fdopen(descriptors[0], "rb")
        if answer:
            raise ControlRefused(answer[1:].decode("utf-8", "replace"))
    raise ControlRefused("the backend ended")


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors, _, _ = socket.recv_fds(sock, _ANSWER_BYTES, 1, _CLOSED_ON_EXEC)
    return data, list(descriptors)
