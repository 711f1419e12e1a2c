"""Where a row is played: a client and a backend in the test's hand, a proxy between them, a record of what is seen."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

from tests.differential.frames import words
from tests.differential.table import Record, Seen
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, Upstream, dial

__all__ = ["Answer", "Backend", "Stage"]

_AT_ONCE = 32
# Of a flood: 13 MB in a second.
_PACE = 0.005


class Backend(Upstream):
    """The upstream of one row behind one proxy. It may begin to listen late, or with a small backlog."""

    def listen(self, backlog: int = 64) -> None:
        self._listener.listen(backlog)

    def connections(self) -> int:
        """How many there were, those that were never accepted included."""
        waiting = 0
        with contextlib.suppress(OSError):
            while True:
                self._listener.accept()[0].close()
                waiting += 1
        return len(self._peers) + waiting


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as a client gets it."""

    status: str
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""

    @classmethod
    def of(cls, head: bytes) -> Self:
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        _, status, reason = first.split(" ", 2)
        return cls(status, reason, [(key, value.strip()) for key, _, value in (line.partition(":") for line in lines)])

    def all(self, name: str) -> str:
        """Every value of a field; a line each in the answer, parts of one text here."""
        return " | ".join(value for known, value in self.fields if known.lower() == name.lower())


class Stage:
    """One row at one proxy."""

    def __init__(self, port: int, backend: Backend) -> None:
        self.port = port
        self.backend = backend
        self.record: Record = {}
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._held = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def play(self, play: Callable[[], Awaitable[None]]) -> Record:
        """Everything that was seen; what the play itself broke on belongs to it."""
        try:
            await play()
        except (OSError, EOFError, TimeoutError) as error:
            self.see("broke", f"{type(error).__name__} {error}")
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._held.aclose()
        return self.record

    # Peers ------------------------------------------------------------------------------------------------------------

    async def client(self, *, receive_buffer: int | None = None) -> Peer:
        return await self._held.enter_async_context(dial(self.port, receive_buffer=receive_buffer))

    async def ask(self, request: bytes = HANDSHAKE) -> tuple[Peer, Peer]:
        """A client that has sent this, and the backend that has read its head."""
        client = await self.client()
        await client.send(request)
        return client, await self.backend.accept()

    async def tunnel(
        self, request: bytes = HANDSHAKE, answer: bytes = SWITCH, *, receive_buffer: int | None = None
    ) -> tuple[Peer, Peer]:
        """Client and backend at the two ends of an open tunnel. The time runs from here."""
        client = await self.client(receive_buffer=receive_buffer)
        await client.send(request)
        backend = await self.backend.accept()
        await backend.send(answer)
        self.see("switch", Answer.of(await client.head()).status)
        self.mark()
        return client, backend

    def flood(self, peer: Peer, piece: bytes) -> asyncio.Task[None]:
        """Have it send this over and over for as long as the other end takes it."""

        async def send() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    await peer.send(piece)
                    await asyncio.sleep(_PACE)  # discarding it without a pause would take the whole processor

        return self.aside(send())

    def aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do this at the same time; it ends with the play."""
        self._tasks.append(asyncio.create_task(work))
        return self._tasks[-1]

    # What is seen -----------------------------------------------------------------------------------------------------

    def mark(self) -> None:
        """Count the time from now."""
        self._began = self._clock()

    def see(self, name: str, text: str) -> None:
        self.record[name] = Seen(text, self._clock() - self._began)

    async def ends(self, **peers: Peer) -> None:
        """What each peer gets from now on, and how it ends."""

        async def end(name: str, peer: Peer) -> None:
            data, way = await peer.end()
            self.see(name, " ".join(filter(None, [words(data), way])))

        await asyncio.gather(*(end(name, peer) for name, peer in peers.items()))

    async def gone(self, name: str, peer: Peer) -> None:
        """What a peer gets from now on, where it depends on the moment whether a FIN or a RST is the end."""
        data, _ = await peer.end()
        self.see(name, " ".join(filter(None, [words(data), "gone"])))

    async def passes(self, name: str, data: bytes, sender: Peer, receiver: Peer) -> None:
        """What arrives of this."""
        sending = asyncio.ensure_future(sender.send(data))
        self.see(name, words(await receiver.exactly(len(data))))
        await sending

    async def stall(self, sender: Peer, piece: bytes) -> int:
        """Have it send until nothing is taken any more: how many bytes were taken. The time runs from the last."""
        # Many of them at once: a busy machine would need long to fill the kernels' buffers piece by piece, and the
        # proxy has stopped to read, and its timers run, before those are full.
        sent, self._began = await sender.send_until_stalled(piece * _AT_ONCE)
        return sent

    async def cut(self, name: str, peer: Peer) -> None:
        """That a peer which reads nothing is cut: its sending fails."""
        with contextlib.suppress(ConnectionError):
            while True:
                peer.send_now(b".")
                await asyncio.sleep(0.01)  # nothing but the attempt tells
        self.see(name, "cut")

    async def drains(self, name: str, peer: Peer, sent: int) -> None:
        """What of this arrives at a peer that begins to read at last, and how it ends."""
        data, way = await peer.end()
        self.see(name, f"{'all' if len(data) >= sent else 'a part'} {way}")

    async def probe(self, name: str, peer: Peer) -> None:
        """Whether what it sends is still taken."""
        try:
            for _ in range(3):
                await peer.send(b".")
                await asyncio.sleep(0.1)  # for a reset to come back
        except ConnectionError:
            self.see(name, "reset")
        else:
            self.see(name, "taken")

    async def answer(self, client: Peer, name: str = "client") -> Answer:
        """The proxy's answer, whole; its status is seen under `name`, at the instant of its head."""
        answer = Answer.of(await client.head())
        self.see(name, answer.status)
        if answer.all("Transfer-Encoding") == "chunked":
            return dataclasses.replace(answer, body=await _chunked(client))
        return dataclasses.replace(answer, body=await client.exactly(int(answer.all("Content-Length") or 0)))


async def _chunked(peer: Peer) -> bytes:
    body = b""
    while True:
        line = b""
        while not line.endswith(b"\r\n"):
            line += await peer.exactly(1)
        piece = await peer.exactly(int(line, 16) + 2)
        if piece == b"\r\n":
            return body
        body += piece[:-2]
