"""One socket of a chat: its handshake and the commands that it sends.

The reading side is here, the writing side in `delivery.py`. A socket is only a view: runs go on without it.
"""

import asyncio
import contextlib
import functools
import logging
import uuid
from collections.abc import Awaitable, Callable

from aiohttp import WSMsgType, web

from moorline.backend.audit import Audit
from moorline.backend.client_limits import Client
from moorline.backend.delivery import Delivery
from moorline.backend.errors import CloseCode, ErrorCode, Refusal
from moorline.backend.eventlog.base import LogUnavailable, SessionInfo, Started
from moorline.backend.eventlog.log import EventLog
from moorline.backend.gate import Gate
from moorline.backend.protocol.codec import ENVELOPE, Json, decode_object, encode, frame_limit, parse_frame
from moorline.backend.protocol.models import (
    Cancel,
    ClientMessage,
    ClientPing,
    ClientPong,
    Hello,
    Retry,
    Send,
    ServerPong,
    V1Send,
    is_id,
)
from moorline.backend.requests import path_id
from moorline.backend.rights import Rights
from moorline.backend.runs import Runs
from moorline.backend.settings import Settings
from moorline.backend.tickets import Tickets
from moorline.backend.wire import Wire
from moorline.gateway.common.access.authorize import SUBPROTOCOL, ticket
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.access.rights import Right
from moorline.gateway.common.logs import hashed
from moorline.gateway.common.web.aiohttp_private import ServerSocket
from moorline.gateway.common.web.connection import Connection
from moorline.gateway.common.web.messages import Violation
from moorline.gateway.common.web.reconnect_window import Measured, ReconnectWindow

__all__ = ["V1_PING_SECONDS", "Sockets"]

logger = logging.getLogger("moorline.backend.websocket")

#: What clients of version 1 expect.
V1_PING_SECONDS = 30.0
# See ReconnectWindow: parsing the request, its tasks, `hello`, what the client has missed, and the gateway's part.
_WHOLE_RECONNECT = 14.0
_MEAN_OF = 64
# From the Close frame sent to the peer's.
_CLOSE_TIMEOUT = 5.0
# The third frame that is not understood within this time ends the socket.
_BAD_FRAMES = 3
_BAD_FRAMES_SECONDS = 60.0
# Frames that wait are received without yielding to the event loop: many of them would delay all other clients. A socket
# that has sent so many waits for a turn, of which an iteration of the event loop has few: with 50 sockets of Pings it
# would otherwise take 10 ms.
_FRAMES_PER_TURN = 16
_PONG = encode(ServerPong())
_VIOLATION_CODES = {
    Violation.TIME: CloseCode.TOO_SLOW,
    Violation.SIZE: CloseCode.TRY_AGAIN_LATER,
    Violation.UNMASKED: CloseCode.PROTOCOL_ERROR,
}


class Sockets:
    """All sockets of this process."""

    def __init__(
        self,
        log: EventLog,
        runs: Runs,
        audit: Audit,
        rights: Rights,
        tickets: Tickets,
        gate: Gate,
        settings: Settings,
        *,
        v1_ping: float = V1_PING_SECONDS,
    ) -> None:
        self._log = log
        self._runs = runs
        self._audit = audit
        self._rights = rights
        self._tickets = tickets
        self._gate = gate
        self._settings = settings
        self._v1_ping = v1_ping
        self._open: set[Delivery] = set()
        self._closing = False
        self._reconnect_window = ReconnectWindow(whole=_WHOLE_RECONNECT, weight=_MEAN_OF)
        self._reconnect_within: float | None = None

    def close_all(self) -> None:
        """Close every socket with 1012, after `goaway`; each socket's own task does it."""
        self._closing = True
        self._reconnect_within = self._reconnect_window.seconds(len(self._open))
        for delivery in list(self._open):
            delivery.restart(self._reconnect_within)

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """GET /ws/chat/{patient_id}/{session_id}"""
        patient_id, session_id = path_id(request, "patient_id"), path_id(request, "session_id")
        # Later a handshake that came before the restart would be refused as well, where its right took some time.
        if self._closing:
            raise web.HTTPServiceUnavailable(text="The backend is restarting.", headers={"Retry-After": "1"})
        socket, info, right = await self._enter(request, patient_id, session_id)
        try:
            await self._converse(request, socket, info, right)
        finally:
            self._rights.release(right)
        return socket

    async def _enter(
        self, request: web.Request, patient_id: str, session_id: str
    ) -> tuple[web.WebSocketResponse, SessionInfo, Right]:
        """Accept a socket. Its right is the caller's to release: with the stack and all else that a handshake needs,
        held for as long as the socket is open, each would take 2 KiB more."""
        with contextlib.ExitStack() as held:
            with self._audit.access("open", session_id) as access:
                if (text := ticket(request)) is not None:
                    right = await self._tickets.enter(access, held, text, patient_id, session_id)
                else:
                    ask = functools.partial(self._rights.ask, request, patient_id, session_id)
                    right = await self._rights.enter(access, held, ask)
                self._rights.count_handshake(right.principal)
                accepting = Measured(self._accept(request, patient_id, session_id, text))
                socket, info = await accepting
                self._reconnect_window.add(accepting.seconds)
            logger.info("session %s: socket opened", hashed(info.session_id))
            held.pop_all()
        return socket, info, right

    async def _accept(
        self, request: web.Request, patient_id: str, session_id: str, text: str | None
    ) -> tuple[web.WebSocketResponse, SessionInfo]:
        # A protocol Ping per heartbeat finds peers that vanished: aiohttp closes when no Pong comes in half the time.
        # Compression costs some 300 KiB for each socket and saves little on frames of a few words.
        socket = ServerSocket(
            heartbeat=self._settings.heartbeat,
            compress=False,
            max_msg_size=frame_limit(self._settings.max_bytes),
            # aiohttp answers all the Pings that wait before it returns, while all other clients wait.
            autoping=False,
            timeout=_CLOSE_TIMEOUT,
            # A client that offers its token as a subprotocol offers this one beside it: a browser wants one named.
            protocols=(SUBPROTOCOL,),
        )
        if not _is_handshake(socket, request):
            raise Refusal(ErrorCode.BAD_REQUEST, "This address speaks WebSocket; see /docs.")
        info = await self._log.session_for(session_id, patient_id)
        if text is not None:
            # Last: a handshake that is refused for another reason leaves the ticket, and may be tried again with it.
            await self._tickets.redeem(text)
        await socket.prepare(request)
        return socket, info

    async def _converse(
        self, request: web.Request, socket: web.WebSocketResponse, info: SessionInfo, right: Right
    ) -> None:
        protocol, address = request.protocol, client_address(request)
        client = self._rights.client(request, right.principal)
        wire = Wire(protocol, socket)
        if isinstance(protocol, Connection):
            # Its own timer is of the same length, and would end the connection before the Close frame that says why.
            protocol.leave_sends_to_handler()
        delivery = Delivery(
            socket,
            self._log,
            self._settings,
            turn=lambda: self._gate.turn(address),
            start=info,
            v1_ping=self._v1_ping,
            scripted=self._runs.scripted,
            request_id=_request_id(request),
            wire=wire,
        )
        writing = asyncio.create_task(delivery.run())
        self._open.add(delivery)
        if self._closing:
            delivery.restart(self._reconnect_within)
        right.on_end(lambda: delivery.revoke(expired=right.expired))
        if isinstance(protocol, Connection):
            protocol.on_violation(lambda violation: delivery.end(_VIOLATION_CODES[violation]), client=client.address)
        try:
            reader = _Reader(
                socket,
                delivery,
                self._runs,
                self._audit,
                max_bytes=self._settings.max_bytes,
                info=info,
                right=right,
                client=client,
                turn=protocol.turn if isinstance(protocol, Connection) else _yield,
            )
            await reader.run()
        finally:
            self._open.discard(delivery)
            # It may wait for the answer to its Close frame, bounded by _CLOSE_TIMEOUT.
            if not delivery.ending:
                writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            if not writing.cancelled() and (error := writing.exception()) is not None:
                logger.error("session %s: delivery failed", hashed(info.session_id), exc_info=error)
            # A transport that is closed waits for its buffer to empty, and a peer that does not read never empties it.
            if wire.unsent():
                asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT, wire.abort)
            logger.info("session %s: socket closed with %s", hashed(info.session_id), socket.close_code)


class _Reader:
    """The reading side of one socket."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        delivery: Delivery,
        runs: Runs,
        audit: Audit,
        *,
        max_bytes: int,
        info: SessionInfo,
        right: Right,
        client: Client,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        self._turn = turn
        self._socket = socket
        self._delivery = delivery
        self._runs = runs
        self._audit = audit
        self._max_bytes = max_bytes
        self._info = info
        self._right = right
        self._client = client
        self._first = True
        self._frames = 0
        # When the last frames came that were not understood.
        self._bad: tuple[float, ...] = ()

    @property
    def _who(self) -> str:
        return self._right.principal.name

    async def run(self) -> None:
        """Carry out the client's commands until either side closes."""
        while not self._delivery.ending:
            message = await self._socket.receive()
            if self._delivery.revoked:
                return
            if message.type is WSMsgType.TEXT:
                self._delivery.frame_read()
                await self._take(message.data)
                self._first = False
            elif message.type is WSMsgType.PING:
                self._delivery.answer_ping(message.data)
            elif message.type is WSMsgType.PONG:
                pass  # aiohttp has noted that the client lives
            elif message.type is WSMsgType.BINARY:
                self._delivery.end(CloseCode.UNSUPPORTED_DATA)
            else:
                return
            await self._delivery.room()
            await self._yield_if_many()

    async def _yield_if_many(self) -> None:
        """Wait for a turn behind so many frames that the event loop has done nothing else in between. A client that
        sends one now and then waits behind no queue of others."""
        self._frames += 1
        if self._frames == 1:
            asyncio.get_running_loop().call_soon(self._begin_count)
        elif self._frames == _FRAMES_PER_TURN:
            await self._turn()

    def _begin_count(self) -> None:
        self._frames = 0

    async def _take(self, text: str) -> None:
        frame: Json = {}
        version = self._delivery.version.number
        try:
            frame = decode_object(text)
            if _overfull(text, frame):
                raise Refusal(ErrorCode.BAD_REQUEST, "The frame is much larger than its message.")
            command = parse_frame(frame, version=version, first=self._first, max_bytes=self._max_bytes)
        except Refusal as refusal:
            self._refuse(refusal, frame)
            self._count_bad()
            return
        try:
            await self._carry_out(command)
        except Refusal as refusal:
            self._refuse(refusal, frame)
        except LogUnavailable as error:
            logger.debug("event log unavailable: %s", error)
            self._refuse(Refusal(ErrorCode.INTERNAL), frame)

    async def _carry_out(self, command: ClientMessage) -> None:
        session_id = self._info.session_id
        match command:
            case Hello():
                self._delivery.greet(command)
            case V1Send():
                await self._send(str(uuid.uuid4()), command.message)
            case Send():
                await self._send(command.client_msg_id, command.message)
            case Retry():
                with self._audit.access("retry", session_id, self._who) as access:
                    started = await self._runs.retry(
                        session_id,
                        client=self._client,
                        run_id=command.run_id,
                        client_msg_id=command.client_msg_id,
                        by=self._right.principal,
                        acknowledge=lambda started: self._acknowledge(command.client_msg_id, started),
                    )
                    access.outcome = "duplicate" if started.duplicate else "ok"
            case Cancel():
                with self._audit.access("cancel", session_id, self._who):
                    await self._runs.cancel(session_id, command.run_id)
            case ClientPing():
                self._delivery.reply(_PONG)
            case ClientPong():
                pass

    async def _send(self, client_msg_id: str, content: str) -> None:
        session_id = self._info.session_id
        with self._audit.access("send", session_id, self._who) as access:
            started = await self._runs.send(
                session_id,
                self._info.patient_id,
                client=self._client,
                client_msg_id=client_msg_id,
                content=content,
                by=self._right.principal,
                epoch=self._delivery.epoch,
                acknowledge=lambda started: self._acknowledge(client_msg_id, started),
            )
            access.outcome = "duplicate" if started.duplicate else "ok"

    def _acknowledge(self, client_msg_id: str, started: Started) -> None:
        self._delivery.reply(
            self._delivery.version.ack(
                client_msg_id, seq=started.seq, run_id=started.run_id, duplicate=started.duplicate
            )
        )

    def _refuse(self, refusal: Refusal, frame: Json) -> None:
        self._delivery.reply(self._delivery.version.refusal(refusal, frame.get("client_msg_id")))

    def _count_bad(self) -> None:
        now = asyncio.get_running_loop().time()
        self._bad = (*self._bad, now)[-_BAD_FRAMES:]
        if len(self._bad) == _BAD_FRAMES and now - self._bad[0] <= _BAD_FRAMES_SECONDS:
            self._delivery.end(CloseCode.BAD_FRAMES)


def _is_handshake(socket: web.WebSocketResponse, request: web.Request) -> bool:
    try:
        return bool(socket.can_prepare(request))
    except ValueError:
        # Of a Sec-WebSocket-Key that is not base64.
        return False


def _request_id(request: web.Request) -> str | None:
    """The id that a gateway in front has given the handshake."""
    given = request.headers.get("X-Request-ID", "")
    return given if is_id(given) else None


async def _yield() -> None:
    """What `Connection.turn` is where aiohttp's own server holds the connection, as in its test client."""
    await asyncio.sleep(0)


def _overfull(text: str, frame: Json) -> bool:
    """Whether a frame is long without a message that is: decoding it costs all clients time, so it counts as bad."""
    if len(text) <= ENVELOPE:
        return False
    message = frame.get("message")
    size = len(message.encode(errors="surrogatepass")) if isinstance(message, str) else 0
    return len(text) > frame_limit(size)
