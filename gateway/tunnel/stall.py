"""A side of a tunnel that does not take what is sent to it. Pure."""

from moorline.gateway.tunnel.endings import Reason

__all__ = ["Stall"]

# When to look, within the timeout, whether some of what waits was taken: the loop tells only of a buffer that is empty,
# and a slow reader is not a stalled one. Soon after the beginning and after each progress, because the kernel takes a
# little more when the rest of us has stopped; then at growing intervals. What a look finds counts from the look.
_FIRST_LOOK = 1 / 64
_LONGEST_WAIT = 1 / 8


class Stall:
    """Since when is the tunnel's to know, and how long it may."""

    __slots__ = ("_wait", "limit", "next_look", "reason", "unsent")

    def __init__(self, reason: Reason, limit: float, now: float) -> None:
        self.reason = reason
        self.limit = limit
        self.unsent = 0
        self.next_look = now
        self._wait = limit * _FIRST_LOOK / 2

    def look(self, now: float, unsent: int) -> bool:
        """Whether it has taken something since the last look."""
        progress = unsent < self.unsent
        self._wait = self.limit * _FIRST_LOOK if progress else min(2 * self._wait, self.limit * _LONGEST_WAIT)
        self.next_look = now + self._wait
        self.unsent = unsent
        return progress
