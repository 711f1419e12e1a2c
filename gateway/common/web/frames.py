"""WebSocket frames (RFC 6455 section 5): where each begins and ends in a stream, and how to make one. Pure.

A `FrameParser` reads frame headers and skips payloads by count. It keeps no byte of a data frame and changes none, so
that the caller can pass on each read as it came.
"""

import enum
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = [
    "WHOLE",
    "CloseCode",
    "Event",
    "Found",
    "FrameParser",
    "Opcode",
    "close",
    "control",
    "control_payload",
    "mask",
    "text",
]


class Opcode(enum.IntEnum):
    """RFC 6455 section 5.2; those that are made or read here."""

    TEXT = 0x1
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """RFC 6455 section 7.4.1 and the IANA registry."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    """Never sent: a Close frame without a code."""
    ABNORMAL = 1006
    """Never sent: there was no Close frame."""
    INVALID_DATA = 1007
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    # Of the range for applications: the chat protocol's, whose clients know what to do.
    EXPIRED = 4401
    """The right has ended by its time: come back with new credentials."""
    FORBIDDEN = 4503
    """The right was withdrawn: do not come back."""


_FIN = 0x80
_OPCODE = 0x0F
_CONTROL = 0x08
_MASKED = 0x80
_LENGTH = 0x7F
_CLOSE = _FIN | Opcode.CLOSE
_PONG = _FIN | Opcode.PONG
# RFC 6455 section 5.5.
_MAX_CONTROL = 125
# Two bytes, a length of eight more, and a masking key.
_MAX_HEADER = 14
# A stream that cannot be followed is treated as the payload of one frame without an end.
_ENDLESS = 1 << 80
_IN_HEADER = -1
# Frames that are followed in one call, and those of them that are reported: 0.1 ms. A read of 256 KiB may hold 131,072,
# so that 50 connections that send nothing else would keep all others waiting for a second.
_TURN = range(1024)
_MAX_FOUND = 64


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


def text(payload: bytes) -> bytes:
    """A text frame toward a client, as a whole message of at most 64 KiB."""
    size = len(payload)
    if size <= _MAX_CONTROL:
        return bytes((_FIN | Opcode.TEXT, size)) + payload
    return bytes((_FIN | Opcode.TEXT, 126, size >> 8, size & 0xFF)) + payload


def close(code: CloseCode, reason: str, key: bytes | None) -> bytes:
    """A Close frame."""
    return control(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode(), key)


# Following frames -----------------------------------------------------------------------------------------------------


class Event(enum.Enum):
    """Why a parser reports a frame."""

    CLOSE = enum.auto()
    PONG = enum.auto()
    TOO_LARGE = enum.auto()
    """Its header says that it is larger than `max_payload`."""
    UNMASKED = enum.auto()
    """It has no mask, in a stream whose frames must have one (section 5.1)."""


class Found(NamedTuple):
    """A frame that is reported: a control frame once it is whole, one that is too large once its size is known."""

    event: Event
    start: int
    """Counted from the first byte that was fed; negative for a frame that began before it."""
    end: int
    payload: bytes = b""
    """Unmasked."""


_REPORTED: Mapping[int, Event] = {_CLOSE: Event.CLOSE}
_REPORTED_WITH_PONGS: Mapping[int, Event] = {**_REPORTED, _PONG: Event.PONG}


#: By first byte: whether the frame is a whole message of data, and no part of a fragmented one (section 5.4).
WHOLE: Sequence[bool] = tuple(first & _FIN > 0 and not first & _CONTROL and first & _OPCODE > 0 for first in range(256))


def _skipped(reported: Mapping[int, Event]) -> Sequence[bool]:
    """By first byte: whether a small frame need not be looked at: it is a whole message, or a control frame that is not
    reported. One without FIN is an error (section 5.4)."""
    return tuple(
        whole or (first & (_FIN | _CONTROL) == _FIN | _CONTROL and first not in reported)
        for first, whole in enumerate(WHOLE)
    )


def _within(skipped: Sequence[bool]) -> Sequence[bool]:
    """The same within a fragmented message, which a data frame without FIN does not change."""
    return tuple(each or not first & (_FIN | _CONTROL) for first, each in enumerate(skipped))


_SKIPPED = _skipped(_REPORTED)
_SKIPPED_BUT_PONGS = _skipped(_REPORTED_WITH_PONGS)
_WITHIN = _within(_SKIPPED)
_WITHIN_BUT_PONGS = _within(_SKIPPED_BUT_PONGS)


# A look into a table costs a third of the arithmetic, and it is done for each frame.
@functools.cache
def _sizes(max_payload: int) -> Sequence[int]:
    """By second byte: the size of a small frame; of one with a 16-bit length, minus the size of its header; else, and
    where the limit forbids the length, 0."""
    return tuple(_frame_size(second, max_payload) for second in range(256))


@functools.cache
def _masked_sizes(max_payload: int) -> Sequence[int]:
    """The same where a mask must be there: 0 without one."""
    return tuple(size if second & _MASKED else 0 for second, size in enumerate(_sizes(max_payload)))


def _frame_size(second: int, max_payload: int) -> int:
    header = 6 if second & _MASKED else 2
    length = second & _LENGTH
    if length > max_payload or length > 126:
        return 0
    return header + length if length <= _MAX_CONTROL else -header - 2


class FrameParser:
    """Follows the frames of one stream, which is fed in pieces of any size.

    A stream that breaks a rule which no extension may bend is `lost`: from there on it is not followed. Unknown
    opcodes, RSV bits and, unless frames must be `masked`, a mask in the wrong direction do not keep it from being
    followed.
    """

    __slots__ = (
        "_masked",
        "_reported",
        "_skipped",
        "_within",
        "fragmented",
        "frames",
        "left",
        "lost",
        "max_payload",
        "partial",
        "sizes",
    )

    def __init__(self, max_payload: int | None = None, *, masked: bool = False) -> None:
        self.max_payload = _ENDLESS if max_payload is None else max_payload
        self._masked = masked
        small = 126 if self.max_payload > 126 else self.max_payload
        self.sizes = _masked_sizes(small) if masked else _sizes(small)
        self.frames = 0
        """How many there were, up to where the stream was lost."""
        self.left = 0
        """Payload still to come of the present frame; 0 between two frames, negative within a header."""
        self.partial = b""
        """What has come of a header, or of a control frame that will be reported."""
        self.lost = False
        self.fragmented: int | None = None
        """The number of the frame that began a fragmented message."""
        self._reported, self._skipped, self._within = _REPORTED, _SKIPPED, _WITHIN

    @property
    def message(self) -> int | None:
        """A number for the message or frame that has come in part; None between two messages, and in a stream that is
        lost. It may change while a message goes on, but not again and again.
        """
        if self.lost:
            return None
        if self.fragmented is not None:
            return self.fragmented
        return self.frames if self.left else None

    def report_pongs(self, *, on: bool) -> None:
        """Whether Pongs are reported from now on, beside Close frames; others are followed faster."""
        self._reported = _REPORTED_WITH_PONGS if on else _REPORTED
        self._skipped = _SKIPPED_BUT_PONGS if on else _SKIPPED
        self._within = _WITHIN_BUT_PONGS if on else _WITHIN

    def to_boundary(self, data: bytes) -> int | None:
        """How many of these bytes, the next ones, belong to the present frame. None: it goes on behind them."""
        size = self.left
        if self.partial:
            header, length = _header(self.partial + data[:_MAX_HEADER], 0)
            size = header + length - len(self.partial) if header and length <= self.max_payload else _ENDLESS
        return size if 0 <= size <= len(data) else None

    def feed(self, data: bytes) -> tuple[int, Sequence[Found]]:
        """Follow the next bytes: how many of them were followed, and the frames to report.

        Where some are left, they begin a frame: feed them again once everything else has had its turn. After
        `Event.TOO_LARGE` and `Event.UNMASKED` feed nothing.
        """
        at, before = self.left, len(self.partial)
        if before:
            at, data, self.partial = 0, self.partial + data, b""
        sizes, end, left = self.sizes, len(data), None
        skipped = self._skipped if self.fragmented is None else self._within
        last = end - 1
        found: list[Found] = []
        for frames in _TURN:
            # A token stream is made of small frames, hundreds in one read.
            if at < last and (size := sizes[data[at + 1]]) > 0 and skipped[data[at]]:
                at += size
                continue
            if at >= end or len(found) == _MAX_FOUND:
                break
            if self._masked and at < last and not data[at + 1] & _MASKED:
                found.append(Found(Event.UNMASKED, at - before, end - before))
                left = _IN_HEADER
                break
            header, length = _header(data, at)
            if length == _ENDLESS:
                self.lost, left = True, _ENDLESS
                break
            if length > self.max_payload:
                found.append(Found(Event.TOO_LARGE, at - before, end - before))
                left = _IN_HEADER
                break
            after, event = at + header + length, self._reported.get(data[at])
            if not header or (event is not None and after > end):
                self.partial, left = data[at:], _IN_HEADER
                break
            if event is not None:
                found.append(Found(event, at - before, after - before, _unmasked(data[at:after], header)))
            elif not data[at] & _CONTROL:
                self._follow_message(data[at], self.frames + frames + 1)
                skipped = self._skipped if self.fragmented is None else self._within
            at = after
        else:
            frames += 1
        self.frames += frames
        if left is None:
            left, end = (at - end, end) if at > end else (0, at)
        self.left = left
        return end - before, found

    def _follow_message(self, first: int, number: int) -> None:
        if first & _FIN:
            self.fragmented = None
        elif self.fragmented is None:
            self.fragmented = number


def _header(data: bytes, at: int) -> tuple[int, int]:
    """Sizes of the header and of the payload of the frame at `at`; 0 for a header that is not whole."""
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


def control_payload(frame: bytes) -> bytes:
    """What a whole control frame says, unmasked."""
    return _unmasked(frame, 6 if frame[1] & _MASKED else 2)


def _unmasked(frame: bytes, header: int) -> bytes:
    return mask(frame[header:], frame[header - 4 : header]) if frame[1] & _MASKED else frame[header:]
