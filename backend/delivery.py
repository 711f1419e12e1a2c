"""What one socket is sent. A single task per socket writes, and it pulls: from the log, from its own cursor.

Nothing queues for a slow client: while a send is held up by the peer, its cursor stays where it is. Only the answers to
its own commands wait in an outbox, and the reader of the socket stops reading when that is full.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from aiohttp import web
from moorline.backend.errors import CloseCode, Refusal
from moorline.backend.eventlog.base import Hint, LogUnavailable
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, MessageEnded, Position, RunStarted, Snapshot
from moorline.backend.protocol.wire import Json, encode, event_object, hello_frame, snapshot_object, v1_frame
from moorline.backend.settings import Settings
from moorline.backend.waiting import Waiter
from moorline.gateway.common.logs import hashed

__all__ = ["BATCH", "REPLAY_LIMIT", "Delivery"]

logger = logging.getLogger("moorline.backend.delivery")

#: Events read from the log at once.
BATCH = 256
#: Whoever is further behind gets a snapshot: it is smaller than what it stands for.
REPLAY_LIMIT = 5000
#: Answers to commands that may wait for a slow client before its next command is read.
OUTBOX_LIMIT = 32
# Between two attempts to read a log that is away.
_LOG_RETRY_SECONDS = 1.0
# Until the client's first frame nobody knows which version it speaks. Frames of version 1 would only be noise to one of
# version 2; one of version 1 that only listens gets what happened meanwhile after this time.
_HELLO_SECONDS = 1.0
# When a client may come back after a restart; it adds jitter of its own.
_RECONNECT_AFTER_SECONDS = 1.0


class Delivery:
    """The writing side of a socket. `run` is its task; the other methods are called by the reading side."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        log: EventLog,
        settings: Settings,
        *,
        session_id: str,
        patient_id: str,
        start: Position,
        v1_ping: float,
        scripted: bool,
        abort: Callable[[], None],
    ) -> None:
        self.version = 1
        self._socket = socket
        self._log = log
        self._settings = settings
        self._scripted = scripted
        self._session_id = session_id
        self._patient_id = patient_id
        self._abort = abort
        self._cursor = start
        self._watch = log.watch(session_id)
        self._waiter = Waiter(self._watch)
        # What the watch has said and the log has not been asked about. It knows nothing of what was before it.
        self._hint: Hint | None = Hint.ERASED
        self._outbox: deque[Json] = deque()
        self._room = asyncio.Event()
        self._end: CloseCode | None = None
        self._heard = False
        self._greeting = False
        self._resume: Position | None = None
        # Version 1 hears of the runs that began after it connected; a session has one at a time.
        self._v1_run: str | None = None
        self._ping_every = v1_ping
        self._ping_at = asyncio.get_running_loop().time() + v1_ping

    # Called by the reading side -------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        """Whether a Close is on its way."""
        return self._end is not None

    def reply(self, frame: Json) -> None:
        """Send `frame` before anything that the log gains from now on."""
        self._outbox.append(frame)
        self._waiter.wake()

    def heard(self) -> None:
        """The client has said something, so its version is known."""
        self._heard = True
        self._waiter.wake()

    async def room(self) -> None:
        """Return when the outbox can take another answer; a peer that never reads ends by `send_timeout`."""
        while len(self._outbox) >= OUTBOX_LIMIT and not self.ending:
            self._room.clear()
            await self._room.wait()

    def greet(self, resume: Position | None) -> None:
        """Speak version 2 from here on."""
        self.version = 2
        self._greeting = True
        self._resume = resume
        self._waiter.wake()

    def end(self, code: CloseCode) -> None:
        """Close the socket with `code` once the outbox is empty; the first code counts."""
        if self._end is None:
            if code is CloseCode.SERVICE_RESTART and self.version == 2:
                self.reply({"type": "goaway", "reconnect_after": _RECONNECT_AFTER_SECONDS})
            self._end = code
            self._room.set()
            self._waiter.wake()

    # The task -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Deliver until the socket ends."""
        try:
            await self._hear()
            while self._end is None:
                try:
                    await self._round()
                except Refusal:  # its first message was another patient's
                    self.end(CloseCode.FORBIDDEN)
                except LogUnavailable as error:
                    logger.warning("the log is away: %s", error)
                    await self._wait(asyncio.get_running_loop().time() + _LOG_RETRY_SECONDS)
            self._greeting = False
            await self._flush()
            await self._socket.close(code=self._end, drain=False)
        except _Stalled:
            self._end = CloseCode.TOO_SLOW
            logger.info("session %s: a socket does not read and is closed", hashed(self._session_id))
            # It goes behind what the peer has not read; it arrives if the peer wakes up within the close timeout.
            await self._socket.close(code=CloseCode.TOO_SLOW, message=b"too slow", drain=False)
        except ConnectionError:
            # The peer is gone, or aiohttp gave it up for lack of Pongs. A transport with unsent bytes tells the reading
            # side nothing until it is aborted.
            self._end = self._end or CloseCode.GOING_AWAY
            self._abort()
        finally:
            self._room.set()
            self._watch.close()

    async def _hear(self) -> None:
        """Wait for the client's first frame, but not for long."""
        loop = asyncio.get_running_loop()
        deadline = min(loop.time() + _HELLO_SECONDS, self._ping_at)
        while not (self._heard or self.ending) and loop.time() < deadline:
            await self._wait(deadline)

    async def _round(self) -> None:
        """Send all there is, then wait."""
        if self._greeting:
            await self._greet()
        await self._flush()
        await self._ping_if_due()
        if self._hint is not None and not await self._catch_up(self._hint):
            return
        if self._end is None:
            await self._wait(self._ping_at)

    async def _wait(self, when: float) -> None:
        hint = await self._waiter.until(when)
        if hint is not None and self._hint is not Hint.ERASED:
            self._hint = hint

    async def _catch_up(self, hint: Hint) -> bool:
        """Send what the log holds beyond the cursor; False where there is more of it, or a client to greet first."""
        events = await self._log.read_after(self._session_id, self._cursor.seq, limit=BATCH, epoch=self._cursor.epoch)
        # What was answered while we read was committed before some of these events, and goes first.
        await self._flush()
        for event in events:
            if self._greeting:
                # Version 2 begins with its hello, which says where these events belong.
                return False
            await self._send_event(event)
        if len(events) == BATCH:
            return False
        # The epoch of a session that has not begun is not final, see EventLog.session_for.
        if (hint is Hint.ERASED or (self._cursor.seq == 0 and not events)) and not await self._same_epoch():
            return False
        self._hint = None
        return True

    async def _same_epoch(self) -> bool:
        """Whether the log is still the one that the cursor is in; otherwise go on in the new one, or end the socket."""
        info = await self._log.session_for(self._session_id, self._patient_id)
        if info.head.epoch == self._cursor.epoch:
            return True
        if self._cursor.seq == 0:
            self._cursor = Position(info.head.epoch, 0)
        else:
            if self.version == 2:
                self.reply({"type": "deleted"})
            self.end(CloseCode.DELETED)
        return False

    async def _greet(self) -> None:
        info = await self._log.session_for(self._session_id, self._patient_id)
        resume, snapshot = self._resume, None
        if resume and resume.epoch == info.head.epoch and 0 <= info.head.seq - resume.seq <= REPLAY_LIMIT:
            self._cursor, head, run_id = resume, info.head, info.active_run_id
        else:
            snapshot = await self._log.snapshot(self._session_id, epoch=info.head.epoch)
            while snapshot is None and info.head.seq > 0:  # erased between the two reads
                info = await self._log.session_for(self._session_id, self._patient_id)
                snapshot = await self._log.snapshot(self._session_id, epoch=info.head.epoch)
            snapshot = snapshot or Snapshot(info.head, (), earlier=False)
            self._cursor = head = snapshot.position
            run_id = snapshot.run.run_id if snapshot.run else None
        # Of a session that has not begun only the log knows whether its epoch is still the same.
        self._hint = None if snapshot and head.seq else Hint.GROWN
        self._greeting = False
        self._ping_every = self._settings.heartbeat
        self._ping_at = asyncio.get_running_loop().time() + self._ping_every
        await self._send(
            hello_frame(
                head,
                recovered=snapshot is None,
                run_id=run_id,
                heartbeat=self._settings.heartbeat,
                max_bytes=self._settings.max_bytes,
                scripted=self._scripted,
            )
        )
        if snapshot is not None:
            await self._send(snapshot_object(snapshot))

    async def _send_event(self, event: Event) -> None:
        if self.version == 2:
            await self._send(event_object(event))
        elif (frame := self._v1_frame(event)) is not None:
            await self._send(frame)
        self._cursor = Position(self._cursor.epoch, event.seq)

    def _v1_frame(self, event: Event) -> Json | None:
        match event:
            case RunStarted():
                self._v1_run = event.run_id
            case MessageEnded() if event.run_id != self._v1_run:
                return None
        return v1_frame(event)

    async def _ping_if_due(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._ping_at:
            self._ping_at = now + self._ping_every
            await self._send({"type": "ping"})

    async def _flush(self) -> None:
        while self._outbox and not self._greeting:
            await self._send(self._outbox.popleft())
        self._room.set()

    async def _send(self, frame: Json) -> None:
        try:
            async with asyncio.timeout(self._settings.send_timeout):
                await self._socket.send_str(encode(frame))
        except TimeoutError:
            raise _Stalled from None


class _Stalled(Exception):
    """The peer did not take a frame within `send_timeout`."""
