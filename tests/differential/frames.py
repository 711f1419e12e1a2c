"""WebSocket frames as bytes, and bytes as words that a table can hold."""

import zlib

__all__ = ["BINARY", "BULK_DOWN", "BULK_UP", "CLOSE", "PING", "PONG", "TEXT", "close", "frame", "words"]

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_FIN, _MASKED = 0x80, 0x80
_KEY = b"\x1a\x2b\x3c\x4d"
# More than this stands in a table as its size and its checksum.
_SHORT = 60


def frame(opcode: int, payload: bytes, *, masked: bool, first: int = _FIN) -> bytes:
    """One frame; `first` holds FIN and the reserved bits of the first byte."""
    bit = _MASKED if masked else 0
    size = len(payload)
    if size < 126:
        length = bytes([bit | size])
    elif size < 1 << 16:
        length = bytes([bit | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([bit | 127]) + size.to_bytes(8, "big")
    return bytes([first | opcode]) + length + (_KEY + _mask(payload, _KEY) if masked else payload)


def close(code: int, reason: str = "", *, masked: bool) -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), masked=masked)


def words(data: bytes) -> str:
    """What a peer received, in a form to compare and to read: a Close frame that it ends with is told by its code."""
    for start in range(max(0, len(data) - 2 - 4 - 125), len(data)):
        if (told := _close(data[start:])) is not None:
            return " ".join(filter(None, [_plain(data[:start]), told]))
    return _plain(data)


def _plain(data: bytes) -> str:
    if len(data) <= _SHORT:
        return repr(data)[2:-1]
    return f"{len(data)} bytes {zlib.crc32(data):08x}"


def _close(data: bytes) -> str | None:
    """`Close 1000 bye`, where this is a whole Close frame and nothing else."""
    if len(data) < 4 or data[0] != _FIN | CLOSE:
        return None
    masked, size = data[1] & _MASKED, data[1] & ~_MASKED
    payload = data[6:] if masked else data[2:]
    if size > 125 or size != len(payload) or size < 2:
        return None
    payload = _mask(payload, data[2:6]) if masked else payload
    return f"{'masked ' if masked else ''}Close {int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}".rstrip()


def _mask(payload: bytes, key: bytes) -> bytes:
    repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(payload), "big")


BULK_DOWN = frame(BINARY, bytes(1 << 16), masked=False)
"""What a flood is made of."""
BULK_UP = frame(BINARY, bytes(1 << 16), masked=True)
