"""What one socket is sent. A single task per socket writes, and it pulls: from the log, from its own position.

Nothing queues for a slow client: while a send is held up by the peer, its position does not move. Only the replies to
its own commands wait in an outbox, and the reading side stops reading when that is full.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Literal

from aiohttp import WSMsgType, web

from moorline.backend.errors import CloseCode, Refusal
from moorline.backend.eventlog.base import LOG_RETRY_SECONDS, LogUnavailable, SessionInfo
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Position, TextAdded
from moorline.backend.follower import Follower, Resumed
from moorline.backend.protocol.codec import encode
from moorline.backend.protocol.models import Hello, ServerHello, ServerPing
from moorline.backend.protocol.v1 import Version1
from moorline.backend.protocol.v2 import Version2, snapshot_model
from moorline.backend.protocol.version import Version
from moorline.backend.settings import Settings
from moorline.backend.wire import Wire
from moorline.gateway.common.logs import hashed
from moorline.gateway.common.web.frames import text

__all__ = ["Delivery"]

logger = logging.getLogger("moorline.backend.delivery")

#: Replies that may wait for a slow client before its next command is read.
OUTBOX_LIMIT = 32
# The client's first frame tells which version it speaks. To a client of version 2, frames of version 1 would only be
# noise; one of version 1 that only listens gets after this time what happened meanwhile.
_HELLO_SECONDS = 1.0
# When a client may come back after a restart; it adds jitter of its own.
_RECONNECT_AFTER_SECONDS = 1.0
# A frame of up to so many bytes never waits where the buffer is empty: the transports pause at four times as much.
_NEVER_WAITS = 16 << 10
_PING = encode(ServerPing())


class Outbox:
    """Replies that wait to be written. The reading side adds them and waits for room; the writing side takes them."""

    __slots__ = ("_closed", "_frames", "_room")

    def __init__(self) -> None:
        # No deque and no asyncio.Event, which has one: most sockets never need them, and each takes 0.7 KiB of every
        # socket.
        self._frames: list[bytes] = []
        self._room: asyncio.Future[None] | None = None
        self._closed = False

    def put(self, frame: bytes) -> None:
        """Add a reply, also where the outbox is full."""
        self._frames.append(frame)

    def take(self) -> bytes | None:
        """The next one to write; None when there is none."""
        frame = self._frames.pop(0) if self._frames else None
        if len(self._frames) < OUTBOX_LIMIT:
            self._end_wait()
        return frame

    def __bool__(self) -> bool:
        return bool(self._frames)

    async def room(self) -> None:
        """Return when it is not full, or closed. One task waits at a time."""
        while len(self._frames) >= OUTBOX_LIMIT and not self._closed:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def close(self) -> None:
        """Wait for room no longer."""
        self._closed = True
        self._end_wait()

    def _end_wait(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class Delivery:
    """The writing side of a socket. `run` is its task; the other methods are called by the reading side."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        log: EventLog,
        settings: Settings,
        *,
        turn: Callable[[], contextlib.AbstractAsyncContextManager[None]],
        start: SessionInfo,
        v1_ping: float,
        scripted: bool,
        request_id: str | None,
        wire: Wire,
    ) -> None:
        self.version: Version = Version1()
        self._socket = socket
        self._log = log
        self._settings = settings
        # For what costs memory and time, see `Gate`.
        self._turn = turn
        self._scripted = scripted
        self._request_id = request_id
        self._session_id = start.session_id
        self._wire = wire
        self._follower = Follower(log, start, self._send_text)
        self._outbox = Outbox()
        self._close_code: CloseCode | None = None
        self._revoked = False
        self._ping: bytes | None = None
        self._first_frame_read = False
        #: The client's, until it is answered.
        self._hello: Hello | None = None
        self._ping_every = v1_ping
        self._ping_at = asyncio.get_running_loop().time() + v1_ping

    # Called by the reading side ---------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        """Whether a Close frame is queued or sent."""
        return self._close_code is not None

    @property
    def epoch(self) -> str | None:
        """Of the session whose events the client has; None: it has none, and may begin the session."""
        position = self._follower.position
        return position.epoch if position.seq else None

    def reply(self, frame: bytes | None) -> None:
        """Send `frame` before anything that the log gains from now on; None where the version has no such frame."""
        if frame is not None:
            self._outbox.put(frame)
            self._follower.wake()

    def answer_ping(self, payload: bytes) -> None:
        """Send a Pong for a Ping with this payload. Of several that wait only the last is answered (RFC 6455 section
        5.5.3), so that any number of them costs one frame in an iteration of the event loop."""
        self._ping = payload
        self._follower.wake()

    def frame_read(self) -> None:
        """The client has sent a frame, so its version is known."""
        self._first_frame_read = True
        self._follower.wake()

    async def room(self) -> None:
        """Return when the outbox can take another reply; a peer that never reads ends by `send_timeout`."""
        await self._outbox.room()

    def greet(self, hello: Hello) -> None:
        """Speak version 2 from here on."""
        self.version = Version2()
        self._hello = hello
        self._follower.wake()

    def restart(self, within: float | None) -> None:
        """Say that the server restarts, and over how many seconds its clients should come back; then close."""
        if self._close_code is None:
            self.reply(self.version.goaway(_RECONNECT_AFTER_SECONDS, within))
            self.end(CloseCode.SERVICE_RESTART)

    def end(self, code: CloseCode) -> None:
        """Close the socket with `code` once the outbox is empty; the first code counts."""
        if self._close_code is None:
            self._close_code = code
            self._outbox.close()
            self._follower.wake()

    def revoke(self, *, expired: bool = False) -> None:
        """Close the socket and send nothing before: the client may not read any more. With 4503, or with 4401 where its
        right has expired and new credentials may renew it."""
        self._revoked = True
        self.end(CloseCode.SESSION_EXPIRED if expired else CloseCode.FORBIDDEN)

    @property
    def revoked(self) -> bool:
        """Whether the client may neither read nor write any more."""
        return self._revoked

    # The task -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver until the socket ends."""
        try:
            await self._wait_for_first_frame()
            while self._close_code is None:
                try:
                    await self._round()
                except Refusal:  # its first message was another patient's
                    self.end(CloseCode.FORBIDDEN)
                except LogUnavailable as error:
                    logger.debug("event log unavailable: %s", error)
                    await self._follower.wait(asyncio.get_running_loop().time() + LOG_RETRY_SECONDS)
            self._hello = None
            await self._flush()
            await self._socket.close(code=self._close_code, drain=False)
        except _Stalled:
            self._close_code = CloseCode.TOO_SLOW
            logger.info("session %s: socket does not read, closed with 4408", hashed(self._session_id))
            # It is queued behind the unread frames, and arrives if the peer reads again within the close timeout.
            await self._socket.close(code=CloseCode.TOO_SLOW, message=b"too slow", drain=False)
        except Exception as error:
            # Connection lost, or aiohttp closed it for lack of Pongs. While a transport has unsent bytes the reading
            # side is not told until it is aborted. All else is a bug: of a socket that stayed open, and was sent
            # nothing, the client would not notice what it misses.
            self._close_code = self._close_code or CloseCode.GOING_AWAY
            self._wire.abort()
            if not isinstance(error, ConnectionError):
                raise
        finally:
            self._outbox.close()
            self._follower.close()

    async def _wait_for_first_frame(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = min(loop.time() + _HELLO_SECONDS, self._ping_at)
        while not (self._first_frame_read or self.ending) and loop.time() < deadline:
            await self._follower.wait(deadline)
            await self._pong_if_due()

    async def _round(self) -> None:
        """Send all there is, then wait."""
        if self._hello is not None:
            await self._greet(self._hello)
        await self._flush()
        await self._ping_if_due()
        events = await self._follower.read()
        # A reply queued during the read was committed before some of these events, and goes first.
        await self._flush()
        for event in events:
            if self._hello is not None:
                # Version 2 begins with its hello, which tells the client the position of these events.
                return
            await self._send_event(event)
        if self._follower.erased:
            self.reply(self.version.deleted())
            self.end(CloseCode.DELETED)
        elif not self._follower.behind and not self.ending:
            await self._follower.wait(self._ping_at)

    async def _greet(self, hello: Hello) -> None:
        resumed = await self._follower.resume(hello.resume, self._turn)
        self._hello = None
        self._ping_every = self._settings.heartbeat
        self._ping_at = asyncio.get_running_loop().time() + self._ping_every
        frames = [encode(self._server_hello(resumed))]
        if resumed.snapshot is not None:
            frames.append(encode(snapshot_model(resumed.snapshot, self._log.identity)))
        for frame in frames:
            await self._send(frame)

    def _server_hello(self, resumed: Resumed) -> ServerHello:
        return ServerHello(
            epoch=resumed.head.epoch,
            head=resumed.head.seq,
            recovered=resumed.snapshot is None,
            run_id=resumed.run_id,
            heartbeat=self._settings.heartbeat,
            max_bytes=self._settings.max_bytes,
            scripted=self._scripted or None,
            request_id=self._request_id,
        )

    async def _send_event(self, event: Event) -> None:
        frame = self.version.event(event)
        if frame is not None:
            await self._send(frame)
        self._follower.position = Position(self._follower.position.epoch, event.seq)

    def _send_text(self) -> bool:
        """Called while the task waits: send what the session has gained, where that is text and the peer takes it now.

        False: the task has to.
        """
        if self._hello is not None or self._close_code is not None or self._outbox or self._ping is not None:
            return False
        events = self._follower.read_now()
        data = b""
        for event in events:
            if not isinstance(event, TextAdded):
                return False
            frame = self.version.event(event)
            if frame is not None:
                if len(data) + len(frame) > _NEVER_WAITS:
                    return False
                data += text(frame)
        if not events or not self._wire.write(data):
            return False
        self._follower.position = Position(self._follower.position.epoch, events[-1].seq)
        return True

    async def _ping_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._ping_at:
            self._ping_at = now + self._ping_every
            await self._send(_PING)

    async def _pong_if_due(self) -> None:
        if self._ping is not None:
            payload, self._ping = self._ping, None
            await self._send(payload, WSMsgType.PONG)

    async def _flush(self) -> None:
        await self._pong_if_due()
        while self._hello is None and (frame := self._outbox.take()) is not None:
            await self._send(frame)

    async def _send(self, frame: bytes, kind: Literal[WSMsgType.TEXT, WSMsgType.PONG] = WSMsgType.TEXT) -> None:
        if self._revoked:
            return
        if len(frame) <= _NEVER_WAITS and self._wire.unsent() == 0:
            # A timer for each event would cost as much as writing it.
            await self._socket.send_frame(frame, kind)
            return
        try:
            async with asyncio.timeout(self._settings.send_timeout):
                await self._socket.send_frame(frame, kind)
        except TimeoutError:
            raise _Stalled from None


class _Stalled(Exception):
    """The peer did not take a frame within `send_timeout`."""
