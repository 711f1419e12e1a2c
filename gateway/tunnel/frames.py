"""WebSocket frames as they pass (RFC 6455 section 5): where each begins and ends, and the few the gateway makes. Pure.

A `Scanner` follows one direction. It reads frame heads and skips payloads by count; the bytes pass as they came, in the
same pieces, whatever they are. It is what the tunnel knows of a stream: between which two bytes a frame of the gateway
would do no harm, whether a Close has passed, and whether a frame is too large.
"""

import enum
from collections.abc import Callable

__all__ = ["CloseCode", "Opcode", "Scanner", "close", "control", "mask"]


class Opcode(enum.IntEnum):
    """RFC 6455 section 5.2; those that the gateway makes or looks at."""

    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """RFC 6455 section 7.4.1 and the IANA registry."""

    GOING_AWAY = 1001
    NO_STATUS = 1005
    """Never sent: a Close frame without a code."""
    ABNORMAL = 1006
    """Never sent: there was no Close frame."""
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014


_FIN = 0x80
_CONTROL = 0x08
_MASKED = 0x80
_LENGTH = 0x7F
_CLOSE = _FIN | Opcode.CLOSE
_PONG = _FIN | Opcode.PONG
# RFC 6455 section 5.5.
_MAX_CONTROL = 125
# Of a stream that cannot be followed, all is the payload of one frame without an end.
_ENDLESS = 1 << 80


def _whole_frame(second: int) -> int:
    """Size of a frame whose second byte this is. Of one with a 16-bit length, minus the size of its head; else 0."""
    head = 6 if second & _MASKED else 2
    length = second & _LENGTH
    if length <= _MAX_CONTROL:
        return head + length
    return -head - 2 if length == 126 else 0


# A look into a table costs a third of the arithmetic, and it is done for each frame.
_WHOLE = tuple(_whole_frame(second) for second in range(256))


# Making frames --------------------------------------------------------------------------------------------------------


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask (section 5.3)."""
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")


def control(opcode: Opcode, payload: bytes, key: bytes | None) -> bytes:
    """A control frame, masked with `key`: toward a server always, toward a client never (section 5.1)."""
    if key is None:
        return bytes((_FIN | opcode, len(payload))) + payload
    return bytes((_FIN | opcode, _MASKED | len(payload))) + key + mask(payload, key)


def close(code: CloseCode, reason: str, key: bytes | None) -> bytes:
    """A Close frame."""
    return control(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode(), key)


# Following frames -----------------------------------------------------------------------------------------------------


class Scanner:
    """The bytes that come from one side.

    A stream that breaks a rule which no extension may bend is `lost`: from there on it passes without being looked at.
    Unknown opcodes, RSV bits and a mask in the wrong direction do not keep it from being followed.
    """

    __slots__ = (
        "_held", "_left", "_max_payload", "_output", "_quick", "_tail",
        "awaits", "close_code", "frames", "last", "lost", "pending", "size", "too_large",
    )  # fmt: skip

    def __init__(self, now: float, *, max_payload: int | None = None) -> None:
        self.last = now
        """When bytes came from this side, of whatever kind."""
        self.size = 0
        """Bytes that were passed on."""
        self.frames = 0
        """Frames that were passed on, up to where the stream was lost."""
        self.close_code: int | None = None
        """That of the Close frame which has passed."""
        self.too_large = False
        """A frame is larger than `max_payload`; neither it nor anything after it is passed on."""
        self.lost = False
        self.pending: Callable[[float], bytes] | None = None
        """Asked once for a frame to put in at the next boundary."""
        self.awaits: Callable[[bytes, float], bool] | None = None
        """Whether a Pong answers the gateway's own Ping and is to be swallowed. Until this is None, every Pong is held
        until it is whole."""
        self._max_payload = _ENDLESS if max_payload is None else max_payload
        # The short ways do not look at the limit: they are for frames up to this size, and off where it is very low.
        self._quick = self._max_payload if self._max_payload > _MAX_CONTROL else 0
        # Payload still to come of the present frame; -1 within a head, of which `_tail` is what has come. It has been
        # passed on, unless it may be the Pong that is waited for.
        self._left = 0
        self._tail = b""
        self._held = False
        self._output = b""

    @property
    def at_boundary(self) -> bool:
        """Whether the last byte that was passed on ended a frame."""
        return self._left == 0 or self._held

    def receive_data(self, data: bytes, now: float) -> bytes | None:
        """The bytes to pass on. None: `take` them, and see whether there is a `close_code` or something `too_large`."""
        self.last = now
        size = len(data)
        self.size += size
        left = self._left
        if left > size:
            self._left = left - size
            return data
        # Most reads bring one whole small frame.
        if left == 0 and 3 < size <= self._quick and not data[0] & _CONTROL:
            whole = _WHOLE[data[1]]
            if whole == size or (whole < 0 and (data[2] << 8 | data[3]) - whole == size):
                self.frames += 1
                return data
        return self._scan(data)

    def receive_late(self, data: bytes, now: float) -> bytes:
        """After the tunnel's end: nothing passes any more."""
        self.last = now
        return b""

    def take(self) -> bytes:
        """What `receive_data` kept back when it returned None."""
        output, self._output = self._output, b""
        return output

    # ------------------------------------------------------------------------------------------------------------------

    def _scan(self, data: bytes) -> bytes | None:
        """`receive_data` for everything else."""
        # A frame begins at `at`; from `start` on nothing has been passed on yet.
        at, start = self._left, 0
        if at < 0:
            at, start = 0, 0 if self._held else len(self._tail)
            data, self._tail, self._held = self._tail + data, b"", False
        end, news = len(data), False
        left: int | None = None
        parts: list[bytes] = []
        while at < end or (at == end and self.pending is not None):
            if self.pending is not None and at >= start:
                parts += data[start:at], self.pending(self.last)
                self.pending, start = None, at
                continue
            if self._quick and self.pending is None and (after := self._skip_small_frames(data, at)) > at:
                at = after
                continue
            first, (head, length) = data[at], _head(data, at)
            if length == _ENDLESS:
                self.lost, left = True, _ENDLESS
                break
            if length > self._max_payload:
                self.too_large, news, left = True, True, 0 if at >= start else -1
                end = max(at, start)
                self.size -= len(data) - end
                break
            may_be_ours = first == _PONG and self.awaits is not None and at >= start
            wanted = head + (length if may_be_ours else min(2, length) if first == _CLOSE else 0)
            if not head or at + wanted > end:
                self._tail, self._held, left = data[at:], may_be_ours, -1
                end = at if may_be_ours else end
                break
            after = at + head + length
            if may_be_ours and self._is_ours(data[at:after], head):
                parts.append(data[start:at])
                start = after
                self.size -= after - at
            else:
                self.frames += 1
                if first == _CLOSE and self.close_code is None:
                    self.close_code, news = _code(data[at : at + wanted], head), True
                    # Nothing follows a Close.
                    self.pending = None
            at = after
        self._left = at - end if left is None else left
        output = b"".join((*parts, data[start:end])) if parts else data[start:end]
        if news:
            self._output = output
            return None
        return output

    def _skip_small_frames(self, data: bytes, at: int) -> int:
        """Where the first frame begins that is not a small data frame, or not here yet. A token stream is made of them,
        hundreds in one read."""
        last, count = len(data) - 1, 0
        while at < last:
            size = _WHOLE[data[at + 1]]
            if size <= 0 or data[at] & _CONTROL:
                break
            at += size
            count += 1
        self.frames += count
        return at

    def _is_ours(self, pong: bytes, head: int) -> bool:
        return self.awaits is not None and self.awaits(_unmasked(pong, head), self.last)


def _head(data: bytes, at: int) -> tuple[int, int]:
    """Sizes of the head and of the payload of the frame at `at`; 0 for a head that is not all there."""
    available = len(data) - at
    if available < 2:
        return 0, 0
    size, length = 2, data[at + 1] & _LENGTH
    # Section 5.5: a control frame has a short length, and no second part.
    if data[at] & _CONTROL and (length > _MAX_CONTROL or not data[at] & _FIN):
        return size, _ENDLESS
    if length > _MAX_CONTROL:
        size = 4 if length == 126 else 10
        if available < size:
            return 0, 0
        length = int.from_bytes(data[at + 2 : at + size], "big")
        # Section 5.2: the most significant bit must be 0.
        if length >> 63:
            return size, _ENDLESS
    if data[at + 1] & _MASKED:
        size += 4
    return (size, length) if available >= size else (0, 0)


def _unmasked(frame: bytes, head: int) -> bytes:
    """The payload of a frame, or as much as there is of it."""
    return mask(frame[head:], frame[head - 4 : head]) if frame[1] & _MASKED else frame[head:]


def _code(frame: bytes, head: int) -> int:
    payload = _unmasked(frame, head)
    return int.from_bytes(payload, "big") if len(payload) == 2 else CloseCode.NO_STATUS
