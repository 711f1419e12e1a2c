"""One run: the responder's stream of text -> events -> the log.

Two tasks: the pump reads the stream into a buffer as fast as it comes, the writer takes what has gathered and appends
it. So a commit never holds up the provider, and the text of 25 ms becomes one event. Nothing here knows of sockets.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moorline.backend.errors import CATALOGUE, ErrorCode, LLMError
from moorline.backend.eventlog.base import LogUnavailable, RunHandle, RunLost
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Finish, Row, RunError, Usage
from moorline.backend.history import newest_rows
from moorline.backend.responder import Done, Prompt, Responder
from moorline.gateway.common.logs import hashed

__all__ = ["CHAT_ROWS", "COALESCE_SECONDS", "Turn"]

logger = logging.getLogger("moorline.backend.turn")

#: How much of a session the model is shown: its last rows up to the message to answer, and of these up to `max_prompt`
#: bytes. Longer memory costs more with every message; 100 rows are some fifty exchanges.
CHAT_ROWS = 100
#: Text that arrives within this time of an append waits for the next one: 40 events a second look continuous.
COALESCE_SECONDS = 0.025
# What the pump may read ahead of a log that is slow or unavailable, in characters; then the provider has to wait.
_READ_AHEAD = 64 << 10
# Between two attempts to write while the event log is unavailable.
_LOG_RETRY_SECONDS = 1.0

_TRAILING_HIGH_SURROGATE = re.compile("[\ud800-\udbff]\\Z")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    finish: Finish
    error: RunError | None = None
    usage: Usage | None = None


class Turn:
    """A run that this process owns. `run` it once, in a task; `stop` may be called at any time."""

    def __init__(
        self,
        log: EventLog,
        responder: Responder,
        handle: RunHandle,
        *,
        user_seq: int,
        slots: asyncio.Semaphore,
        timeout: float,
        max_answer: int,
        max_prompt: int = 256 << 10,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.handle = handle
        self._log = log
        self._responder = responder
        self._user_seq = user_seq
        self._slots = slots
        self._timeout = timeout
        self._max_answer = max_answer
        self._max_prompt = max_prompt
        self._clock = clock
        self._pending: list[str] = []
        self._pending_size = 0
        self._kept = 0
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._pump: asyncio.Task[Outcome] | None = None
        self._stopped: Finish | None = None

    async def run(self) -> Outcome | None:
        """Write the answer and its end; None when the run was lost to another owner or erased."""
        self._pump = asyncio.create_task(self._read_stream())
        if self._stopped is not None:
            self._pump.cancel()
        # Also a pump that was cancelled before its first step has to wake the writer.
        self._pump.add_done_callback(lambda _: self._arrived.set())
        try:
            return await self._write_all(self._pump)
        except RunLost:
            logger.info("run %s lost: ended by another process or erased", hashed(self.handle.run_id))
            return None
        finally:
            self._pump.cancel()
            await asyncio.wait({self._pump})

    def stop(self, finish: Finish) -> None:
        """End the run now as CANCELLED or INTERRUPTED; the provider's stream is closed and what came is kept."""
        if self._stopped is None:
            self._stopped = finish
            if self._pump is not None:
                self._pump.cancel()

    # Reading the stream -----------------------------------------------------------------------------------------------

    async def _read_stream(self) -> Outcome:
        queued = True
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                queued = False
                rows = await newest_rows(
                    self._log,
                    self.handle.session_id,
                    before=self._user_seq + 1,
                    count=CHAT_ROWS,
                    size=self._max_prompt,
                )
                return await self._read_answer(_chat(rows))
        except TimeoutError:
            # `run_timeout`: a timeout of the responder's is an LLMError.
            code = ErrorCode.LLM_BUSY if queued else ErrorCode.LLM_UNAVAILABLE
            logger.warning("run %s exceeded run_timeout", hashed(self.handle.run_id))
            return _failure(code)
        except LLMError as error:
            logger.warning("run %s failed: %s", hashed(self.handle.run_id), error)
            return _failure(error.code, error.retry_after)
        except LogUnavailable:
            return _failure(ErrorCode.INTERNAL)
        except Exception:
            logger.exception("run %s failed", hashed(self.handle.run_id))
            return _failure(ErrorCode.INTERNAL)

    async def _read_answer(self, chat: Sequence[Prompt]) -> Outcome:
        pieces = self._responder.answer(chat)
        # An async generator that is not closed would keep the provider's connection until it is garbage-collected.
        aclose = getattr(pieces, "aclose", None)
        room = self._max_answer
        async with contextlib.AsyncExitStack() as stack:
            if aclose is not None:
                stack.push_async_callback(aclose)
            async for piece in pieces:
                if isinstance(piece, Done):
                    return Outcome(piece.finish, usage=piece.usage)
                text, room = _fitting(piece.text, room)
                await self._put(text)
                if len(text) < len(piece.text):
                    logger.warning("run %s exceeded max_answer", hashed(self.handle.run_id))
                    return Outcome(Finish.LENGTH)
        return Outcome(Finish.INTERRUPTED)

    async def _put(self, text: str) -> None:
        self._pending.append(text)
        self._pending_size += len(text)
        self._arrived.set()
        while self._pending_size > _READ_AHEAD:
            self._taken.clear()
            await self._taken.wait()

    # Writing the log --------------------------------------------------------------------------------------------------

    async def _write_all(self, pump: asyncio.Task[Outcome]) -> Outcome:
        try:
            return await self._write(pump)
        except RunLost:
            raise
        except Exception:
            # A bug, or a text that the log cannot take. What is committed stays, and the session must not stay busy.
            logger.exception("run %s failed", hashed(self.handle.run_id))
            self._pending.clear()
            return await self._end(_failure(ErrorCode.INTERNAL))

    async def _write(self, pump: asyncio.Task[Outcome]) -> Outcome:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if pump.done():
                return await self._end(self._outcome(pump))
            if text := self._take(last=False):
                await self._append(text, pump)
                await asyncio.wait({pump}, timeout=COALESCE_SECONDS)

    async def _append(self, text: str, pump: asyncio.Task[Outcome]) -> None:
        try:
            await self._log.add_text(self.handle, text, at=self._kept)
        except LogUnavailable as error:
            # The text goes before what has arrived since, and is written again.
            logger.warning("run %s: event log unavailable: %s", hashed(self.handle.run_id), error)
            self._pending.insert(0, text)
            self._arrived.set()
            await asyncio.wait({pump}, timeout=_LOG_RETRY_SECONDS)
        else:
            self._kept += len(text)
            # Only now: text that the log has not taken counts, however often it is tried.
            self._pending_size = sum(map(len, self._pending))
            self._taken.set()

    async def _end(self, outcome: Outcome) -> Outcome:
        """Write the end, retrying while the log is unavailable: else the session stays busy. A drain ends the wait."""
        text = self._take(last=True)
        while True:
            try:
                await self._log.end_run(
                    self.handle,
                    finish=outcome.finish,
                    now=self._clock(),
                    text=text,
                    at=self._kept,
                    error=outcome.error,
                    usage=outcome.usage,
                )
            except LogUnavailable as error:
                logger.warning("run %s: event log unavailable: %s", hashed(self.handle.run_id), error)
                await asyncio.sleep(_LOG_RETRY_SECONDS)
            else:
                return outcome

    def _outcome(self, pump: asyncio.Task[Outcome]) -> Outcome:
        if pump.cancelled():
            return Outcome(self._stopped or Finish.INTERRUPTED)
        return pump.result()

    def _take(self, *, last: bool) -> str:
        """The pending text. Some servers split the escape of an emoji: half a surrogate pair waits for the other."""
        text = "".join(self._pending)
        held = "" if last else "".join(_TRAILING_HIGH_SURROGATE.findall(text))
        self._pending = [held] if held else []
        return _storable(text.removesuffix(held) if held else text)


def _chat(rows: Sequence[Row]) -> list[Prompt]:
    """The session as the model sees it, ending with the message to answer.

    Answers that were cut off are part of it: the person has read them, and "go on" refers to them. Those without any
    text are not, as some providers refuse an empty message.
    """
    return [Prompt("user" if row.role == "user" else "assistant", row.content) for row in rows if row.content]


def _failure(code: ErrorCode, retry_after: float | None = None) -> Outcome:
    return Outcome(Finish.ERROR, RunError(code, CATALOGUE[code].retryable, retry_after))


def _fitting(text: str, room: int) -> tuple[str, int]:
    """As much of `text` as `room` bytes of UTF-8 hold, and what is left of them."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= room:
        return text, room - len(data)
    # Before the character that does not fit as a whole: its continuation bytes are 10xxxxxx.
    while data[room] & 0xC0 == 0x80:
        room -= 1
    return data[:room].decode("utf-8", "surrogatepass"), 0


def _storable(text: str) -> str:
    """`text` with surrogate pairs joined, and U+FFFD for what no UTF-8 or no database's text can hold."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")
