"""A client of version 2 in a test that disturbs it: it does what it is told, and says what it should not have seen."""

import asyncio
import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from tests.support.backends import STEP
from tests.support.transcript import Gap, Transcript

if TYPE_CHECKING:
    from tests.support.world import Process, World

__all__ = ["Tab"]

_LATER = ("busy", "internal", "llm_busy")


class Tab:
    """Shows one session. What it sent stays `pending` until it is acknowledged."""

    def __init__(self, world: "World", session: str) -> None:
        self.session = session
        self.seen = Transcript()
        self.pending: dict[str, dict[str, Any]] = {}
        self.greeted = False
        self.process: Process | None = None
        """Where it is connected, or was last."""
        self._forged: set[str] = set()
        # How often each command was sent on this connection: so many acknowledgements may come.
        self._asked: Counter[str] = Counter()
        self._world = world
        self._socket: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def connect(self) -> None:
        """Resume where it was, if it is disconnected and the backend accepts it."""
        if self._socket is not None:
            return
        await self.drop()
        with contextlib.suppress(WebSocketException, OSError):
            self.process = self._world.next_process()
            self._socket = await self.process.server.socket(self.session, max_size=None)
            resume = self.seen.resume
            self.greeted = False
            self._asked.clear()
            await self._write({"type": "hello", "v": 2, **({"resume": resume} if resume else {})})
            self._reading = asyncio.create_task(self._read(self._socket, resumed=resume is not None))

    async def drop(self, *, politely: bool = False) -> None:
        """Lose the connection, with a closing handshake or without."""
        socket, reading = self._socket, self._reading
        self._socket = self._reading = None
        if socket is not None:
            if politely:
                await socket.close()
            socket.transport.abort()
        if reading is not None:
            await reading

    async def erased(self, *, begun: bool) -> None:
        """Forget an erased session. If it had begun, the backend closes the socket first."""
        if begun and self._reading is not None:
            async with asyncio.timeout(STEP):
                await self._reading
        await self.drop()
        self.seen = Transcript()
        self.pending.clear()

    # Commands ---------------------------------------------------------------------------------------------------------

    async def send(self, name: str, text: str) -> None:
        await self._command({"type": "send", "message": text, "client_msg_id": name})

    async def retry(self, name: str, run_id: str) -> None:
        await self._command({"type": "retry", "run_id": run_id, "client_msg_id": name})

    async def cancel(self, run_id: str) -> None:
        await self._write({"type": "cancel", "run_id": run_id})

    async def repeat(self, name: str, text: str) -> None:
        """Send what perhaps another tab has sent."""
        await self._ask({"type": "send", "message": text, "client_msg_id": name})

    async def forge(self, name: str) -> None:
        """Send another text under a name that is taken: this and nothing else is to be rejected."""
        self._forged.add(name)
        await self._write({"type": "send", "message": "forged", "client_msg_id": name})

    async def flush(self) -> None:
        """Send what was not acknowledged."""
        for frame in list(self.pending.values()):
            await self._ask(frame)

    async def _command(self, frame: dict[str, Any]) -> None:
        self.pending[frame["client_msg_id"]] = frame
        await self._ask(frame)

    async def _ask(self, frame: dict[str, Any]) -> None:
        self._asked[frame["client_msg_id"]] += 1
        await self._write(frame)

    async def _write(self, frame: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(WebSocketException):
                await self._socket.send(json.dumps(frame))

    # Reading ----------------------------------------------------------------------------------------------------------

    async def _read(self, socket: ClientConnection, *, resumed: bool) -> None:
        try:
            async for text in socket:
                self._take(json.loads(text), resumed=resumed)
                self._world.changed.set()
        except WebSocketException:
            pass
        finally:
            if self._socket is socket:
                self._socket = None
            self._world.changed.set()

    def _take(self, frame: dict[str, Any], *, resumed: bool) -> None:
        match frame["type"]:
            case "hello":
                if resumed and not frame["recovered"]:
                    self._complain(f"was not taken back at {self.seen.resume}: {frame}")
                self.seen.epoch = frame["epoch"]
                self.greeted = frame["recovered"]
            case "ack":
                name = frame["client_msg_id"]
                self.pending.pop(name, None)
                self._asked[name] -= 1
                if self._asked[name] < 0:
                    self._complain(f"was acknowledged what it had not sent: {frame}")
                self._world.acknowledged(name, frame["run_id"])
            case "error":
                if frame["code"] not in _LATER and frame.get("client_msg_id") not in self._forged:
                    self._complain(f"was refused: {frame}")
            case _:
                self._fold(frame)

    def _fold(self, frame: dict[str, Any]) -> None:
        if "seq" in frame and frame["seq"] <= self.seen.seq:
            self._complain(f"was sent {frame['seq']} again")
        try:
            self.seen.fold(frame)
        except Gap as gap:
            self._complain(f"missed something: {gap}")
        self.greeted = self.greeted or frame["type"] == "snapshot"

    def _complain(self, words: str) -> None:
        self._world.violations.append(f"a tab of {self.session} {words}")
