"""One run, on a real log."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from moorline.backend.errors import ErrorCode, LLMError
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


async def test_a_stream_that_ends_without_a_word_is_interrupted(log: EventLog) -> None:
    await (await a_turn(log, Cut())).run()
    assert ((await end(log)).content, (await end(log)).finish) == ("Hel", Finish.INTERRUPTED)


async def test_a_bug_in_a_responder_ends_the_run_as_internal(log: EventLog) -> None:
    await (await a_turn(log, Broken())).run()
    error = (await end(log)).error
    assert error is not None
    assert error.code is ErrorCode.INTERNAL
