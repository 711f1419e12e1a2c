"""The bytes that all tunnels of a process hold, because one side does not take them. Pure.

Each direction is bounded by one read, but ten thousand of them are not little: when the sum is over its limit, those
that have held bytes for longest are ended. A slow reader that takes everything now and then is a young one each time.
"""

from typing import Generic, TypeVar

__all__ = ["Buffered"]

H = TypeVar("H")


class Buffered(Generic[H]):
    """Who holds how many bytes; a holder is one side of a tunnel."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sizes: dict[H, int] = {}
        self.size = 0
        """Of all of them, as they were when they began to hold bytes: what is taken in part counts in full."""

    def add(self, holder: H, size: int) -> list[H]:
        """`holder` begins to hold so many bytes. The holders to end, which are removed: mostly none."""
        self._sizes[holder] = size
        self.size += size
        over: list[H] = []
        while self.size > self._most:
            oldest = next(iter(self._sizes))
            self.remove(oldest)
            over.append(oldest)
        return over

    def remove(self, holder: H) -> None:
        """It holds nothing any more, or is unknown."""
        self.size -= self._sizes.pop(holder, 0)
