"""One run: the responder's stream of text and parts -> events -> the log.

Two tasks: the pump reads the stream as fast as it comes and puts it into a writer, which appends what has gathered; the
other waits for the end of both. So a commit never holds up the provider. Nothing here knows of sockets.

The responder is code of the user's. It may raise anything, never yield, and ignore its cancellation: then the run ends
without it, and its task is left behind.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from moorline.backend.backlog import Room
from moorline.backend.errors import CATALOGUE, ErrorCode, LLMError
from moorline.backend.eventlog.base import LOG_RETRY_SECONDS, LogUnavailable, RunHandle, RunLost
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Finish, Row, RunError, Usage
from moorline.backend.history import newest_rows
from moorline.backend.parts import Part, decode_part, encode_part
from moorline.backend.responder import Done, Piece, Prompt, Turn
from moorline.backend.service import Service, WrongPiece
from moorline.backend.settings import Settings
from moorline.backend.writer import Writer
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.config.named import failure
from moorline.gateway.common.logs import hashed

__all__ = ["CHAT_ROWS", "LEFT_BEHIND", "Figures", "Outcome", "Run"]

logger = logging.getLogger("moorline.backend.run")

#: How much of a session the model is shown: its last rows up to the message to answer, and of these up to `max_prompt`
#: bytes. Longer memory costs more with every message; 100 rows are some fifty exchanges.
CHAT_ROWS = 100
# From the cancellation of the responder to the end of the run without it; below the time that a drain has for the ends.
_CANCEL_SECONDS = 1.0

#: The tasks of responders that ignore their cancellation: the event loop itself keeps no task alive.
LEFT_BEHIND: set["asyncio.Task[Outcome]"] = set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended."""

    finish: Finish
    error: RunError | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class Figures:
    """What a run took, in seconds since its message was committed."""

    first: float | None = None
    """To the first piece of its answer; None where there was none."""
    seconds: float = 0.0
    """To its end."""
    characters: int = 0


class Run:
    """A run that this process owns. `carry_out` it once, in a task; `stop` may be called at any time.

    `user_seq` is that of the message to answer. `by` is who sent it; None where the run was taken over from another
    process.
    """

    def __init__(
        self,
        log: EventLog,
        service: Service,
        handle: RunHandle,
        settings: Settings,
        *,
        user_seq: int,
        slots: asyncio.Semaphore,
        by: Principal | None = None,
    ) -> None:
        self.handle = handle
        self._log = log
        self._service = service
        self._user_seq = user_seq
        self._slots = slots
        self._timeout = settings.run_timeout
        self._room = Room(settings.max_answer)
        self._max_prompt = settings.max_prompt
        self._by = by
        self.figures = Figures()
        self._began = time.monotonic()
        # Nothing more is to be appended: the answer has ended, the responder was given up, or the log takes no more.
        self._over = asyncio.Event()
        self._writer = Writer(log, handle, self._over.set)
        self.is_queued = True
        self._pump: asyncio.Task[Outcome] | None = None
        self._stopped: Outcome | None = None
        self._abandoned = False

    async def carry_out(self) -> Outcome | None:
        """Write the answer and its end; None when the run was lost to another owner or erased."""
        self._pump = pump = asyncio.create_task(self._read_stream())
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._timeout, self._time_out)
        if self._stopped is not None:
            self._cancel(pump)
        pump.add_done_callback(lambda _: self._over.set())
        try:
            return await self._write_all(pump)
        except RunLost:
            logger.info("run %s lost: ended by another process or erased", hashed(self.handle.run_id))
            return None
        finally:
            self.figures.seconds = time.monotonic() - self._began
            self._writer.close()
            timer.cancel()
            pump.cancel()
            await asyncio.wait({pump}, timeout=0.0 if self._abandoned else _CANCEL_SECONDS)
            if not pump.done():
                self._leave_behind(pump)
            # The traceback of its cancellation refers to this run.
            self._pump = None

    def stop(self, finish: Finish) -> None:
        """End the run now as CANCELLED or INTERRUPTED; the responder's stream is closed and what came is kept."""
        self._end_as(Outcome(finish))

    def _time_out(self) -> None:
        logger.warning("run %s exceeded run_timeout", hashed(self.handle.run_id))
        self._end_as(_failed(ErrorCode.LLM_BUSY if self.is_queued else ErrorCode.LLM_UNAVAILABLE))

    def _end_as(self, outcome: Outcome) -> None:
        if self._stopped is not None or (self._pump is not None and self._pump.done()):
            return
        self._stopped = outcome
        if self._pump is not None:
            self._cancel(self._pump)

    def _cancel(self, pump: "asyncio.Task[Outcome]") -> None:
        pump.cancel()
        asyncio.get_running_loop().call_later(_CANCEL_SECONDS, self._abandon)

    def _abandon(self) -> None:
        self._abandoned = True
        self._over.set()

    def _leave_behind(self, pump: "asyncio.Task[Outcome]") -> None:
        logger.error(
            "run %s: %s has not ended %gs after its cancellation: the run ends without it",
            hashed(self.handle.run_id),
            self._service.place,
            _CANCEL_SECONDS,
        )
        LEFT_BEHIND.add(pump)
        pump.add_done_callback(LEFT_BEHIND.discard)

    # Reading the stream -----------------------------------------------------------------------------------------------

    async def _read_stream(self) -> Outcome:
        try:
            async with self._slots:
                self.is_queued = False
                turn = await self._turn()
                return Outcome(Finish.INTERRUPTED) if turn is None else await self._read_answer(turn)
        except LLMError as error:
            logger.warning("run %s failed: %s", hashed(self.handle.run_id), error)
            return _failed(error.code, error.retry_after)
        except LogUnavailable:
            return _failed(ErrorCode.INTERNAL)
        except WrongPiece as error:
            logger.error("run %s failed: %s", hashed(self.handle.run_id), error)
            return _failed(ErrorCode.INTERNAL)
        except (Exception, SystemExit) as error:
            # Its message may quote the chat.
            facts = hashed(self.handle.run_id), failure(error, private=True)
            logger.error("run %s failed: %s; its message is logged with log_level=debug", *facts)
            logger.debug("run %s failed", facts[0], exc_info=error)
            return _failed(ErrorCode.LLM_UNAVAILABLE if isinstance(error, TimeoutError) else ErrorCode.INTERNAL)

    async def _turn(self) -> Turn | None:
        """What the responder is asked; None where the session was erased meanwhile."""
        handle = self.handle
        before = self._user_seq + 1
        rows = await newest_rows(self._log, handle.session_id, before=before, count=CHAT_ROWS, size=self._max_prompt)
        # Behind the rows, which are of several reads: while the run is there they were of its session, and not of
        # another patient's that has begun under this id.
        facts = await self._log.run_facts(handle)
        if facts is None or not rows:
            return None
        *history, message = rows
        return Turn(
            message=message.content,
            history=_chat(history),
            patient_id=facts.patient_id,
            session_id=handle.session_id,
            run_id=handle.run_id,
            principal=facts.principal,
            metadata=self._by.metadata if self._by else {},
        )

    async def _read_answer(self, turn: Turn) -> Outcome:
        outcome = Outcome(Finish.STOP)
        async with _closing(self._service.answer(turn)) as pieces:
            async for given in pieces:
                if self._stopped is not None:
                    break  # its cancellation was caught
                piece = self._service.checked(given)
                if isinstance(piece, Done):
                    outcome = Outcome(piece.finish, usage=_sum(outcome.usage, piece.usage))
                    continue
                whole = self._put(piece)
                if self._writer.is_full:
                    await self._writer.room()
                if not whole:
                    logger.warning("run %s exceeded %s", hashed(self.handle.run_id), self._room.limit)
                    return Outcome(Finish.LENGTH, usage=outcome.usage)
        return outcome

    def _put(self, piece: str | Part) -> bool:
        """Add a piece to the backlog, or as much of it as there is room for, and then return False."""
        whole = True
        if self.figures.first is None:
            self.figures.first = time.monotonic() - self._began
        if isinstance(piece, str):
            kept = self._room.fitting(piece)
            whole = len(kept) == len(piece)
            self._writer.put(kept)
            self.figures.characters += len(kept)
        elif whole := self._room.fits(encoded := encode_part(piece)):
            # A copy: the responder may go on to change what it has yielded.
            self._writer.put(decode_part(encoded))
        return whole

    # Writing the log --------------------------------------------------------------------------------------------------

    async def _write_all(self, pump: "asyncio.Task[Outcome]") -> Outcome:
        try:
            await self._over.wait()
            await self._writer.stop()
            return await self._end(self._outcome(pump))
        except RunLost:
            raise
        except Exception:
            # A bug, or a text that the log cannot take. What is committed stays, and the session must not stay busy.
            logger.exception("run %s failed", hashed(self.handle.run_id))
            self._writer.clear()
            return await self._end(_failed(ErrorCode.INTERNAL))

    async def _end(self, outcome: Outcome) -> Outcome:
        """Write the end, retrying while the log is unavailable: else the session stays busy. A drain ends the wait."""
        text = await self._writer.write_rest()
        while True:
            try:
                await self._log.end_run(
                    self.handle,
                    finish=outcome.finish,
                    now=time.time(),
                    text=text,
                    at=self._writer.kept,
                    error=outcome.error,
                    usage=outcome.usage,
                )
            except LogUnavailable as error:
                logger.debug("run %s: event log unavailable: %s", hashed(self.handle.run_id), error)
                await asyncio.sleep(LOG_RETRY_SECONDS)
            else:
                return outcome

    def _outcome(self, pump: "asyncio.Task[Outcome]") -> Outcome:
        # Where its stream was closed it does not matter what it made of that.
        return self._stopped or (Outcome(Finish.INTERRUPTED) if pump.cancelled() else pump.result())


@contextlib.asynccontextmanager
async def _closing(pieces: AsyncIterator[Piece]) -> AsyncIterator[AsyncIterator[Piece]]:
    """Close the stream at the end: one that is not would keep the provider's connection until it is collected."""
    try:
        yield pieces
    finally:
        if (aclose := getattr(pieces, "aclose", None)) is not None:
            await aclose()


def _chat(rows: Sequence[Row]) -> list[Prompt]:
    """The session as the model sees it.

    Answers that were cut off are part of it: the person has read them, and "go on" refers to them. Those without any
    text are not, as some providers refuse an empty message.
    """
    return [Prompt("user" if row.role == "user" else "assistant", row.content) for row in rows if row.content]


def _failed(code: ErrorCode, retry_after: float | None = None) -> Outcome:
    return Outcome(Finish.ERROR, RunError(code, CATALOGUE[code].retryable, retry_after))


def _sum(one: Usage | None, other: Usage | None) -> Usage | None:
    if one is None or other is None:
        return one or other
    return Usage(one.input_tokens + other.input_tokens, one.output_tokens + other.output_tokens)
