"""The text and parts of one run -> the event log: one append at a time, in the order in which they came.

There is no task: an append begins when a piece comes, and ends with a callback. A task would be woken three times for
each token, and would set a timer for it, which costs more than all else between the responder and the log.
"""

import asyncio
import logging
from collections.abc import Callable

from moorline.backend.backlog import Backlog
from moorline.backend.eventlog.base import LOG_RETRY_SECONDS, LogUnavailable, RunHandle
from moorline.backend.eventlog.log import EventLog
from moorline.backend.parts import Part
from moorline.gateway.common.logs import hashed

__all__ = ["Writer"]

logger = logging.getLogger("moorline.backend.run")

# From the beginning of an append to that of the next one of the same answer, in times between two commits; text that
# comes before waits. These times grow from 1 to 15 ms with the pieces that come at once, and to 40 ms on a server that
# is full: 22 events a second look continuous, and 8 are better than all of them late. Counted from its end, an append
# that takes long on a full event loop would hold up what has come meanwhile for a second time.
_SPACED_COMMITS = 3
# What the responder may be ahead of a log that is slow or unavailable, in characters; then it has to wait.
_READ_AHEAD = 64 << 10


class Writer:
    """`put` pieces as they come; at the end `stop`, then `write_rest`.

    `on_failure` is called when the log refuses a piece, and not because it is unavailable. From then on nothing is
    appended, and `stop` raises.
    """

    def __init__(self, log: EventLog, run: RunHandle, on_failure: Callable[[], None]) -> None:
        self.kept = 0
        """How much of the answer the log holds: the offset of what follows."""
        self._log = log
        self._run = run
        self._on_failure = on_failure
        self._backlog = Backlog()
        self._taken = asyncio.Event()
        # What is being appended. One that was refused is in the backlog again.
        self._piece: str | Part = ""
        self._appending: asyncio.Future[int] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began = self._next_at = 0.0
        self._closed = False
        self._failure: Exception | None = None

    # While the responder answers --------------------------------------------------------------------------------------

    def put(self, piece: str | Part) -> None:
        """Append `piece` behind all others, in time. Await `room` before the next one where it `is_full`."""
        self._backlog.put(piece)
        self._append_next()

    @property
    def is_full(self) -> bool:
        """Whether so much waits that the responder has to wait, too."""
        return self._backlog.size > _READ_AHEAD

    async def room(self) -> None:
        """Return when it is not full."""
        while self.is_full:
            self._taken.clear()
            await self._taken.wait()

    def _append_next(self) -> None:
        if self._appending is not None or self._timer is not None or self._closed:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._next_at > now:
            self._timer = loop.call_at(self._next_at, self._timer_fired)
        elif (piece := self._backlog.take()) is not None:
            self._piece, self._began = piece, now
            self._appending = self._append(piece)
            self._appending.add_done_callback(self._appended)

    def _timer_fired(self) -> None:
        self._timer = None
        self._append_next()

    def _appended(self, appending: "asyncio.Future[int]") -> None:
        self._appending = None
        if not appending.cancelled():
            self._ended(appending.exception())

    def _ended(self, error: BaseException | None) -> None:
        if error is None:
            self._note_kept(self._piece)
            # Behind a part the text that waits may be old.
            if isinstance(self._piece, str) and not self._backlog.has_part:
                self._next_at = self._began + _SPACED_COMMITS * self._log.text_spacing
        elif isinstance(error, LogUnavailable):
            self._put_back(self._piece, error)
            self._next_at = asyncio.get_running_loop().time() + LOG_RETRY_SECONDS
        else:
            self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            self.close()
            self._on_failure()
        if not self._backlog.empty:
            self._append_next()

    # At the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Begin no append any more; idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def stop(self) -> None:
        """Close it, and return when no append is under way.

        Raises:
            RunLost, Exception: the log has refused a piece.
        """
        self.close()
        if self._appending is not None:
            # Its own callback comes first.
            await asyncio.wait({self._appending})
        if self._failure is not None:
            raise self._failure

    async def write_rest(self) -> str:
        """Append what waits but the text behind it, which is returned: it is written with the run's end."""
        while (piece := self._backlog.take(last=True)) is not None:
            if isinstance(piece, str) and self._backlog.empty:
                return piece
            try:
                await self._append(piece)
            except LogUnavailable as error:
                self._put_back(piece, error)
                await asyncio.sleep(LOG_RETRY_SECONDS)
            else:
                self._note_kept(piece)
        return ""

    def clear(self) -> None:
        """Forget what waits."""
        self._backlog.clear()

    # Both -------------------------------------------------------------------------------------------------------------

    def _append(self, piece: str | Part) -> "asyncio.Future[int]":
        if isinstance(piece, str):
            return self._log.add_text(self._run, piece, at=self.kept)
        return self._log.add_part(self._run, piece, at=self.kept)

    def _note_kept(self, piece: str | Part) -> None:
        self.kept += len(piece) if isinstance(piece, str) else 1
        # Only now: what the log has not taken counts, however often it is tried.
        self._backlog.written()
        self._taken.set()

    def _put_back(self, piece: str | Part, error: LogUnavailable) -> None:
        logger.debug("run %s: event log unavailable: %s", hashed(self._run.run_id), error)
        self._backlog.put_back(piece)
