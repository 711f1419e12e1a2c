"""The runs of this process: their number is bounded, more wait, and all end at shutdown.

`max_runs` are answered at once, as many again wait for a slot, and the next is refused with `llm_busy`; a command that
was committed before is acknowledged again also then. Each client has a share of them (`client_limits.py`). A run is
independent of the socket that started it: its command is carried out in a task of its own, so that a client lost
between commit and start leaves no run without a writer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from moorline.backend.client_limits import Client, ClientLimits, Place
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.base import LogUnavailable, RunHandle, Started
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Finish
from moorline.backend.ratelimit import rate_limit_refusal
from moorline.backend.run import Figures, Outcome, Run
from moorline.backend.service import Service
from moorline.backend.settings import Settings
from moorline.gateway.common import tracing
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.logs import hashed

__all__ = ["Runs"]

logger = logging.getLogger("moorline.backend.runs")

# `retry_after` of `llm_busy` where this process is full.
_BUSY_RETRY_SECONDS = 5.0
# Writing the ends of interrupted runs is one group commit; this is the share of a drain kept for it, and its bound.
_INTERRUPT_SHARE = 0.2
_INTERRUPT_SECONDS = 2.0

# Between two lines in the log about clients that are over their limits.
_WARN_SECONDS = 10.0
# Of the message that begins a session.
_FIRST_SEQ = 1

Acknowledge = Callable[[Started], None]
#: Commits; with a refusal it only acknowledges again what was committed before.
Command = Callable[[Refusal | None], Awaitable[Started]]


class Runs:
    """Starts, finds and ends runs."""

    def __init__(
        self,
        log: EventLog,
        service: Service,
        settings: Settings,
        on_end: Callable[[Outcome | None, Figures], None] = lambda outcome, figures: None,
    ) -> None:
        self._log = log
        self._service = service
        self._on_end = on_end
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.max_runs)
        self._capacity = 2 * settings.max_runs
        self._client_limits = ClientLimits(settings, time.monotonic)
        self._warned_at = -_WARN_SECONDS
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[object]] = set()
        self._reserved = 0
        self._closing = asyncio.Event()
        #: The model's last known state, for /readyz: `unknown`, `ok` or the code of the last failure.
        self.model_state = "unknown"
        log.attach(self)

    @property
    def scripted(self) -> bool:
        """No model answers: see `moorline.backend.responder.Responder`."""
        return self._service.scripted

    def count(self) -> tuple[int, int]:
        """How many are being answered, and how many wait for a slot."""
        waiting = sum(run.is_queued for run in self._runs.values())
        return len(self._runs) - waiting, waiting

    # Commands ---------------------------------------------------------------------------------------------------------

    async def send(
        self,
        session_id: str,
        patient_id: str,
        *,
        client: Client,
        client_msg_id: str,
        content: str,
        by: Principal,
        epoch: str | None = None,
        acknowledge: Acknowledge | None = None,
    ) -> Started:
        """Commit a message that `by` has sent, and start its run; with an `epoch` in the session of that one alone.

        `acknowledge` is called after the commit, before the run's first step.

        Raises:
            Refusal, LogUnavailable: as `EventLog.start_run`, `llm_busy` and `rate_limited`.
        """

        async def command(refusal: Refusal | None) -> Started:
            limited = self._client_limits.session_refusal(client)
            # The log is asked only where it matters whether the session exists.
            if refusal is None and limited is not None and await self._log.find_session(session_id) is None:
                refusal = limited
                self._warn(limited)
            started = await self._log.start_run(
                session_id,
                patient_id,
                client_msg_id=client_msg_id,
                content=content,
                now=time.time(),
                principal=by.name,
                epoch=epoch,
                refusal=refusal,
            )
            if started.seq == _FIRST_SEQ and not started.duplicate:
                self._client_limits.session_begun(client)
            return started

        return await self._carry_out(session_id, command, client, by, acknowledge)

    async def retry(
        self,
        session_id: str,
        *,
        client: Client,
        by: Principal,
        run_id: str,
        client_msg_id: str,
        acknowledge: Acknowledge | None = None,
    ) -> Started:
        """Start a new run for the user message of `run_id`; as `send`."""

        def command(refusal: Refusal | None) -> Awaitable[Started]:
            return self._log.retry_run(
                session_id,
                run_id=run_id,
                client_msg_id=client_msg_id,
                now=time.time(),
                principal=by.name,
                refusal=refusal,
            )

        return await self._carry_out(session_id, command, client, by, acknowledge)

    async def cancel(self, session_id: str, run_id: str) -> None:
        """End a run of this session, if it is under way, here or in another process; otherwise nothing.

        Raises:
            LogUnavailable: it is not under way here.
        """
        run = self._runs.get(run_id)
        if run is None:
            await self._log.cancel_run(session_id, run_id)
        elif run.handle.session_id == session_id:
            run.stop(Finish.CANCELLED)

    def stop_run(self, run_id: str) -> None:
        """See RunOwner.stop_run."""
        run = self._runs.get(run_id)
        if run is not None:
            run.stop(Finish.CANCELLED)

    def adopt_run(self, started: Started) -> None:
        """See RunOwner.adopt_run."""
        if started.handle is not None:
            full = len(self._runs) + self._reserved >= self._capacity
            run = self._start(started, started.handle)
            if full:
                run.stop(Finish.INTERRUPTED)

    async def erase(self, session_id: str, epoch: str) -> None:
        """Erase the session of this epoch, and close its provider's stream at once.

        Neither the session that has begun under its id since, perhaps another patient's, nor that one's run.
        """
        before = [run for run in self._runs.values() if run.handle.session_id == session_id]
        if await self._log.delete_session(session_id, epoch=epoch):
            for run in before:
                run.stop(Finish.CANCELLED)

    async def _carry_out(
        self, session_id: str, command: Command, client: Client, by: Principal, acknowledge: Acknowledge | None
    ) -> Started:
        span = tracing.begin("message")
        with tracing.current(span):
            task = asyncio.create_task(self._begin(session_id, command, client, by, acknowledge))
        task.add_done_callback(lambda _: span.end())
        self._keep(task)
        return await asyncio.shield(task)

    async def _begin(
        self, session_id: str, command: Command, client: Client, by: Principal, acknowledge: Acknowledge | None
    ) -> Started:
        refusal: Refusal | None = None
        place: Place | None = None
        if self._closing.is_set() or len(self._runs) + self._reserved >= self._capacity:
            refusal = Refusal(ErrorCode.LLM_BUSY, retry_after=_BUSY_RETRY_SECONDS)
        else:
            try:
                place = self._client_limits.take(client)
            except Refusal as limited:
                refusal = limited
                self._warn(limited)
        # A command that cannot start a run reserves nothing: two of them would refuse each other without end.
        self._reserved += place is not None
        try:
            if refusal is None and (per_minute := self._settings.rate_limit) is not None:
                refusal = await rate_limit_refusal(self._log, session_id, per_minute=per_minute, now=time.time())
            started = await command(refusal)
        except BaseException:
            if place is not None:
                place.give_back()
            raise
        finally:
            self._reserved -= place is not None
        if acknowledge is not None:
            acknowledge(started)
        if started.handle is not None:
            self._start(started, started.handle, place, by)
        elif place is not None:
            place.give_back()
        return started

    def _warn(self, refusal: Refusal) -> None:
        """A limit that is too low for the clients behind one address is the operator's to raise."""
        now = time.monotonic()
        if now - self._warned_at >= _WARN_SECONDS:
            self._warned_at = now
            logger.warning("a message was refused: %s", refusal.message)

    def _start(
        self, started: Started, handle: RunHandle, place: Place | None = None, by: Principal | None = None
    ) -> Run:
        run = Run(
            self._log,
            self._service,
            handle,
            self._settings,
            user_seq=started.seq,
            slots=self._slots,
            by=by,
        )
        self._runs[started.run_id] = run
        self._keep(asyncio.create_task(self._run(run, place)))
        if self._closing.is_set():
            run.stop(Finish.INTERRUPTED)
        return run

    async def _run(self, run: Run, place: Place | None) -> None:
        handle = run.handle
        span = tracing.begin(
            "run", gen_ai__conversation__id=hashed(handle.session_id), moorline__run=hashed(handle.run_id)
        )
        try:
            with tracing.current(span):
                outcome = await run.carry_out()
            _describe(span, outcome)
        finally:
            span.end()
            del self._runs[run.handle.run_id]
            if place is not None:
                place.release()
        self._note(outcome)
        self._on_end(outcome, run.figures)

    def _note(self, outcome: Outcome | None) -> None:
        if outcome is None or outcome.finish is Finish.CANCELLED:
            return
        self.model_state = str(outcome.error.code) if outcome.error else "ok"

    def _keep(self, task: "asyncio.Task[Started] | asyncio.Task[None]") -> None:
        self._tasks.add(task)
        task.add_done_callback(self._release)

    def _release(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if task.cancelled() or isinstance(error := task.exception(), Refusal | LogUnavailable | None):
            return
        logger.error("a command or a run failed", exc_info=error)

    # Shutdown ---------------------------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Let the active runs finish within `seconds`; those that do not end as `interrupted`."""
        self._closing.set()
        reserve = min(_INTERRUPT_SECONDS, seconds * _INTERRUPT_SHARE)
        await self._settle(seconds - reserve)
        for run in list(self._runs.values()):
            run.stop(Finish.INTERRUPTED)
        # With no time given the commits still get theirs: they are what the next start would have to repair.
        await self._settle(max(reserve, _INTERRUPT_SECONDS))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(self, seconds: float) -> None:
        """Wait for all tasks, those as well that a command starts meanwhile."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._tasks and loop.time() < deadline:
            await asyncio.wait(set(self._tasks), timeout=deadline - loop.time())


def _describe(span: tracing.Span, outcome: Outcome | None) -> None:
    span.set(moorline__finish="lost" if outcome is None else outcome.finish.value)
    if outcome is not None and outcome.error is not None:
        span.fail(str(outcome.error.code))
