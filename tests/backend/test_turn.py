"""One run, on a real log."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from moorline.backend.errors import ErrorCode, LLMError
from moorline.backend.eventlog.base import LogUnavailable, RunHandle
from moorline.backend.eventlog.factory import open_log
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import Event, Finish, MessageEnded, TextAdded
from moorline.backend.responder import Done, Piece, Prompt, Responder, Text
from moorline.backend.turn import Turn
from tests.support.backends import Script


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    log = open_log(f"sqlite:///{tmp_path}/chat.db")
    await log.open()
    yield log
    await log.close()


async def a_turn(
    log: EventLog,
    responder: Responder,
    *,
    timeout: float = 10.0,
    text: str = "Hi",
    slots: int = 1,
    max_answer: int = 1 << 20,
) -> Turn:
    started = await log.start_run("s1", "p1", client_msg_id=text, content=text, now=0.0)
    assert started.handle is not None
    gate = asyncio.Semaphore(slots)
    return Turn(
        log, responder, started.handle, user_seq=started.seq, slots=gate, timeout=timeout, max_answer=max_answer
    )


async def events(log: EventLog) -> Sequence[Event]:
    return await log.read_after("s1", 0, limit=1000)


async def end(log: EventLog) -> MessageEnded:
    last = (await events(log))[-1]
    assert isinstance(last, MessageEnded)
    return last


async def test_a_whole_answer_ends_with_stop(log: EventLog) -> None:
    await (await a_turn(log, Script("Hel", "lo", None))).run()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hello", Finish.STOP)


async def test_many_pieces_at_once_become_few_events(log: EventLog) -> None:
    await (await a_turn(log, Script(*"abcdefghij" * 10, None))).run()
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
    await (await a_turn(log, Script(*pieces), max_answer=6)).run()
    last = await end(log)
    assert (last.content, last.finish, last.error) == (kept, Finish.LENGTH, None)


async def test_an_answer_of_exactly_max_answer_is_whole(log: EventLog) -> None:
    await (await a_turn(log, Script("Hello!", None), max_answer=6)).run()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hello!", Finish.STOP)


async def test_a_failure_keeps_the_text_and_names_the_code(log: EventLog) -> None:
    await (await a_turn(log, Script("Hel", LLMError(ErrorCode.LLM_BUSY, "429", retry_after=7.0)))).run()
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
    await (await a_turn(log, script, timeout=0.1)).run()
    last = await end(log)
    assert last.error is not None
    assert (last.content, last.error.code) == ("Hel", "llm_unavailable")
    assert script.closed.is_set()


async def test_a_run_that_waits_too_long_for_its_turn_says_that_the_model_is_busy(log: EventLog) -> None:
    script = Script()
    await (await a_turn(log, script, timeout=0.05, slots=0)).run()
    error = (await end(log)).error
    assert error is not None
    assert (error.code, error.retryable, script.chats) == (ErrorCode.LLM_BUSY, True, [])


async def test_a_run_that_was_stopped_before_it_began_ends_as_it_was_told(log: EventLog) -> None:
    turn = await a_turn(log, Script())
    turn.stop(Finish.CANCELLED)
    await turn.run()
    assert (await end(log)).finish is Finish.CANCELLED


async def test_an_erased_session_ends_the_run_and_closes_the_stream(log: EventLog) -> None:
    script = Script()
    running = asyncio.create_task((await a_turn(log, script)).run())
    await script.asked.wait()
    await log.delete_session("s1")
    script.put("lost")
    assert await running is None
    assert script.closed.is_set()


async def test_the_model_sees_the_session_in_order_with_partial_answers_and_without_empty_ones(log: EventLog) -> None:
    await (await a_turn(log, Script("part", LLMError(ErrorCode.INTERNAL, "x")), text="one")).run()
    await (await a_turn(log, Script(LLMError(ErrorCode.INTERNAL, "x")), text="two")).run()
    script = Script(None)
    await (await a_turn(log, script, text="three")).run()
    assert script.chats == [
        [Prompt("user", "one"), Prompt("assistant", "part"), Prompt("user", "two"), Prompt("user", "three")]
    ]


async def test_an_emoji_cut_in_two_is_joined_and_half_of_one_replaced(log: EventLog) -> None:
    await (await a_turn(log, Script("a\ud83d", "\ude00b\ud83d", None))).run()
    assert (await end(log)).content == "a😀b\ufffd"


class Cut:
    """Ends without saying that the answer is over."""

    name = "cut"
    scripted = False

    async def answer(self, chat: Sequence[Prompt]) -> AsyncIterator[Piece]:
        yield Text("Hel")

    async def close(self) -> None:
        pass


class Broken(Cut):
    """A bug."""

    async def answer(self, chat: Sequence[Prompt]) -> AsyncIterator[Piece]:
        if chat:
            raise KeyError("bug")
        yield Done(Finish.STOP)


class Held(Script):
    """Somebody else holds on to the generator, so that nothing but `aclose` closes it."""

    def __init__(self, *lines: str | LLMError | None) -> None:
        super().__init__(*lines)
        self.generators: list[AsyncIterator[Piece]] = []

    def answer(self, chat: Sequence[Prompt]) -> AsyncIterator[Piece]:
        self.generators.append(super().answer(chat))
        return self.generators[-1]


async def test_the_stream_is_closed_as_soon_as_the_answer_is_whole(log: EventLog) -> None:
    script = Held("Hello", None)
    await (await a_turn(log, script)).run()
    assert script.closed.is_set()


class Plain(Cut):
    """An iterator that cannot be closed."""

    def answer(self, chat: Sequence[Prompt]) -> AsyncIterator[Piece]:
        return self

    def __init__(self) -> None:
        self._pieces: Iterator[Piece] = iter([Text("Hello"), Done(Finish.STOP)])

    def __aiter__(self) -> "Plain":
        return self

    async def __anext__(self) -> Piece:
        return next(self._pieces)


async def test_an_iterator_without_aclose_is_an_answer_too(log: EventLog) -> None:
    await (await a_turn(log, Plain())).run()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hello", Finish.STOP)


@pytest.mark.parametrize(("text", "kept"), [("a\0b", "a\ufffdb"), ("ü\0", "ü\ufffd"), ("ü\ud83d.", "ü\ufffd.")])
async def test_what_no_database_can_hold_is_replaced(log: EventLog, text: str, kept: str) -> None:
    await (await a_turn(log, Script(text, None))).run()
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

    async def add_text(self, run: RunHandle, text: str, *, at: int) -> int:
        self.at = at
        await self._before()
        if self.refused < self._times:
            self.refused += 1
            raise LogUnavailable("refused by a test")
        return await self._log.add_text(run, text, at=at)


class Counted(Cut):
    """Numbered pieces of ten characters, and how many of them were asked for."""

    def __init__(self, pieces: int) -> None:
        self._pieces = pieces
        self.asked = 0

    async def answer(self, chat: Sequence[Prompt]) -> AsyncIterator[Piece]:
        for number in range(self._pieces):
            self.asked += 1
            yield Text(f"{number:10}")
        yield Done(Finish.STOP)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorline.backend.turn._LOG_RETRY_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_text_that_the_log_refused_stands_before_what_came_meanwhile(log: EventLog) -> None:
    script = Script("one ")

    async def others_come() -> None:
        script.put("two ", "three", None)
        await script.closed.wait()

    faulty: Any = Refusing(log, 1, others_come)
    await (await a_turn(faulty, script)).run()
    assert faulty.refused == 1
    assert (await end(log)).content == "one two three"


@pytest.mark.usefixtures("impatient")
async def test_the_model_is_read_no_further_ahead_however_slow_the_log_is_and_however_often_it_refuses(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.backend.turn._READ_AHEAD", 40)
    model, ahead = Counted(30), []

    async def a_while() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        ahead.append(10 * model.asked - faulty.at)

    faulty: Any = Refusing(log, 5, a_while)
    await (await a_turn(faulty, model)).run()
    assert set(ahead[:5]) == {50}
    assert max(ahead) == 50
    assert len((await end(log)).content) == 300


async def test_a_stream_that_ends_without_a_word_is_interrupted(log: EventLog) -> None:
    await (await a_turn(log, Cut())).run()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hel", Finish.INTERRUPTED)


async def test_a_bug_in_a_responder_ends_the_run_as_internal(log: EventLog) -> None:
    await (await a_turn(log, Broken())).run()
    error = (await end(log)).error
    assert error is not None
    assert error.code is ErrorCode.INTERNAL
