"""What the workers of one gateway ask each other, by way of their parent.

Each worker serves a share of the connections, and a request for what all of them know reaches one. That one asks the
others: its question goes over a socket pair to the parent, which passes it on and returns their answers. The parent
reads the headers of these frames alone. The two other ways have more that may fail: a socket of each worker's in the
file system is left behind by a `kill -9` and needs a folder with rights of its own, and a port on loopback is open to
all users of the machine.

    kind (1 byte), number (4), size (4), body: JSON, but of ASKED how many others there are; none of DONE
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

__all__ = ["Answers", "Hub", "Siblings"]

log = logging.getLogger("moorline.gateway")

_HEADER = struct.Struct("!cII")
_ASK, _ASKED, _ANSWER, _DONE = b"q", b"n", b"a", b"d"
_COUNT = struct.Struct("!I")
# 10,000 rows of the inspector are 3 MiB.
_MAX_BODY = 32 << 20
# For what a worker that hangs never answers; the one that asks has a time limit of its own.
_LONGEST_ASK = 5.0

Json = Any


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What the other workers said."""

    bodies: Sequence[Json] = ()
    silent: int = 0
    """How many did not answer in time."""


@dataclasses.dataclass(slots=True)
class _Asked:
    """A question on its way."""

    asker: asyncio.StreamWriter | None
    """None: the parent."""
    answered: Callable[[bytes], None]
    done: Callable[[], None]
    left: set[asyncio.StreamWriter]


class Hub:
    """The parent's side, which may ask as well."""

    def __init__(self) -> None:
        self._members: set[asyncio.StreamWriter] = set()
        self._asked: dict[int, _Asked] = {}
        self._count = 0
        self._serving: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def member(self) -> Iterator[int]:
        """The descriptor of a worker's end, for one life of it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(ours))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            yield theirs.fileno()
        finally:
            theirs.close()
            task.cancel()

    def tell(self, message: Json) -> None:
        """Tell all workers, and wait for no answer."""
        self._count = (self._count + 1) % (1 << 32)
        for each in self._members:
            each.write(_frame(_ASK, self._count, json.dumps(message).encode()))

    async def ask(self, message: Json) -> Sequence[Json]:
        """What the workers answer, but for those that take longer than the longest question."""
        bodies: list[Json] = []
        done = asyncio.Event()
        self._put(None, json.dumps(message).encode(), lambda body: bodies.append(json.loads(body)), done.set)
        await done.wait()
        return bodies

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock)
        self._members.add(writer)
        try:
            while True:
                kind, number, body = await _receive(reader)
                if kind == _ASK:
                    self._ask(writer, number, body)
                else:
                    self._answer(writer, number, body)
        except (EOFError, OSError):
            pass  # The worker has ended.
        finally:
            self._members.discard(writer)
            for number, asked in list(self._asked.items()):
                if asked.asker is writer:
                    del self._asked[number]
                elif writer in asked.left:
                    self._is_answered(number, asked, writer)
            writer.close()

    def _ask(self, asker: asyncio.StreamWriter, number: int, body: bytes) -> None:
        asker.write(_frame(_ASKED, number, _COUNT.pack(len(self._members - {asker}))))
        self._put(
            asker,
            body,
            lambda answer: asker.write(_frame(_ANSWER, number, answer)),
            lambda: asker.write(_frame(_DONE, number, b"")),
        )

    def _put(
        self,
        asker: asyncio.StreamWriter | None,
        body: bytes,
        answered: Callable[[bytes], None],
        done: Callable[[], None],
    ) -> None:
        """Put the question to all but the one that asks. `done` is called once, after the last answer or without it."""
        # One that does not read gets no more, so that nothing gathers here.
        free = {each for each in self._members if each is not asker and each.transport.get_write_buffer_size() == 0}
        self._count = (self._count + 1) % (1 << 32)
        self._asked[self._count] = _Asked(asker, answered, done, free)
        for each in free:
            each.write(_frame(_ASK, self._count, body))
        if free:
            asyncio.get_running_loop().call_later(_LONGEST_ASK, self._finish, self._count)
        else:
            self._finish(self._count)

    def _answer(self, writer: asyncio.StreamWriter, number: int, body: bytes) -> None:
        asked = self._asked.get(number)
        if asked is not None and writer in asked.left:
            asked.answered(body)
            self._is_answered(number, asked, writer)

    def _is_answered(self, number: int, asked: _Asked, by: asyncio.StreamWriter) -> None:
        asked.left.discard(by)
        if not asked.left:
            self._finish(number)

    def _finish(self, number: int) -> None:
        """No more answers to this question count."""
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked.done()


class Siblings:
    """A worker's side. `answering` must be entered before `ask` is called."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._writer: asyncio.StreamWriter | None = None
        self._count = 0
        self._bodies: dict[int, list[Json]] = {}
        # How many others were asked, once the parent has said so.
        self._others: dict[int, int] = {}
        self._done: dict[int, asyncio.Future[None]] = {}
        self._replying: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def answering(self, answer: Callable[[Json], Awaitable[Json]]) -> AsyncIterator[None]:
        """Answer the others with what this returns."""
        reader, self._writer = await asyncio.open_connection(sock=self._sock)
        receiving = asyncio.create_task(self._receive(reader, answer))
        try:
            yield
        finally:
            for task in (receiving, *self._replying):
                task.cancel()
            await asyncio.gather(receiving, *self._replying, return_exceptions=True)
            self._writer.close()

    async def ask(self, message: Json, *, seconds: float) -> Answers:
        """Ask all others; those that answer later are silent."""
        writer = self._writer
        assert writer is not None, "it is entered"
        self._count = number = (self._count + 1) % (1 << 32)
        bodies = self._bodies[number] = []
        done = self._done[number] = asyncio.get_running_loop().create_future()
        try:
            writer.write(_frame(_ASK, number, json.dumps(message, separators=(",", ":")).encode()))
            async with asyncio.timeout(seconds):
                await done
        except TimeoutError:
            pass
        finally:
            # Of a parent that hangs itself nothing is known.
            others = self._others.pop(number, len(bodies) + 1)
            del self._bodies[number], self._done[number]
        return Answers(bodies, others - len(bodies))

    async def _receive(self, reader: asyncio.StreamReader, answer: Callable[[Json], Awaitable[Json]]) -> None:
        with contextlib.suppress(EOFError, OSError):  # The parent has ended, and this worker ends with it.
            while True:
                kind, number, body = await _receive(reader)
                if kind == _ASK:
                    task = asyncio.create_task(self._reply(number, body, answer))
                    self._replying.add(task)
                    task.add_done_callback(self._replying.discard)
                elif kind == _ANSWER and number in self._bodies:
                    self._bodies[number].append(json.loads(body))
                elif kind == _ASKED and number in self._done:
                    self._others[number] = _COUNT.unpack(body)[0]
                elif kind == _DONE and (done := self._done.get(number)) is not None and not done.done():
                    done.set_result(None)

    async def _reply(self, number: int, body: bytes, answer: Callable[[Json], Awaitable[Json]]) -> None:
        try:
            said = await answer(json.loads(body))
        except Exception:
            log.exception("another worker's question could not be answered")
            said = None
        assert self._writer is not None, "it is entered"
        self._writer.write(_frame(_ANSWER, number, json.dumps(said, separators=(",", ":")).encode()))


def _frame(kind: bytes, number: int, body: bytes) -> bytes:
    return _HEADER.pack(kind, number, len(body)) + body


async def _receive(reader: asyncio.StreamReader) -> tuple[bytes, int, bytes]:
    """The next frame.

    Raises:
        EOFError: there is none, or it is none of this program's.
    """
    kind, number, size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
    if size > _MAX_BODY:
        raise EOFError
    return kind, number, await reader.readexactly(size)
