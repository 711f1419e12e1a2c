"""Lines to a stream that must not hold up the program: a pipe that is not read, a stopped terminal, a full disk.

The descriptor is not set to non-blocking, since other programs have the same open file. The kernel is asked first
whether there is room, and a pipe that has some takes `PIPE_BUF` bytes. A file on a disk always has room, or says at
once that the disk is full.
"""

import io
import os
import select
import stat
import time
from collections.abc import Sequence
from typing import TextIO

__all__ = ["Output"]

_PIPE_BUF = select.PIPE_BUF
# Of lines that wait for a reader: some ten thousand.
_MOST_BYTES = 1 << 20


class Output:
    """Use it in one thread at a time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting = bytearray()
        self.dropped = 0
        """Lines that were not written, and are not going to be."""

    @property
    def waits(self) -> bool:
        """Whether there are lines that the reader has no room for."""
        return bool(self._waiting)

    def write(self, lines: Sequence[str]) -> bool:
        """Write what waits and these, as far as that blocks nothing; whether all has been written."""
        data = "".join(lines).encode(self._stream.encoding or "utf-8", "backslashreplace")
        if len(self._waiting) + len(data) > _MOST_BYTES:
            end = data.rfind(b"\n", 0, max(0, _MOST_BYTES - len(self._waiting))) + 1
            self.dropped += data.count(b"\n", end)
            data = data[:end]
        self._waiting += data
        return self._write_waiting(time.monotonic())

    def finish(self, seconds: float) -> None:
        """The last chance for what waits, for so long at most."""
        self._write_waiting(time.monotonic() + seconds)

    def _write_waiting(self, deadline: float) -> bool:
        try:
            descriptor = _descriptor(self._stream)
            while self._waiting:
                if descriptor is None:
                    self._stream.write(self._take(_MOST_BYTES).decode(errors="replace"))
                    self._stream.flush()
                elif stat.S_ISREG(os.fstat(descriptor).st_mode):
                    self._write_some(descriptor, _MOST_BYTES)
                elif _has_room(descriptor, max(0.0, deadline - time.monotonic())):
                    self._write_some(descriptor, _PIPE_BUF)
                else:
                    return False
        except BlockingIOError:
            # Another program has set it to non-blocking.
            return False
        except (OSError, ValueError):
            # A full disk, a reader that has gone, a stream that is closed. No place is left to report it.
            self.dropped += self._waiting.count(b"\n")
            self._waiting.clear()
            return False
        return True

    def _write_some(self, descriptor: int, most: int) -> None:
        data = self._take(most)
        written = 0
        try:
            written = os.write(descriptor, data)
        finally:
            if written < len(data):
                self._waiting[:0] = data[written:]

    def _take(self, most: int) -> bytes:
        """The lines that come next, as many as fit, or a part of one that is longer."""
        end = len(self._waiting)
        if end > most:
            end = self._waiting.rfind(b"\n", 0, most) + 1 or most
        taken = bytes(self._waiting[:end])
        del self._waiting[:end]
        return taken


def _descriptor(stream: TextIO) -> int | None:
    """None for a stream in memory."""
    try:
        return stream.fileno()
    except io.UnsupportedOperation:
        return None


def _has_room(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))
