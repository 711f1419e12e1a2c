"""What a gateway knows of its sockets beside their bytes: whose they are, and how the last ones ended."""

import asyncio
import collections
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from moorline.gateway.tunnel.relay import Ended

__all__ = ["EndedSocket", "Ends", "Socket"]

# Enough to look back over a restart of a small installation; each holds about 1 KiB.
_KEPT = 200


@dataclasses.dataclass(slots=True)
class Socket:
    """A socket that is open or was. None of it tells a patient or a session: the path is only its route.

    No tuple: each open socket has one, and a tuple takes 16 bytes more. Not frozen: that takes three times as long to
    make.
    """

    request_id: str
    route: str
    client: str
    """The client's address."""
    upstream: str
    opened: float
    """On the loop's clock."""


class EndedSocket(NamedTuple):
    """One that has ended."""

    number: int
    """They are counted from 1."""
    socket: Socket
    ended: Ended
    at: float
    """On the loop's clock."""


class Ends:
    """The last sockets that ended, the newest `_KEPT`. It costs a socket one entry at its end."""

    def __init__(self) -> None:
        self._kept: collections.deque[EndedSocket] = collections.deque(maxlen=_KEPT)
        self.count = 0
        """How many have ended so far."""
        self._waiters: set[asyncio.Event] = set()

    def add(self, socket: Socket, ended: Ended, now: float) -> None:
        self.count += 1
        self._kept.append(EndedSocket(self.count, socket, ended, now))
        for waiter in self._waiters:
            waiter.set()

    def since(self, number: int) -> Iterator[EndedSocket]:
        """Those after this one that are still kept, the oldest first."""
        return (each for each in self._kept if each.number > number)

    def find(self, request_id: str) -> EndedSocket | None:
        return next((each for each in reversed(self._kept) if each.socket.request_id == request_id), None)

    async def next(self, seconds: float, *, seen: int | None = None) -> None:
        """Return when another socket has ended, or after so many seconds; at once where one has ended since the count
        was `seen`."""
        if seen is not None and self.count > seen:
            return
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)
