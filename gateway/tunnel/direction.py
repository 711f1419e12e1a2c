"""One direction of a tunnel: the bytes that come from one side and go to the other. Pure.

They pass as they came and in the same pieces, whatever they are. The gateway adds a frame of its own only between two
frames, and removes only the Pongs that answer its own Pings. To do that it has to hold back a Pong until it is whole,
131 bytes at most and only while it waits for an answer; no other byte is ever held.
"""

from collections.abc import Callable, Sequence

from moorline.gateway.common.web.frames import WHOLE, CloseCode, Event, Found, FrameParser, Opcode, control_payload
from moorline.gateway.tunnel.state import DirectionState

__all__ = ["Direction"]

_PONG = bytes((0x80 | Opcode.PONG,))
_CLOSE = 0x80 | Opcode.CLOSE


class Direction:
    """What comes from one side."""

    __slots__ = (
        "_awaits", "_held", "_is_news", "_output", "_parser", "_removed",
        "backlog", "close_code", "last", "pending", "size", "too_large",
    )  # fmt: skip

    def __init__(self, now: float, max_payload: int | None = None) -> None:
        self.last = now
        """When bytes came from this side, of whatever kind."""
        self.size = 0
        """Bytes passed on."""
        self.close_code: int | None = None
        """That of the first Close frame that has passed."""
        self.too_large = False
        """A frame is larger than `max_payload`; neither it nor anything after it is passed on."""
        self.pending: Callable[[float], bytes] | None = None
        """Called once for a frame to insert at the next boundary."""
        self.backlog = b""
        """Bytes that were received and not looked at, because those before them held too many frames for one turn."""
        self._parser = FrameParser(max_payload)
        self._awaits: Callable[[bytes, float], bool] | None = None
        # Received, followed, and not passed on: a part of a Pong, or the header of a frame that is too large.
        self._held = b""
        self._removed = 0
        self._output = b""
        self._is_news = False

    @property
    def frames(self) -> int:
        """Frames passed on, up to where the stream was lost."""
        return self._parser.frames - self._removed

    @property
    def lost(self) -> bool:
        """Whether the stream cannot be followed any more; see `FrameParser`."""
        return self._parser.lost

    @property
    def message(self) -> int | None:
        """A number for the message that has come in part; see `FrameParser`."""
        return self._parser.message

    @property
    def at_boundary(self) -> bool:
        """Whether the last byte that was passed on ended a frame."""
        return self._parser.left == 0 or self._held != b""

    @property
    def awaits(self) -> Callable[[bytes, float], bool] | None:
        """Tells whether a Pong answers the gateway's own Ping and is to be removed; None while no answer is due."""
        return self._awaits

    @awaits.setter
    def awaits(self, awaits: Callable[[bytes, float], bool] | None) -> None:
        self._awaits = awaits
        self._parser.report_pongs(on=awaits is not None)

    def state(self, unsent: bytes) -> DirectionState:
        """All of it, between two calls. What `awaits` and `pending` stand for is their heartbeat's."""
        parser = self._parser
        return DirectionState(
            last=self.last,
            size=self.size,
            close_code=self.close_code,
            backlog=self.backlog,
            held=self._held,
            removed=self._removed,
            frames=parser.frames,
            left=parser.left,
            partial=parser.partial,
            lost=parser.lost,
            fragmented=parser.fragmented,
            unsent=unsent,
        )

    def restore(self, state: DirectionState) -> None:
        """Go on where another process stopped."""
        parser = self._parser
        self.last, self.size, self.close_code, self.backlog = state.last, state.size, state.close_code, state.backlog
        self._held, self._removed = state.held, state.removed
        parser.frames, parser.left, parser.partial = state.frames, state.left, state.partial
        parser.lost, parser.fragmented = state.lost, state.fragmented

    def receive_data(self, data: bytes, now: float) -> bytes | None:
        """The bytes to pass on. None: `take` them, and see whether there is a `close_code`, a `backlog`, or something
        `too_large`."""
        self.last = now
        size, parser = len(data), self._parser
        left = parser.left
        # Short cuts past `FrameParser.feed`, which would say the same: each call costs a third of this one. Most reads
        # bring a part of a large payload, or one whole small frame.
        if left >= size and (left > size or self.pending is None):
            parser.left = left - size
            self.size += size
            return data
        if left == 0 and 3 < size <= parser.max_payload and WHOLE[data[0]]:
            whole = parser.sizes[data[1]]
            if whole == size or (whole < 0 and (data[2] << 8 | data[3]) - whole == size):
                parser.frames += 1
                self.size += size
                return data
        if self.pending is not None:
            return self._follow_with_pending(data)
        if left == 0 and size > 1 and data[0] == _CLOSE and parser.sizes[data[1]] == size:
            # As each socket ends, with nothing behind it.
            parser.frames += 1
            self.size += size
            self._closed(control_payload(data))
            if not self._is_news:
                return data
            self._output, self._is_news = data, False
            return None
        followed, found = parser.feed(data)
        if found or followed < size or self._awaits is not None or self._held:
            return self._filtered(data, followed, found)
        self.size += size
        return data

    def receive_backlog(self) -> bytes | None:
        """As much of the `backlog` as fits into this turn; see `receive_data`."""
        data, self.backlog = self.backlog, b""
        return self._follow(data) if self.pending is None else self._follow_with_pending(data)

    def receive_late(self, data: bytes, now: float) -> bytes:
        """After the tunnel's end: nothing passes any more."""
        self.last = now
        return b""

    def take(self) -> bytes:
        """What is to be passed on, where `None` was returned."""
        output, self._output = self._output, b""
        return output

    # ------------------------------------------------------------------------------------------------------------------

    def _follow(self, data: bytes) -> bytes | None:
        return self._filtered(data, *self._parser.feed(data))

    def _follow_with_pending(self, data: bytes) -> bytes | None:
        size = 0 if self._held else self._parser.to_boundary(data)
        if size is None:
            return self._follow(data)
        before = self._follow(data[:size])
        if before is None:
            # A Close, which nothing follows.
            before, self._is_news = self.take(), True
        else:
            assert self.pending is not None, "it is taken here alone"
            before += self.pending(self.last)
        self.pending = None
        after = self._follow(data[size:])
        if after is not None:
            return before + after
        self._output = before + self._output
        return None

    def _filtered(self, data: bytes, followed: int, found: Sequence[Found]) -> bytes | None:
        """What of these bytes, and of those that were held, passes now."""
        if followed < len(data):
            data, self.backlog, self._is_news = data[:followed], data[followed:], True
        self.size += followed
        before = len(self._held)
        if before:
            data, self._held = self._held + data, b""
        if found:
            data = self._handled(data, found, before)
        if self._awaits is not None and self._parser.partial.startswith(_PONG):
            # Unless a part of it has passed already.
            start = len(data) - len(self._parser.partial)
            if start >= 0:
                data, self._held = data[:start], data[start:]
        if not self._is_news:
            return data
        self._output, self._is_news = data, False
        return None

    def _handled(self, data: bytes, found: Sequence[Found], before: int) -> bytes:
        """`data` without what does not pass; `before` of its bytes came before those that the parser counts from."""
        parts: list[bytes] = []
        at = 0
        for event, start, end, payload in found:
            start, end = start + before, end + before
            if event is Event.CLOSE:
                self._closed(payload)
            elif event is Event.PONG:
                if start >= 0 and self._awaits is not None and self._awaits(payload, self.last):
                    parts.append(data[at:start])
                    at = end
                    self.size -= end - start
                    self._removed += 1
            else:
                self.too_large = self._is_news = True
                passed = max(start, 0)
                self.size -= end - passed
                data, self._held = data[:passed], data[start : start + 1] if start >= 0 else b""
        return b"".join((*parts, data[at:]))

    def _closed(self, payload: bytes) -> None:
        # Nothing follows a Close.
        self.pending = None
        if self.close_code is None:
            self._is_news = True
            self.close_code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else CloseCode.NO_STATUS
