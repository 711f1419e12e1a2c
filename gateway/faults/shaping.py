"""How a slow, jittery, buffering or fragmenting network passes bytes on: which of them, and when. Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["Buffer", "Delay", "Pieces", "Shaper", "Slow"]

# A slow link sends in steps of this many seconds, so that a peer sees a stream and no bursts.
_SLOW_STEP = 0.05


class Shaper(Protocol):
    """Plans one direction of one connection."""

    def plan(self, data: bytes, now: float) -> Sequence[tuple[float, bytes]]:
        """When to pass on which bytes, in order."""

    def flush(self) -> bytes:
        """What was kept back; the stream ends, or the fault does."""


class _Unbuffered:
    def flush(self) -> bytes:
        return b""


class Delay(_Unbuffered):
    """Each read arrives later, by what `seconds` says for it; never before an earlier one."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._last = 0.0

    def plan(self, data: bytes, now: float) -> Sequence[tuple[float, bytes]]:
        self._last = max(self._last, now + self._seconds())
        return [(self._last, data)]


class Slow(_Unbuffered):
    """At most so many bytes a second."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0
        """When the link has sent everything so far."""

    def plan(self, data: bytes, now: float) -> Sequence[tuple[float, bytes]]:
        size = max(1, int(self._rate * _SLOW_STEP))
        planned = []
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self._free = max(self._free, now) + len(piece) / self._rate
            planned.append((self._free, piece))
        return planned


class Pieces(_Unbuffered):
    """Each so many bytes are a segment of their own."""

    def __init__(self, size: int) -> None:
        self._size = size

    def plan(self, data: bytes, now: float) -> Sequence[tuple[float, bytes]]:
        return [(now, data[start : start + self._size]) for start in range(0, len(data), self._size)]


class Buffer:
    """Nothing is passed on before so many bytes have come, as with a proxy that buffers responses."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept = b""

    def plan(self, data: bytes, now: float) -> Sequence[tuple[float, bytes]]:
        self._kept += data
        return [(now, self.flush())] if len(self._kept) >= self._size else []

    def flush(self) -> bytes:
        kept, self._kept = self._kept, b""
        return kept
