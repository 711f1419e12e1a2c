"""A side of a tunnel that does not take what is sent to it. Pure."""

from gateway.ws.endings import Reason

__all__ = ["Stall"]

# While a side stalls, how often within its timeout to look whether it has taken some of what waits for it. The loop
# tells only of a buffer that is empty, and a slow reader is not a stalled one.
_LOOKS = 8


class Stall:
    """Since when is the tunnel's to know, and how long it may."""

    __slots__ = ("limit", "next_look", "reason", "unsent")

    def __init__(self, reason: Reason, limit: float, now: float) -> None:
        self.reason = reason
        self.limit = limit
        self.unsent = 0
        self.next_look = now

    def look(self, now: float, unsent: int) -> bool:
        """Whether it has taken something since the last look."""
        progress = unsent < self.unsent
        self.unsent = unsent
        self.next_look = now + self.limit / _LOOKS
        return progress
