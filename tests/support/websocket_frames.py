"""WebSocket frames as a test writes them, right or wrong, and reads them back; none of it is the gateway's."""

import dataclasses

__all__ = ["Frame", "close_frame", "frame", "parse"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One that was read: its payload is unmasked."""

    first: int
    masked: bool
    payload: bytes

    @property
    def opcode(self) -> int:
        return self.first & 15

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason of a Close."""
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()


def frame(opcode: int, payload: bytes = b"", *, key: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
    """A frame, masked if there is a `key`."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    if key:
        length = bytes((length[0] | 128,)) + length[1:]
        payload = _masked(payload, key)
    return bytes((fin << 7 | rsv << 4 | opcode,)) + length + key + payload


def close_frame(code: int, reason: str = "", *, key: bytes = b"") -> bytes:
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), key=key)


def parse(data: bytes) -> list[Frame]:
    """The frames of which these are all the bytes.

    Raises:
        EOFError: the last one is not whole.
    """
    frames, at = [], 0
    while at < len(data):
        if len(data) < at + 2:
            raise EOFError
        first, second = data[at], data[at + 1]
        at += 2
        size = second & 127
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        key = data[at : at + 4] if second & 128 else b""
        at += len(key)
        payload = data[at : at + size]
        at += size
        if at > len(data):
            raise EOFError
        frames.append(Frame(first, bool(key), _masked(payload, key) if key else payload))
    return frames


def _masked(payload: bytes, key: bytes) -> bytes:
    # For megabytes, too.
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
