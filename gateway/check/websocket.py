"""A WebSocket client that says exactly what a server does wrong, where libraries say only that something is."""

import asyncio
import base64
import contextlib
import dataclasses
import os
import ssl
import time
from collections.abc import Mapping
from typing import Self

from moorline.gateway.check.services import service_of
from moorline.gateway.check.verdicts import Failure, FailureKind
from moorline.gateway.common.web.accept import accept_for
from moorline.gateway.common.web.frames import Opcode, control, mask
from moorline.gateway.common.web.statuses import SWITCHING_PROTOCOLS

__all__ = ["HopFailed", "Message", "Target", "WebSocket"]

_TEXT = 0x1
_HTTP, _END = b"HTTP", b"\r\n\r\n"
_MAX_HEAD = 1 << 16
_MAX_BODY = 1 << 14
# What browsers and servers take by default is between 1 MiB and no limit.
_MAX_FRAME = 16 << 20
_KNOWN_OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)
# Of a control frame's payload (RFC 6455 section 5.5).
_MAX_CONTROL = 125
# For the Close frame to be sent, to a server that may read nothing.
_CLOSE_SECONDS = 1.0


class HopFailed(Exception):
    """A hop ended with this failure."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(str(failure))


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """Where a handshake is sent."""

    host: str
    port: int
    authority: str
    tls: ssl.SSLContext | None


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """A frame of the server's: text, binary, or a Pong."""

    opcode: int
    payload: bytes

    @property
    def is_pong(self) -> bool:
        return self.opcode == Opcode.PONG


class WebSocket:
    """An open socket. Pings of the server are answered, and counted, while something is awaited."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request_id: str) -> None:
        self._reader = reader
        self._writer = writer
        self.request_id = request_id
        """`X-Request-ID` of the 101; empty where it had none."""
        self.pings = 0
        self.last = time.perf_counter()
        """When the last bytes came."""

    @classmethod
    async def open(cls, target: Target, path: str, headers: Mapping[str, str]) -> Self:
        """Connect and send the handshake.

        Raises:
            HopFailed: the response is not a 101 to it, or there is none.
        """
        reader, writer = await asyncio.open_connection(target.host, target.port, ssl=target.tls, limit=_MAX_HEAD)
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            own = {"Host": target.authority, "Upgrade": "websocket", "Connection": "Upgrade"}
            own |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key, **headers}
            lines = (f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in own.items()), "", "")
            writer.write("\r\n".join(lines).encode("latin-1"))
            status, received = await _response_head(reader)
            if status != SWITCHING_PROTOCOLS:
                raise HopFailed(await _refusal(reader, status, received))
            _check(received, key, headers)
        except BaseException:
            writer.transport.abort()
            raise
        return cls(reader, writer, received.get("x-request-id", ""))

    async def send_text(self, text: str) -> None:
        """One message, in one frame."""
        payload, key = text.encode(), os.urandom(4)
        size = len(payload)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        self._writer.write(bytes((0x80 | _TEXT,)) + length + key + mask(payload, key))
        await self._writer.drain()

    async def ping(self) -> None:
        self._writer.write(control(Opcode.PING, b"check", os.urandom(4)))
        await self._writer.drain()

    async def receive(self) -> Message:
        """The next frame that is no Ping.

        Raises:
            HopFailed: the socket ended, or its frame breaks a rule.
        """
        while True:
            message = await self._frame()
            if message.opcode == Opcode.CLOSE:
                raise HopFailed(_closed(message.payload))
            if message.opcode != Opcode.PING:
                return message
            self.pings += 1
            self._writer.write(control(Opcode.PONG, message.payload, os.urandom(4)))
            # A server that sends Pings and reads nothing is read no further. Why a connection was lost stands in what
            # it has sent.
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()

    async def close(self) -> None:
        """Send a Close frame, and wait for no answer."""
        with contextlib.suppress(OSError):
            self._writer.write(control(Opcode.CLOSE, (1000).to_bytes(2, "big"), os.urandom(4)))
            self._writer.close()
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()
        # asyncio's transport forgets its loop once it has sent what was left at `close`: there is nothing to abort.
        with contextlib.suppress(AttributeError):
            self._writer.transport.abort()

    async def _frame(self) -> Message:
        first, second = await self._read(2, mid_frame=False)
        opcode, size = first & 0x0F, second & 0x7F
        if first & 0x70 or opcode not in _KNOWN_OPCODES:
            raise HopFailed(Failure(FailureKind.BAD_FRAME, detail="reserved bits or a reserved opcode"))
        if second & 0x80:
            raise HopFailed(Failure(FailureKind.BAD_FRAME, detail="it is masked"))
        if opcode >= Opcode.CLOSE and (size > _MAX_CONTROL or not first & 0x80):
            raise HopFailed(Failure(FailureKind.BAD_FRAME, detail="a control frame that is too long or in parts"))
        if size > _MAX_CONTROL:
            size = int.from_bytes(await self._read(2 if size == 126 else 8), "big")
        if size > _MAX_FRAME:
            raise HopFailed(Failure(FailureKind.TOO_LARGE, detail=f"{size} bytes"))
        payload = await self._read(size)
        if opcode == _TEXT and first & 0x80:
            try:
                payload.decode()
            except UnicodeDecodeError:
                raise HopFailed(Failure(FailureKind.BAD_FRAME, detail="it is text, and not UTF-8")) from None
        return Message(opcode, payload)

    async def _read(self, size: int, *, mid_frame: bool = True) -> bytes:
        try:
            data = await self._reader.readexactly(size)
            self.last = time.perf_counter()
            return data
        except asyncio.IncompleteReadError as error:
            raise HopFailed(Failure(FailureKind.CUT if mid_frame or error.partial else FailureKind.FIN)) from None
        except ConnectionError:
            raise HopFailed(
                Failure(FailureKind.RESET, detail="in the middle of a frame" if mid_frame else "")
            ) from None


async def _response_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    try:
        head = await reader.read(len(_HTTP))
        while not head.endswith(_END):
            if head[: len(_HTTP)] != _HTTP[: len(head)]:
                raise HopFailed(Failure(FailureKind.NOT_HTTP, detail=service_of(head)))
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise HopFailed(Failure(FailureKind.CUT_HEADERS if head or line else FailureKind.CLOSED))
            head += line
            if len(head) > _MAX_HEAD:
                raise HopFailed(Failure(FailureKind.NOT_HTTP, detail="its headers have no end"))
    except ValueError:
        raise HopFailed(Failure(FailureKind.NOT_HTTP, detail="a line without an end")) from None
    start, *lines = head.decode("latin-1").split("\r\n")
    status = start.split(" ")[1:2]
    if not (status and status[0].isdigit()):
        raise HopFailed(Failure(FailureKind.NOT_HTTP))
    parsed = (line.partition(":") for line in lines if ":" in line)
    return int(status[0]), {name.strip().lower(): value.strip() for name, _, value in parsed}


async def _refusal(reader: asyncio.StreamReader, status: int, headers: Mapping[str, str]) -> Failure:
    """With what the body says, where it is a problem document (RFC 9457)."""
    body = b""
    if "json" in headers.get("content-type", "") and headers.get("content-length", "").isdigit():
        size = min(int(headers["content-length"]), _MAX_BODY)
        with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            body = await asyncio.wait_for(reader.readexactly(size), 2.0)
    return Failure.refused(status, headers, body)


def _check(received: Mapping[str, str], key: str, sent: Mapping[str, str]) -> None:
    """What a browser checks in a 101 (RFC 6455 section 4.1)."""
    if received.get("upgrade", "").lower() != "websocket" or "upgrade" not in received.get("connection", "").lower():
        raise HopFailed(
            Failure(FailureKind.BAD_ACCEPT, detail="the 101 has no Upgrade: websocket and Connection: Upgrade")
        )
    if "sec-websocket-accept" not in received:
        raise HopFailed(Failure(FailureKind.BAD_ACCEPT, detail="the 101 has no Sec-WebSocket-Accept"))
    if received["sec-websocket-accept"] != accept_for(key.encode()).decode():
        raise HopFailed(Failure(FailureKind.BAD_ACCEPT, detail="the Sec-WebSocket-Accept is another key's"))
    offered = [word.strip() for word in _header(sent, "sec-websocket-protocol").split(",") if word.strip()]
    chosen = received.get("sec-websocket-protocol", "")
    if chosen and chosen not in offered:
        raise HopFailed(Failure(FailureKind.SUBPROTOCOL, detail=f"it selected {chosen[:80]!r}, which was not offered"))
    if offered and not chosen:
        raise HopFailed(Failure(FailureKind.SUBPROTOCOL, detail=f"it selected none of {', '.join(offered)}"))


def _header(headers: Mapping[str, str], name: str) -> str:
    return next((value for key, value in headers.items() if key.lower() == name), "")


def _closed(payload: bytes) -> Failure:
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
    reason = payload[2:].decode(errors="replace")
    said = f", {reason}" if reason and reason.isprintable() else ""
    return Failure(FailureKind.CLOSED, detail=f"close code {code}{said}")
