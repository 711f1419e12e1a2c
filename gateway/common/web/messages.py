"""What a client sends in part: how long a WebSocket message or a request's body may take, and the bytes of all that are
not complete. Frames and chunks that keep coming, one byte at a time, would hold a connection and memory for ever.

A message has `message_timeout`, and a second more for each 4 KiB of it, so that a slow line is not taken for an attack.
"""

import asyncio
import enum
from collections.abc import Callable

from aiohttp import web

from moorline.gateway.common.web.deadline import latest_end
from moorline.gateway.common.web.frames import Event, FrameParser

__all__ = ["MESSAGE_LIMITS", "MessageLimits", "Unfinished", "UnfinishedMessage", "Violation"]

# Of each message so much is not counted: a short one that comes in two segments passes while others use up the total.
_FREE = 4 << 10
# Of one client: more than its messages need, and others have room where it uses all of that.
_SHARE = 1 / 4


class Unfinished:
    """The bytes of all messages and bodies of one process that are not complete, or that wait for a turn to be parsed,
    and how many they may be."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of_clients: dict[str, int] = {}
        self.size = 0

    def grow(self, before: int, after: int, client: str | None = None) -> bool:
        """A message has grown from `before` to `after` bytes; whether there is room for it, else it is not counted. A
        client that has others beside it has a share of the room."""
        counted = max(0, before - _FREE)
        more = max(0, after - _FREE) - counted
        if more == 0:
            return True
        if more > 0 and self.size + more > self._most:
            return False
        if client is not None:
            held = self._of_clients.get(client, 0)
            if more > 0 and held > counted and held + more > self._most * _SHARE:
                return False
            self._of_clients[client] = held + more
            if held + more == 0:
                # As many addresses come and go as the clients have.
                del self._of_clients[client]
        self.size += more
        return True


class Violation(enum.Enum):
    """Why nothing more of a client is read."""

    TIME = enum.auto()
    """It took longer than `message_timeout`."""
    SIZE = enum.auto()
    """There is no room for it beside those of others (`max_unfinished`)."""
    UNMASKED = enum.auto()
    """A frame without a mask: a server must not accept one (RFC 6455 section 5.1), and aiohttp's parser does."""


class MessageLimits:
    """What bounds the unfinished messages of one process; an application whose handlers receive messages sets it."""

    def __init__(self, *, timeout: float | None, most: int) -> None:
        self.timeout = timeout
        self.unfinished = Unfinished(most)


MESSAGE_LIMITS = web.AppKey("message_limits", MessageLimits)


class UnfinishedMessage:
    """Follows what one client sends behind its WebSocket handshake. `on_violation` is called once, for the first."""

    __slots__ = (
        "_began",
        "_client",
        "_limits",
        "_loop",
        "_number",
        "_on_violation",
        "_parser",
        "_size",
        "_timer",
        "_violation",
    )

    def __init__(self, limits: MessageLimits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._parser = FrameParser(masked=True)
        self._number: int | None = None
        self._began = 0.0
        self._client: str | None = None
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._violation: Violation | None = None
        self._on_violation: Callable[[Violation], None] | None = None

    @property
    def payload_left(self) -> int:
        """Bytes that are still to come of the present frame's payload: they cost nothing to parse."""
        return self._parser.left

    @property
    def violated(self) -> bool:
        """Whether nothing more of this client is wanted."""
        return self._violation is not None

    def on_violation(self, callback: Callable[[Violation], None], *, client: str) -> None:
        """Call `callback` when the client, from this network, violates a limit; at once where it has."""
        size = self._size
        self._count(0)
        self._client = client
        self._count(size)
        self._on_violation = callback
        if self._violation is not None:
            callback(self._violation)

    def refuse(self) -> None:
        """There is no room for what the client has sent."""
        self._violate(Violation.SIZE)

    def receive_data(self, data: bytes) -> None:
        """The next bytes."""
        left = data
        while left:
            followed, found = self._parser.feed(left)
            if found and found[-1].event is Event.UNMASKED:
                self._violate(Violation.UNMASKED)
                return
            left = left[followed:]
        number = self._parser.message
        if number is None:
            self._count(0)
        elif number == self._number:
            self._count(self._size + len(data))
        else:
            self._began = self._loop.time()
            self._count(len(data))
            self._watch()
        self._number = number

    def close(self) -> None:
        """The connection is gone."""
        self._count(0)
        # It leads back to the connection, which would stay until a search for cycles.
        self._on_violation = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _count(self, size: int) -> None:
        if self._limits.unfinished.grow(self._size, size, self._client):
            self._size = size
        else:
            self._violate(Violation.SIZE)

    def _watch(self) -> None:
        # One that fires early is set again: cheaper than to set it for each message.
        if self._timer is None and self._limits.timeout is not None:
            self._timer = self._loop.call_at(self._latest_end(self._limits.timeout), self._timer_fired)

    def _timer_fired(self) -> None:
        self._timer = None
        if self._number is None or self._limits.timeout is None:
            return
        if self._loop.time() < self._latest_end(self._limits.timeout):
            self._watch()
        else:
            self._violate(Violation.TIME)

    def _latest_end(self, timeout: float) -> float:
        return latest_end(self._began, self._size, timeout)

    def _violate(self, violation: Violation) -> None:
        if self._violation is None:
            self._violation = violation
            if self._on_violation is not None:
                self._on_violation(violation)
