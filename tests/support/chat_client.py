"""A client of version 2 that holds on, as the page's does: it resumes, and sends again what was not acknowledged."""

import asyncio
import contextlib
import json
import random
import socket
import struct
import time
import uuid
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.support.transcript import Gap, Row, Transcript

__all__ = ["ChatClient", "dialled"]

# Back-off between two dials, seconds; shorter than the page's, since an outage here is seconds long, too.
_BACK_OFF = (0.05, 0.5)
_OPEN_TIMEOUT = 20.0
# A command that was refused as busy is tried again with each end of a run, and this often.
_RESEND_SECONDS = 0.5
# Two heartbeats of the server without a word mean a dead connection.
_SILENT_HEARTBEATS = 2.0


def dialled(url: str) -> connect:
    """A connection whose only limits are the client's own: it looks for silence, and for how long a dial takes."""
    return connect(url, ping_interval=None, proxy=None, open_timeout=None, max_size=None, close_timeout=1)


class ChatClient:
    """One tab. `run` is its task; `say` and `retry` may be called at any time and return when the run has ended."""

    def __init__(
        self,
        dial: Callable[[], connect],
        *,
        rng: random.Random | None = None,
        places: contextlib.AbstractAsyncContextManager[None] | None = None,
    ) -> None:
        """`places`: held during each dial."""
        self.transcript = Transcript()
        self.sent: dict[str, str] = {}
        """The text of each message, by client_msg_id."""
        self.acknowledged: dict[str, str] = {}
        """The run of each acknowledged command, by client_msg_id."""
        self.outages: list[float] = []
        """Seconds from each loss of the socket to the next hello."""
        self.gaps = 0
        self.refusals: list[str] = []
        self._dial = dial
        self._rng = rng or random.Random()
        self._places = places or contextlib.nullcontext()
        self._commands: dict[str, dict[str, Any]] = {}
        self._socket: ClientConnection | None = None
        self._changed = asyncio.Condition()

    @property
    def is_connected(self) -> bool:
        """Whether the server has answered the hello of the socket that is open."""
        return self._socket is not None

    @property
    def waits_for(self) -> str | None:
        """What of its server it has not got yet, if anything."""
        if self._socket is None:
            return "hello"
        if self._commands:
            return "ack"
        ended = all(self._end_of(run_id) is not None for run_id in self.acknowledged.values())
        return None if ended and self.transcript.run_id is None else "end"

    # What a person does -----------------------------------------------------------------------------------------------

    async def say(self, text: str) -> Row:
        """Send a message; the row that its run ended with."""
        return await self._command({"type": "send", "message": text})

    async def retry(self, run_id: str) -> Row:
        """Ask for a new answer; the row that its run ended with."""
        return await self._command({"type": "retry", "run_id": run_id})

    async def cancel(self, run_id: str) -> None:
        """Stop an answer, if the socket is there."""
        await self._write({"type": "cancel", "run_id": run_id})

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds`; asked after each frame."""
        async with self._changed:
            await self._changed.wait_for(holds)

    def reset(self) -> None:
        """Lose the connection in the middle of a frame, with RST."""
        if self._socket is not None:
            transport = self._socket.transport
            # FIN and mask bit set, a length, and not all of what it announces.
            transport.write(b"\x81\xfe\x01\x00half")
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    async def _command(self, command: dict[str, Any]) -> Row:
        name = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        self._commands[name] = {**command, "client_msg_id": name}
        if "message" in command:
            self.sent[name] = command["message"]
        await self._flush()
        await self.until(lambda: name in self.acknowledged)
        run_id = self.acknowledged[name]
        await self.until(lambda: self._end_of(run_id) is not None)
        row = self._end_of(run_id)
        assert row is not None
        return row

    def _end_of(self, run_id: str) -> Row | None:
        rows = (row for row in reversed(self.transcript.rows.values()) if row.role == "assistant")
        return next((row for row in rows if row.run_id == run_id and row.finish is not None), None)

    # The connection ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect and stay connected until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._connect())
            tasks.create_task(self._resend())

    async def _resend(self) -> None:
        while True:
            await asyncio.sleep(_RESEND_SECONDS)
            await self._flush()

    async def _connect(self) -> None:
        lost_at: float | None = None
        while True:
            with contextlib.suppress(OSError, WebSocketException, TimeoutError, Gap):
                async with self._places, asyncio.timeout(_OPEN_TIMEOUT):
                    client = await self._dial()
                try:
                    lost_at = await self._converse(client, lost_at)
                finally:
                    self._socket = None
                    await client.close()
            lost_at = time.monotonic() if lost_at is None else lost_at
            await asyncio.sleep(self._rng.uniform(*_BACK_OFF))

    async def _converse(self, client: ClientConnection, lost_at: float | None) -> float | None:
        """Follow the log until the socket ends; since when the client has been without one."""
        resume = self.transcript.resume
        try:
            await client.send(json.dumps({"type": "hello", "v": 2, **({"resume": resume} if resume else {})}))
            heartbeat, silence = _OPEN_TIMEOUT, _OPEN_TIMEOUT
            while True:
                async with asyncio.timeout(silence):
                    frame = json.loads(await client.recv())
                if frame["type"] == "hello":
                    heartbeat = frame["heartbeat"]
                    silence = max(_SILENT_HEARTBEATS * heartbeat, 1.0)
                    self.transcript.epoch = frame["epoch"]
                    self._socket = client
                    if lost_at is not None:
                        self.outages.append(time.monotonic() - lost_at)
                    lost_at = None
                await self._receive(frame)
        except (WebSocketException, TimeoutError, OSError):
            return time.monotonic() if lost_at is None else lost_at

    async def _receive(self, frame: dict[str, Any]) -> None:
        try:
            changed = self.transcript.fold(frame)
        except Gap:
            self.gaps += 1
            raise
        match frame["type"]:
            case "ack":
                self._commands.pop(frame["client_msg_id"], None)
                self.acknowledged[frame["client_msg_id"]] = frame["run_id"]
                changed = True
            case "error":
                self.refusals.append(frame["code"])
            case "hello" if frame["recovered"]:
                await self._flush()
            case "snapshot" | "message":
                # A run ended: what was refused as busy may go now.
                await self._flush()
        if changed:
            async with self._changed:
                self._changed.notify_all()

    async def _flush(self) -> None:
        """Send what was not acknowledged; the server knows it again."""
        if self.transcript.run_id is None:
            for command in list(self._commands.values()):
                await self._write(command)

    async def _write(self, command: dict[str, Any]) -> None:
        if self._socket is not None:
            with contextlib.suppress(WebSocketException):
                await self._socket.send(json.dumps(command))
