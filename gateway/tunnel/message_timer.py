"""The time that a client has for one message. Pure.

The gateway holds none of it, but the upstream holds all of it. To check at intervals costs nothing where bytes pass:
the time of a message begins with the first check that finds it in part, and ends one to two timeouts after its first
byte.
"""

from moorline.gateway.common.web.deadline import latest_end
from moorline.gateway.tunnel.direction import Direction
from moorline.gateway.tunnel.state import MessageTimerState

__all__ = ["MessageTimer"]


class MessageTimer:
    """Call `expired` at `next_check`."""

    __slots__ = ("_began", "_inbound", "_number", "_size", "_timeout", "next_check")

    def __init__(self, inbound: Direction, timeout: float, now: float) -> None:
        self._inbound = inbound
        self._timeout = timeout
        self._number: int | None = None
        self._began = now
        self._size = 0
        self.next_check = now + timeout

    def restart(self, now: float) -> None:
        """A message that has come in part has all of its time again: it was not read."""
        self._number, self._began, self._size, self.next_check = None, now, 0, now + self._timeout

    def state(self) -> MessageTimerState:
        return MessageTimerState(number=self._number, began=self._began, size=self._size, next_check=self.next_check)

    def restore(self, state: MessageTimerState) -> None:
        """Go on where another process stopped."""
        self._number, self._began, self._size = state.number, state.began, state.size
        self.next_check = state.next_check

    def expired(self, now: float) -> bool:
        """Whether a message was to be complete by now."""
        number, size = self._inbound.message, self._inbound.size
        if number is None or number != self._number:
            self._number, self._began, self._size = number, now, size
        self.next_check = latest_end(self._began, size - self._size, self._timeout)
        return now >= self.next_check
