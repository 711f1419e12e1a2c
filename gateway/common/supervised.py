"""A process that another process of moorline started and keeps alive: see `gateway/run/supervisor.py`.

Both are joined by a socket pair. The parent sends one message, the settings; the child answers with one line of JSON
once it is ready, and with another when what it reported has changed. As long as its event loop runs the child sends
empty lines, `BEATS` of them within the `watchdog` of the message, or within its `start_timeout` if that is shorter.

When the parent closes its end, or is killed, the child ends at once. A thread sees to it that it does, as the event
loop of a child may hang. Linux's parent-death signal, which the kernel sends by itself, would leave a child no moment
to close its sockets in order, and a signal that can be handled needs the interpreter as the thread does. What holds
the interpreter's lock for ever, and a process that is stopped, are left: the parent, while it lives, kills both.

Settings do not come as arguments or variables: those can be read by others, and a database's address may hold a
password. The message is pickled, as `multiprocessing` does it, and no other process has the socket. Both ends are one
installation, unless that was upgraded since the parent started.
"""

import asyncio
import contextlib
import json
import logging
import os
import pickle
import select
import signal
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any

from moorline.gateway.common.errors import UsageError

__all__ = ["BEATS", "END_SECONDS", "SUPERVISOR", "Parent", "ParentConnection", "packed"]

log = logging.getLogger("moorline.supervised")

#: The variable that holds the descriptor of the child's end.
SUPERVISOR = "MOORLINE_SUPERVISOR"

#: How many empty lines a child sends within the shorter of its limits for silence.
BEATS = 4

#: How long a child has to end once its parent's end is closed.
END_SECONDS = 2.0

_LENGTH = 8


def packed(message: Mapping[str, object]) -> bytes:
    """`message` as `Parent.receive` reads it: its length, then itself."""
    data = pickle.dumps(dict(message))
    return len(data).to_bytes(_LENGTH, "big") + data


class Parent:
    """The process that keeps this one alive, at the other end of the socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._silence: float | None = None

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> "Parent | None":
        """The parent that `environ` names, and names no longer: this process may start others; None without one.

        Raises:
            UsageError: the variable does not hold the descriptor of a socket.
        """
        text = environ.pop(SUPERVISOR, None)
        if text is None:
            return None
        try:
            number = int(text)
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.set_inheritable(number, False)
                return cls(socket.socket(fileno=number))
        except (ValueError, OverflowError, OSError):
            pass
        raise UsageError(f'{SUPERVISOR}: "{text}" is no socket of moorline serve, which alone sets it; unset it')

    def receive(self) -> dict[str, Any]:
        """The parent's message. Blocks: call it first, before the event loop runs. From then on this process does not
        outlive the parent."""
        length = int.from_bytes(self._read(_LENGTH), "big")
        message: dict[str, Any] = pickle.loads(self._read(length))
        limits = [message.get("watchdog"), message.get("start_timeout")]
        self._silence = min((limit for limit in limits if limit is not None), default=None)
        # Of its own, which stays open until the process ends.
        descriptor = os.dup(self._sock.fileno())
        threading.Thread(target=_end_with, args=(descriptor,), name="moorline-parent", daemon=True).start()
        return message

    def send(self, message: Mapping[str, object]) -> None:
        """Answer with a message of the same form, in place of `wait`."""
        self._sock.sendall(packed(message))

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator["ParentConnection"]:
        """The connection to it, once its message was received: hold it from the first turn of the event loop on, as it
        tells the parent that this process starts and does not hang."""
        reader, writer = await asyncio.open_connection(sock=self._sock)
        connection = ParentConnection(self._sock, reader, writer, self._silence)
        try:
            yield connection
        finally:
            connection.close()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if not (piece := self._sock.recv(size - len(data))):
                raise UsageError("the parent process ended before it had sent the settings")
            data += piece
        return bytes(data)


class ParentConnection:
    """What a child tells its parent, and when the parent has ended."""

    def __init__(
        self, sock: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, silence: float | None
    ) -> None:
        self._sock = sock
        self._writer = writer
        self.closed = asyncio.create_task(_end_of_file(reader))
        """Done when the parent has closed its end, or has ended."""
        self._beating = asyncio.create_task(self._beat(silence))

    def report(self, facts: Mapping[str, str]) -> None:
        """This process is ready, or what it reported has changed."""
        self._writer.write(json.dumps(facts).encode() + b"\n")

    async def wait(self, facts: Mapping[str, str], stop: asyncio.Event) -> bool:
        """Report that this process is ready; close the connection and return when `stop` is set, or when the parent
        closes its end, or ends: whether it did, and this process is to end at once. None is left behind that holds the
        port and the database.
        """
        self.report(facts)
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait([stopped, self.closed], return_when=asyncio.FIRST_COMPLETED)
        if at_once := self.closed.done():
            log.info("the parent process has closed the connection: ending at once")
        stopped.cancel()
        self.close()
        return at_once

    def close(self) -> None:
        """Tell nothing more."""
        self._beating.cancel()
        self.closed.cancel()
        # The thread has another descriptor of it.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
        self._writer.close()

    async def _beat(self, silence: float | None) -> None:
        while silence is not None:
            # Not to a parent that is stopped itself.
            if not self._writer.transport.get_write_buffer_size():
                self._writer.write(b"\n")
            await asyncio.sleep(silence / BEATS)


async def _end_of_file(reader: asyncio.StreamReader) -> None:
    try:
        await reader.read()
    except OSError:
        # A killed parent may have left our report unread: the kernel then says reset instead of end of file.
        return


def _end_with(descriptor: int) -> None:
    """Kill this process, and what it has started, where it has not ended by itself once the parent's end is closed."""
    # The parent sends nothing after its message: what can be read is the end.
    closed = select.poll()
    closed.register(descriptor, select.POLLIN)
    closed.poll()
    time.sleep(END_SECONDS)
    # One that leads no group is in that of a terminal's command, or of its parent.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
