"""The people of a measurement, a process of its own: sockets of a chat, which ask and note when each token comes."""

import asyncio
import json
import random
import re
import statistics
import time
import uuid
from collections.abc import Callable
from typing import Any, cast

from moorline.gateway.common.loop import run
from tests.bench.processes import commands, raise_file_limit
from tests.bench.wire import CLOSE, PING, PONG, TEXT, Frames, frame, handshake

__all__ = ["Chatters"]

_PATIENCE = 60.0
# Sockets that are opened at the same time, where it is not asked for all at once.
_AT_ONCE = 32
# The page's own, where the server tells no time.
_JITTER = 1.0
# In the Close frame of a gateway.
_TOLD = re.compile(rb"reconnect_after=([\d.]+) reconnect_within=([\d.]+)")
_BYE = frame(CLOSE, (1000).to_bytes(2, "big"), masked=True)


def _message(content: dict[str, Any]) -> bytes:
    return frame(TEXT, json.dumps(content).encode(), masked=True)


class Chatter(asyncio.Protocol):
    """One socket. `greeting` is the hello of version 2, or none for the plain server."""

    def __init__(self, chatters: "Chatters", session: str, greeting: dict[str, Any] | None) -> None:
        loop = asyncio.get_running_loop()
        self._chatters = chatters
        self._greeting = greeting
        self.session = session
        self.greeted: asyncio.Future[None] = loop.create_future()
        """The hello was answered, and the snapshot is there where there is one."""
        self.answering: asyncio.Future[None] = loop.create_future()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[None] = loop.create_future()
        self.epoch, self.seq = "", 0
        self.goaway: dict[str, Any] = {}
        self.ended = 0.0
        self.transport: asyncio.Transport
        self._head: bytes | None = b""
        self._frames = Frames(keep=True)

    def ask(self) -> None:
        """Send a message."""
        asked = {"message": "Go on until I say stop."}
        if self._greeting is not None:
            asked |= {"type": "send", "client_msg_id": str(uuid.uuid4())}
        self.transport.write(_message(asked))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(handshake(f"/ws/chat/patient:bench/{self.session}"))

    def data_received(self, data: bytes) -> None:
        # Here, and not once its frames and JSON are read, a token is at the client's socket.
        now = time.monotonic()
        if self._head is not None:
            self._head += data
            if b"\r\n\r\n" not in self._head:
                return
            head, _, data = self._head.partition(b"\r\n\r\n")
            self._head = None
            if self.greeted.done():
                # Its time was over before the response came.
                self.transport.abort()
                return
            if not head.startswith(b"HTTP/1.1 101"):
                refusal = b"\n".join((head, data)).decode(errors="replace")
                self.greeted.set_exception(RuntimeError(f"a handshake was refused: {refusal}"))
                return
            if self._greeting is None:
                self.greeted.set_result(None)
            else:
                self.transport.write(_message(self._greeting))
        for opcode, _, payload in self._frames.receive_data(data):
            if opcode == TEXT:
                self._received(json.loads(payload), now)
            elif opcode == PING:
                self.transport.write(frame(PONG, payload, masked=True))
            elif opcode == CLOSE and (told := _TOLD.search(payload)):
                self.goaway = {"reconnect_after": float(told[1]), "reconnect_within": float(told[2])}

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(exc or ConnectionResetError("closed before the hello"))
        self.ended = time.monotonic()
        self.closed.set_result(None)

    def _received(self, event: dict[str, Any], now: float) -> None:
        self.seq = event.get("seq", self.seq)
        match event["type"]:
            case "delta":
                self._chatters.came(self, event["text"], now)
                if not self.answering.done():
                    self.answering.set_result(None)
            case "hello":
                self.epoch = event["epoch"]
                if event["recovered"]:
                    self.greeted.set_result(None)
            case "snapshot":
                self.seq = event["through_seq"]
                self.greeted.set_result(None)
            case "message":
                for wait in (self.answering, self.answered):
                    if not wait.done():
                        wait.set_result(None)
            case "goaway":
                self.goaway = event
            case "error":
                raise RuntimeError(f"a message was refused: {event}")


class Chatters:
    """All sockets, and the commands."""

    def __init__(self) -> None:
        self._chatters: list[Chatter] = []
        self._latencies: list[float] | None = None
        self._arrivals: dict[str, float] = {}
        self._turned_away = 0

    def came(self, chatter: Chatter, text: str, now: float) -> None:
        """Tokens, each with the time at which it was written, have come at `now`."""
        if self._latencies is not None:
            tokens = text.split()
            self._latencies += [now - float(token) for token in tokens]
            if chatter is self._chatters[0]:
                self._arrivals |= dict.fromkeys(tokens, now)

    async def open(self, port: int, sessions: list[str], *, hello: bool, again: bool = False) -> float:
        """Open these sessions, a few at a time; mean seconds from the dial to all there is to see of one.

        With `again` one that is turned away dials again, as by a server that has no time for it on a busy machine.
        """
        greeting = {"type": "hello", "v": 2} if hello else None
        places = asyncio.Semaphore(_AT_ONCE)
        took: list[float] = []

        async def one(session: str) -> Chatter:
            async with places:
                dial = self._dial_again if again else self._dial
                began = time.perf_counter()
                chatter = await dial(port, lambda: Chatter(self, session, greeting))
                took.append(time.perf_counter() - began)
                return chatter

        self._chatters += await asyncio.gather(*map(one, sessions))
        return statistics.fmean(took)

    async def come_back(self, port: int) -> list[float]:
        """All at once, when their sockets have ended, each from where it was: seconds until half and until all are."""
        began = time.perf_counter()
        took: list[float] = []

        async def one(old: Chatter) -> Chatter:
            resume = {"type": "hello", "v": 2, "resume": {"epoch": old.epoch, "seq": old.seq}}
            chatter = await self._dial(port, lambda: Chatter(self, old.session, resume))
            took.append(time.perf_counter() - began)
            return chatter

        await asyncio.gather(*(chatter.closed for chatter in self._chatters))
        self._chatters = list(await asyncio.gather(*map(one, self._chatters)))
        return [statistics.median(took), max(took)]

    async def told(self) -> float:
        """Wait until all sockets have ended: over how many seconds their clients are to come back; 0: they were not
        told."""
        await asyncio.gather(*(chatter.closed for chatter in self._chatters))
        told: float = max(chatter.goaway.get("reconnect_within", 0.0) for chatter in self._chatters)
        return told

    async def come_back_as_told(self, port: int) -> dict[str, Any]:
        """As the page's client does after a restart: each within the time that the server has told, and again with
        back-off where it is turned away. When the last client's time began, when all were back, the seconds of each
        handshake with its hello, and how often one was turned away.
        """
        took: list[float] = []
        before = self._turned_away

        def begins(old: Chatter) -> float:
            return old.ended + float(old.goaway.get("reconnect_after", 0.0))

        async def one(old: Chatter) -> Chatter:
            resume = {"type": "hello", "v": 2, "resume": {"epoch": old.epoch, "seq": old.seq}}
            within = old.goaway.get("reconnect_within", _JITTER)
            await asyncio.sleep(max(0.0, begins(old) - time.monotonic()) + random.uniform(0, within))
            return await self._dial_again(port, lambda: Chatter(self, old.session, resume), took)

        began = max(time.monotonic(), *map(begins, self._chatters))
        self._chatters = list(await asyncio.gather(*map(one, self._chatters)))
        ended, turned_away = time.monotonic(), self._turned_away - before
        return {"began": began, "ended": ended, "handshakes": took, "turned_away": turned_away}

    async def ask(self, per_second: float) -> int:
        """All clients ask, one after the other, and waits for the first token; how many got it."""
        for chatter in self._chatters:
            chatter.ask()
            await asyncio.sleep(1 / per_second)
        return await self._have([chatter.answering for chatter in self._chatters])

    async def ask_first(self) -> int:
        """The first client asks; how many got the first token of its answer."""
        self._chatters[0].ask()
        return await self._have([chatter.answering for chatter in self._chatters])

    async def listen(self, seconds: float) -> list[float]:
        """How many tokens came meanwhile; median and 99th percentile of the seconds that they were on their way."""
        latencies = self._latencies = []
        await asyncio.sleep(seconds)
        self._latencies = None
        quantiles = statistics.quantiles(latencies, n=100)
        return [len(latencies), quantiles[49], quantiles[98]]

    async def arrivals(self) -> dict[str, float]:
        """When each token came to the first client, of those that were listened to."""
        found, self._arrivals = self._arrivals, {}
        return found

    async def answered(self) -> int:
        """Wait until every client has the whole answer; how many have."""
        return await self._have([chatter.answered for chatter in self._chatters])

    async def close(self) -> int:
        """Leave."""
        count = len(self._chatters)
        for chatter in self._chatters:
            # An overloaded server may have ended some.
            if not chatter.transport.is_closing():
                chatter.transport.write(_BYE)
        if self._chatters:
            await asyncio.wait([chatter.closed for chatter in self._chatters], timeout=_PATIENCE)
        for chatter in self._chatters:
            chatter.transport.abort()
        self._chatters.clear()
        return count

    async def _have(self, events: list["asyncio.Future[None]"]) -> int:
        done, _ = await asyncio.wait(events, timeout=_PATIENCE)
        return len(done)

    async def _dial(self, port: int, make: Callable[[], Chatter]) -> Chatter:
        async with asyncio.timeout(_PATIENCE):
            chatter = (await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port))[1]
            await chatter.greeted
            return chatter

    async def _dial_again(self, port: int, make: Callable[[], Chatter], took: list[float] | None = None) -> Chatter:
        """Dial until the socket is open, the seconds of which are added to `took`."""
        while True:
            dialled = time.perf_counter()
            try:
                chatter = await self._dial(port, make)
            except (OSError, RuntimeError):
                self._turned_away += 1
                await asyncio.sleep(random.uniform(0, _JITTER))
            else:
                if took is not None:
                    took.append(time.perf_counter() - dialled)
                return chatter


async def main() -> None:
    raise_file_limit(1 << 16)
    chatters = Chatters()
    table = (
        chatters.open,
        chatters.come_back,
        chatters.told,
        chatters.come_back_as_told,
        chatters.ask,
        chatters.ask_first,
        chatters.listen,
        chatters.arrivals,
        chatters.answered,
        chatters.close,
    )
    await commands(0, {command.__name__: command for command in table})


if __name__ == "__main__":
    run(main())
