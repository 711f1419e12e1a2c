"""One end of a connection through a proxy: what is sent to it, in order and each part at its time."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from moorline.gateway.tunnel import kernel

__all__ = ["End", "EndObserver"]

# More than this on its way pauses the reading of the other end, as a full window would.
_MAX_QUEUED = 1 << 18
# From a FIN to the end of the connection, where the peer does not end its half: nginx's lingering_close.
_LINGER = 1.0


class EndObserver(Protocol):
    """What an end tells of itself."""

    def received(self, end: "End", data: bytes) -> None: ...
    def ended(self, end: "End") -> None: ...
    def lost(self, end: "End", *, reset: bool) -> None: ...


class End(asyncio.Protocol):
    """A transport, its queue, and the reasons for which it is not read or not written at present."""

    def __init__(self, observer: EndObserver) -> None:
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes | Callable[[], None]]] = deque()
        self._queued = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pauses: set[object] = set()
        self._holds: set[object] = set()
        self.transport: asyncio.Transport | None = None
        self.eof = False
        self.is_lost = False
        self.other: End

    # From the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is one by its methods alone.
        self.transport = cast("asyncio.Transport", transport)
        if self._pauses:
            self.transport.pause_reading()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._observer.received(self, data)

    def eof_received(self) -> bool:
        self.eof = True
        self._observer.ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._queue.clear()
        self.other.resume("queue")
        self._observer.lost(self, reset=exc is not None)

    def pause_writing(self) -> None:
        self.other.pause("write")

    def resume_writing(self) -> None:
        self.other.resume("write")

    # Reading ----------------------------------------------------------------------------------------------------------

    def pause(self, reason: object) -> None:
        """Read nothing for as long as there is a reason."""
        self._pauses.add(reason)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self, reason: object) -> None:
        self._pauses.discard(reason)
        if not self._pauses and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    # Sending ----------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, due: float = 0.0) -> None:
        if data and not self.is_lost:
            self._add(data, due)
            self._queued += len(data)
            if self._queued > _MAX_QUEUED:
                self.other.pause("queue")
            self._flush()

    def then(self, action: Callable[[], None]) -> None:
        """Do this once everything before it was sent."""
        self._add(action, 0.0)
        self._flush()

    def hold(self, reason: object) -> None:
        """Send nothing for as long as there is a reason."""
        self._holds.add(reason)

    def release(self, reason: object) -> None:
        self._holds.discard(reason)
        self._flush()

    def _add(self, item: bytes | Callable[[], None], due: float) -> None:
        self._queue.append((max(due, self._queue[-1][0] if self._queue else 0.0), item))

    def _flush(self) -> None:
        """Send what is due, each part in an iteration of the loop of its own, so that each is a segment."""
        if self._timer is not None or self._holds or not self._queue or self.transport is None:
            return
        wait = self._queue[0][0] - self._loop.time()
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._next)
            return
        _, item = self._queue.popleft()
        if isinstance(item, bytes):
            self._queued -= len(item)
            if self._queued <= _MAX_QUEUED:
                self.other.resume("queue")
            if not self.transport.is_closing():
                self.transport.write(item)
        else:
            item()
        if self._queue:
            self._timer = self._loop.call_later(0, self._next)

    def _next(self) -> None:
        self._timer = None
        self._flush()

    # Ending -----------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """FIN, then read on until the peer ends: unread input would turn the FIN into a reset."""
        self.write_eof()
        if self.transport is not None:
            self._loop.call_later(0.0 if self.eof else _LINGER, self.close)

    def write_eof(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            # The peer may have reset in the meantime.
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """RST, now."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.transport is not None and not self.is_lost:
            kernel.reset(self.transport)
