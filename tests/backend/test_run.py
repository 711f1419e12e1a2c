"""One run, on a real log."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from moorline.backend.backlog import MAX_PARTS
from moorline.backend.errors import ErrorCode, LLMError
from moorline.backend.eventlog.base import LogUnavailable, RunHandle
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Finish, MessageEnded, RunError, TextAdded, Usage
from moorline.backend.parts import Part
from moorline.backend.responder import Answer, Data, Done, Piece, Prompt, Responder, Source, Status, Text, Turn
from moorline.backend.run import LEFT_BEHIND, Run
from moorline.backend.service import as_service
from moorline.backend.settings import Settings
from moorline.gateway.common.collection import no_collection
from tests.support.backends import STEP, Script
from tests.support.eventlogs import exchange, opened, until


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    log = open_log(f"sqlite:///{tmp_path}/chat.db")
    await log.open()
    yield log
    await log.close()


async def a_run(
    log: EventLog,
    responder: Responder | Answer,
    *,
    timeout: float = 10.0,
    text: str = "Hi",
    slots: int = 1,
    max_answer: int = 1 << 20,
) -> Run:
    started = await log.start_run("s1", "p1", client_msg_id=text, content=text, now=0.0)
    assert started.handle is not None
    gate = asyncio.Semaphore(slots)
    return Run(
        log,
        as_service(responder),
        started.handle,
        Settings(run_timeout=timeout, max_answer=max_answer, max_prompt=1 << 20),
        user_seq=started.seq,
        slots=gate,
    )


async def events(log: EventLog) -> Sequence[Event]:
    return await log.read_after("s1", 0, limit=1000)


async def end(log: EventLog) -> MessageEnded:
    last = (await events(log))[-1]
    assert isinstance(last, MessageEnded)
    return last


async def test_a_whole_answer_ends_with_stop(log: EventLog) -> None:
    await (await a_run(log, Script("Hel", "lo", None))).carry_out()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hello", Finish.STOP)


async def test_many_pieces_at_once_become_few_events(log: EventLog) -> None:
    await (await a_run(log, Script(*"abcdefghij" * 10, None))).carry_out()
    assert (await end(log)).content == "abcdefghij" * 10
    assert sum(isinstance(event, TextAdded) for event in await events(log)) <= 2


@pytest.mark.parametrize(
    ("pieces", "kept"),
    [
        (("Hel", "lo ", "world", None), "Hello "),
        (("Hello world", None), "Hello "),
        (("Hell\u00f6", "\u00f6", None), "Hell\u00f6"),
        (("Hello\u20ac", None), "Hello"),
    ],
)
async def test_an_answer_beyond_max_answer_is_cut_between_characters(
    log: EventLog, pieces: tuple[str | None, ...], kept: str
) -> None:
    await (await a_run(log, Script(*pieces), max_answer=6)).carry_out()
    last = await end(log)
    assert (last.content, last.finish, last.error) == (kept, Finish.LENGTH, None)


async def test_an_answer_of_exactly_max_answer_is_whole(log: EventLog) -> None:
    await (await a_run(log, Script("Hello!", None), max_answer=6)).carry_out()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hello!", Finish.STOP)


async def test_a_failure_keeps_the_text_and_names_the_code(log: EventLog) -> None:
    await (await a_run(log, Script("Hel", LLMError(ErrorCode.LLM_BUSY, "429", retry_after=7.0)))).carry_out()
    last = await end(log)
    assert last.error is not None
    assert (last.content, last.finish, last.error.code, last.error.retry_after) == (
        "Hel",
        Finish.ERROR,
        "llm_busy",
        7.0,
    )


async def test_a_run_that_takes_too_long_in_all_fails_and_keeps_the_text(log: EventLog) -> None:
    script = Script("Hel")
    await (await a_run(log, script, timeout=0.6)).carry_out()
    last = await end(log)
    assert last.error is not None
    assert (last.content, last.error.code) == ("Hel", "llm_unavailable")
    assert script.closed.is_set()


async def test_a_run_that_waits_too_long_for_its_turn_says_that_the_model_is_busy(log: EventLog) -> None:
    script = Script()
    await (await a_run(log, script, timeout=0.05, slots=0)).carry_out()
    error = (await end(log)).error
    assert error is not None
    assert (error.code, error.retryable, script.chats) == (ErrorCode.LLM_BUSY, True, [])


async def test_a_run_that_was_stopped_before_it_began_ends_as_it_was_told(log: EventLog) -> None:
    run = await a_run(log, Script())
    run.stop(Finish.CANCELLED)
    await run.carry_out()
    assert (await end(log)).finish is Finish.CANCELLED


async def test_an_erased_session_ends_the_run_and_closes_the_stream(log: EventLog) -> None:
    script = Script()
    running = asyncio.create_task((await a_run(log, script)).carry_out())
    await script.asked.wait()
    await log.delete_session("s1")
    script.put("lost")
    assert await running is None
    assert script.closed.is_set()


async def test_the_model_is_shown_no_chat_that_has_begun_under_the_id_of_an_erased_one(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, script = EventLog.rows, Script(None)

    async def begun_anew(log: EventLog, session_id: str, **options: Any) -> Any:
        monkeypatch.undo()
        await log.delete_session(session_id)
        await exchange(log, session_id, patient_id="another")
        return await rows(log, session_id, **options)

    async with opened(database) as log:
        run = await a_run(log, script)
        monkeypatch.setattr(EventLog, "rows", begun_anew)
        assert await run.carry_out() is None
    assert script.chats == []


async def test_the_model_sees_the_session_in_order_with_partial_answers_and_without_empty_ones(log: EventLog) -> None:
    await (await a_run(log, Script("part", LLMError(ErrorCode.INTERNAL, "x")), text="one")).carry_out()
    await (await a_run(log, Script(LLMError(ErrorCode.INTERNAL, "x")), text="two")).carry_out()
    script = Script(None)
    await (await a_run(log, script, text="three")).carry_out()
    assert script.chats == [
        [Prompt("user", "one"), Prompt("assistant", "part"), Prompt("user", "two"), Prompt("user", "three")]
    ]


async def test_an_emoji_cut_in_two_is_joined_and_half_of_one_replaced(log: EventLog) -> None:
    await (await a_run(log, Script("a\ud83d", "\ude00b\ud83d", None))).carry_out()
    assert (await end(log)).content == "a😀b\ufffd"


class Cut:
    """An answer that was cut off."""

    name = "cut"
    scripted = False

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        yield Text("Hel")
        yield Done(Finish.INTERRUPTED)


class Broken(Cut):
    """A bug."""

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        if turn.message:
            raise KeyError("bug")
        yield Done(Finish.STOP)


class Held(Script):
    """Another reference to the generator is kept, so that only `aclose` closes it."""

    def __init__(self, *lines: str | LLMError | None) -> None:
        super().__init__(*lines)
        self.generators: list[AsyncIterator[Piece]] = []

    def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        self.generators.append(super().answer(turn))
        return self.generators[-1]


async def test_a_stream_that_is_not_read_to_its_end_is_closed(log: EventLog) -> None:
    script = Held("Hello", " you", None)
    await (await a_run(log, script, max_answer=5)).carry_out()
    assert script.closed.is_set()


class Plain(Cut):
    """An iterator that cannot be closed."""

    def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        return self

    def __init__(self) -> None:
        self._pieces: Iterator[Piece] = iter([Text("Hello"), Done(Finish.STOP)])

    def __aiter__(self) -> "Plain":
        return self

    async def __anext__(self) -> Piece:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


async def test_an_iterator_without_aclose_is_an_answer_too(log: EventLog) -> None:
    await (await a_run(log, Plain())).carry_out()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hello", Finish.STOP)


@pytest.mark.parametrize(("text", "kept"), [("a\0b", "a\ufffdb"), ("ü\0", "ü\ufffd"), ("ü\ud83d.", "ü\ufffd.")])
async def test_what_no_database_can_hold_is_replaced(log: EventLog, text: str, kept: str) -> None:
    await (await a_run(log, Script(text, None))).carry_out()
    assert (await end(log)).content == kept


# While the event log is unavailable -----------------------------------------------------------------------------------


class Refusing:
    """A log that takes text after `before` returned, and refuses it the first `times`."""

    def __init__(self, log: EventLog, times: int, before: Callable[[], Awaitable[object]]) -> None:
        self._log = log
        self._times = times
        self._before = before
        self.refused = 0
        self.at = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def add_part(self, run: RunHandle, part: Part, *, at: int) -> "asyncio.Future[int]":
        return asyncio.ensure_future(self._add(lambda: self._log.add_part(run, part, at=at), at))

    def add_text(self, run: RunHandle, text: str, *, at: int) -> "asyncio.Future[int]":
        return asyncio.ensure_future(self._add(lambda: self._log.add_text(run, text, at=at), at))

    async def _add(self, add: "Callable[[], asyncio.Future[int]]", at: int) -> int:
        self.at = at
        await self._before()
        if self.refused < self._times:
            self.refused += 1
            raise LogUnavailable("refused by a test")
        return await add()


class Counted(Cut):
    """Numbered pieces of ten characters, and how many of them were asked for."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces
        self.asked = 0

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        for number in range(self._pieces):
            self.asked += 1
            yield Text(f"{number:10}")
        yield Done(Finish.STOP)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorline.backend.writer.LOG_RETRY_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_text_that_the_log_refused_stands_before_what_came_meanwhile(log: EventLog) -> None:
    script = Script("one ")

    async def others_come() -> None:
        script.put("two ", "three", None)
        await script.closed.wait()

    faulty: Any = Refusing(log, 1, others_come)
    await (await a_run(faulty, script)).carry_out()
    assert faulty.refused == 1
    assert (await end(log)).content == "one two three"


@pytest.mark.usefixtures("impatient")
async def test_the_model_is_read_no_further_ahead_however_slow_the_log_is_and_however_often_it_refuses(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.backend.writer._READ_AHEAD", 40)
    model, ahead = Counted(30), []

    async def a_while() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        ahead.append(10 * model.asked - faulty.at)

    faulty: Any = Refusing(log, 5, a_while)
    await (await a_run(faulty, model)).carry_out()
    assert set(ahead[:5]) == {50}
    assert max(ahead) == 50
    assert len((await end(log)).content) == 300


async def test_an_answer_that_was_cut_off_is_interrupted(log: EventLog) -> None:
    await (await a_run(log, Cut())).carry_out()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hel", Finish.INTERRUPTED)


async def test_a_bug_in_a_responder_ends_the_run_as_internal(log: EventLog) -> None:
    await (await a_run(log, Broken())).carry_out()
    error = (await end(log)).error
    assert error is not None
    assert error.code is ErrorCode.INTERNAL


# Responders of the user's ---------------------------------------------------------------------------------------------


async def parts_and_text(turn: Turn) -> AsyncIterator[Piece]:
    yield Status("looking up")
    yield Source("Guideline", "https://example.com/")
    yield "Good "
    yield Data("vitals", {"pulse": 60})
    yield "day"


async def test_parts_are_logged_in_their_place(log: EventLog) -> None:
    await (await a_run(log, parts_and_text)).carry_out()
    last = await end(log)
    assert (last.content, last.finish) == ("Good day", Finish.STOP)
    assert last.parts == (Source("Guideline", "https://example.com/"), Data("vitals", {"pulse": 60}))


@pytest.mark.usefixtures("impatient")
async def test_parts_that_the_log_refused_are_written_once_and_in_their_order(log: EventLog) -> None:
    async def at_once() -> None:
        pass

    faulty: Any = Refusing(log, 3, at_once)
    await (await a_run(faulty, parts_and_text)).carry_out()
    last = await end(log)
    assert faulty.refused == 3
    assert (last.content, [part.kind for part in last.parts]) == ("Good day", ["source", "data"])


async def test_what_was_yielded_is_copied(log: EventLog) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        value = {"pulse": 60}
        yield Data("vitals", value)
        value["pulse"] = 0

    await (await a_run(log, answer)).carry_out()
    assert (await end(log)).parts == (Data("vitals", {"pulse": 60}),)


async def test_an_answer_with_too_many_parts_is_cut(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        for number in range(MAX_PARTS + 1):
            yield Source(str(number))

    await (await a_run(log, answer)).carry_out()
    assert (len((await end(log)).parts), (await end(log)).finish) == (MAX_PARTS, Finish.LENGTH)
    assert caplog.messages[-1].endswith(" exceeded 256 parts")


async def test_parts_count_towards_max_answer(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        yield "Good "
        yield Data("chart", "x" * 100)

    await (await a_run(log, answer, max_answer=100)).carry_out()
    last = await end(log)
    assert (last.content, last.parts, last.finish) == ("Good ", (), Finish.LENGTH)
    assert caplog.messages[-1].endswith(" exceeded max_answer")


async def test_what_follows_the_end_of_a_wrapped_model_is_part_of_the_answer(log: EventLog) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        for _ in range(2):
            yield Text("Good ")
            yield Done(Finish.LENGTH, Usage(1, 2))
        yield Source("Guideline")

    await (await a_run(log, answer)).carry_out()
    last = await end(log)
    assert (last.content, last.finish, last.usage) == ("Good Good ", Finish.LENGTH, Usage(2, 4))
    assert last.parts == (Source("Guideline"),)


async def test_an_end_may_be_named_by_its_word(log: EventLog) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        yield "Good "
        yield Done("length")  # type: ignore[arg-type]

    await (await a_run(log, answer)).carry_out()
    assert ((await end(log)).content, (await end(log)).finish) == ("Good ", Finish.LENGTH)


@pytest.mark.parametrize(
    "piece",
    [
        7,
        b"bytes",
        None,
        Text(7),  # type: ignore[arg-type]
        Data("a", object()),
        Source(7),  # type: ignore[arg-type]
        Done(Finish.ERROR),
        Done(Finish.STOP, {"input_tokens": 1}),  # type: ignore[arg-type]
    ],
    ids=lambda piece: type(piece).__name__,
)
async def test_a_wrong_piece_ends_the_run_and_the_log_names_function_and_file(
    log: EventLog, piece: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        yield "Good "
        yield piece

    await (await a_run(log, answer)).carry_out()
    last = await end(log)
    assert last.error is not None
    assert (last.content, last.error.code) == ("Good ", ErrorCode.INTERNAL)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "answer in tests/backend/test_run.py, line " in line
    assert " yielded " in line


async def test_an_exception_is_logged_with_its_place_and_without_its_words(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        yield "Good "
        raise ValueError(f"cannot answer {turn.message}")

    await (await a_run(log, answer, text="a private word")).carry_out()
    assert (await end(log)).error == RunError(ErrorCode.INTERNAL, True)
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "ValueError (answer in tests/backend/test_run.py, line " in line.getMessage()
    assert "private" not in line.getMessage()
    assert line.exc_info is None


@pytest.mark.parametrize(("error", "code"), [(TimeoutError, "llm_unavailable"), (SystemExit, "internal")])
async def test_whatever_a_responder_raises_ends_its_run_alone(
    log: EventLog, error: type[BaseException], code: str
) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        yield "Good "
        raise error

    await (await a_run(log, answer)).carry_out()
    last = await end(log)
    assert last.error is not None
    assert (last.content, last.error.code) == ("Good ", code)


class Stubborn:
    """Catches its cancellation, and goes on when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go_on = asyncio.Event()

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        yield "Good "
        self.asked.set()
        while not self.go_on.is_set():
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
        yield "too late"


async def test_a_responder_that_ignores_its_cancellation_is_left_behind(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("moorline.backend.run._CANCEL_SECONDS", 0.05)
    responder = Stubborn()
    run = await a_run(log, responder)
    running = asyncio.create_task(run.carry_out())
    await responder.asked.wait()
    run.stop(Finish.CANCELLED)
    await running
    assert ((await end(log)).content, (await end(log)).finish) == ("Good ", Finish.CANCELLED)
    assert "Stubborn.answer in tests/backend/test_run.py, line " in caplog.text
    (task,) = LEFT_BEHIND
    responder.go_on.set()
    await task
    assert not LEFT_BEHIND


async def test_a_responder_that_ignores_run_timeout_ends_as_one_that_does_not(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.backend.run._CANCEL_SECONDS", 0.05)
    responder = Stubborn()
    await (await a_run(log, responder, timeout=0.6)).carry_out()
    assert (await end(log)).error == RunError(ErrorCode.LLM_UNAVAILABLE, True)
    responder.go_on.set()
    await asyncio.wait(LEFT_BEHIND)


async def test_a_run_that_was_stopped_is_freed_without_a_search_for_cycles(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.backend.run._CANCEL_SECONDS", 0.1)
    responder = Script()
    run = await a_run(log, responder)
    stopped, carrying_out = weakref.ref(run), asyncio.create_task(run.carry_out())
    await asyncio.wait_for(responder.asked.wait(), STEP)
    with no_collection():
        run.stop(Finish.CANCELLED)
        await carrying_out
        del run, carrying_out
        await until(lambda: stopped() is None)


async def test_a_responder_that_catches_its_cancellation_and_goes_on_is_cut_off_there(log: EventLog) -> None:
    responder = Stubborn()
    run = await a_run(log, responder)
    running = asyncio.create_task(run.carry_out())
    await responder.asked.wait()
    run.stop(Finish.CANCELLED)
    await responder.cancelled.wait()
    responder.go_on.set()
    await running
    assert ((await end(log)).content, (await end(log)).finish) == ("Good ", Finish.CANCELLED)


async def test_a_run_says_whose_chat_it_is_and_who_asks(log: EventLog) -> None:
    turns: list[Turn] = []

    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        turns.append(turn)
        yield "Good day"

    await (await a_run(log, answer, text="one")).carry_out()
    await (await a_run(log, answer, text="two")).carry_out()
    (_, turn) = turns
    assert (turn.patient_id, turn.session_id, turn.principal, turn.message) == ("p1", "s1", "anonymous", "two")
    assert turn.run_id == (await end(log)).run_id
    assert turn.history == [Prompt("user", "one"), Prompt("assistant", "Good day")]


async def test_text_behind_a_part_is_written_although_nothing_follows(log: EventLog) -> None:
    waiting = asyncio.Event()

    async def answer(turn: Turn) -> AsyncIterator[Piece]:
        yield Source("Guideline")
        yield "Good "
        waiting.set()
        await asyncio.Event().wait()

    watch, run = log.watch("s1"), await a_run(log, answer)
    running = asyncio.create_task(run.carry_out())
    await waiting.wait()
    async with asyncio.timeout(STEP):
        while not isinstance((await events(log))[-1], TextAdded):
            await watch.wait()
    run.stop(Finish.CANCELLED)
    await running
