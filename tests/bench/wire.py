"""As much of RFC 6455 as both ends of a measurement need, by hand: what they cost is not what is measured.

Messages are one frame each. Payloads that are not inspected are dropped. A client masks with the key 0,
which leaves the payload as it is.
"""

import base64
import hashlib

__all__ = ["BINARY", "CLOSE", "PING", "PONG", "TEXT", "Frames", "accept", "frame", "handshake"]

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK = 0x80


def handshake(path: str) -> bytes:
    """A client's request."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()


def accept(head: bytes) -> bytes:
    """A server's answer to it."""
    key = next(line[18:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    token = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n"
    )


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One message or control frame."""
    size, mask = len(payload), _MASK if masked else 0
    if size < 126:
        length = bytes([mask | size])
    elif size < 1 << 16:
        length = bytes([mask | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([mask | 127]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + (bytes(4) if masked else b"") + payload


class Frames:
    """Finds the frames in a stream."""

    def __init__(self, *, keep: bool = False) -> None:
        # From here on a frame's payload is kept, and the frame held until it is whole.
        self._kept_from = 0 if keep else CLOSE
        self._held = b""
        self._left = 0
        self._frame = (0, 0, b"")

    def receive_data(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """The frames that end in these bytes: opcode, size of the payload, and the payload, if it is kept, unmasked."""
        found: list[tuple[int, int, bytes]] = []
        if self._left:
            if len(data) < self._left:
                self._left -= len(data)
                return found
            found.append(self._frame)
            data, self._left = data[self._left :], 0
        if self._held:
            data, self._held = self._held + data, b""
        while data:
            start, size, key = _header(data)
            whole = start + size
            opcode = data[0] & 0xF
            if not start or (opcode >= self._kept_from and len(data) < whole):
                self._held = data
                break
            payload = _unmasked(data[start:whole], key) if opcode >= self._kept_from else b""
            if len(data) < whole:
                self._left, self._frame = whole - len(data), (opcode, size, payload)
                break
            found.append((opcode, size, payload))
            data = data[whole:]
        return found


def _header(data: bytes) -> tuple[int, int, bytes]:
    """Length of the header, length of the payload, and the key; all 0 where the header is not whole yet."""
    if len(data) < 2:
        return 0, 0, b""
    size, start = data[1] & 0x7F, 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(data[2:10], "big"), 10
    key = data[start : start + 4] if data[1] & _MASK else b""
    start += 4 if data[1] & _MASK else 0
    return (start, size, key) if len(data) >= start else (0, 0, b"")


def _unmasked(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[place % 4] for place, byte in enumerate(payload)) if key else payload
