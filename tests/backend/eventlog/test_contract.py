"""What every store promises (backend/eventlog/base.py)."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace

import psycopg
import pytest

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.base import (
    SNAPSHOT_BYTES,
    SNAPSHOT_ROWS,
    Hint,
    ListCursor,
    LogUnavailable,
    RunLost,
    Started,
)
from moorline.backend.eventlog.log import EventLog
from moorline.backend.events import (
    Finish,
    MessageEnded,
    PartAdded,
    PartialAnswer,
    RunError,
    RunStarted,
    TextAdded,
    Usage,
    UserMessage,
)
from moorline.backend.parts import Data, Source, Status
from tests.support.eventlogs import NOW, RecordingOwner, everything, exchange, handle_of, opened, read_view, start


async def test_an_answer_is_read_in_the_order_in_which_it_was_written(log: EventLog) -> None:
    run = handle_of(await start(log, "s"))
    assert await log.add_text(run, "Good ") == 3
    assert await log.add_text(run, "day") == 4
    events = await everything(log, "s")
    assert [type(event) for event in events] == [UserMessage, RunStarted, TextAdded, TextAdded]
    assert [event.seq for event in events] == [1, 2, 3, 4]
    snapshot = await log.snapshot("s")
    assert snapshot is not None
    assert snapshot.run == PartialAnswer(run.run_id, run.message_id, "Good day")


async def test_a_message_names_its_author_wherever_it_is_read(log: EventLog, database: str) -> None:
    run = await log.start_run("s", "p", client_msg_id="m1", content="Hello", now=NOW, principal="dr.who")
    await log.end_run(handle_of(run), finish=Finish.ERROR, now=NOW)
    # Who asks for another answer is not the author of the message.
    await log.retry_run("s", run_id=run.run_id, client_msg_id="m2", now=NOW, principal="nurse")
    authors = [event.author for event in await everything(log, "s") if isinstance(event, UserMessage)]
    await log.close()
    async with opened(database) as again:
        snapshot = await again.snapshot("s")
        assert snapshot is not None
        (stored,) = [event.author for event in await everything(again, "s") if isinstance(event, UserMessage)]
        shown = [row.author for row in (snapshot.rows[0], *await again.rows("s", before=2, limit=1))]
    assert [*authors, stored, *shown] == ["dr.who"] * 4


async def test_a_patients_sessions_are_listed_in_pages_the_one_last_active_first(log: EventLog) -> None:
    for number in range(5):
        # The third and the fourth are active in the same instant.
        at = NOW + min(number, 3)
        await exchange(log, f"s{number}", patient_id="p", at=at)
    await exchange(log, "of another patient", patient_id="q", at=NOW)
    pages, before = [], ListCursor()
    while page := await log.sessions("p", before, limit=2):
        pages.append([each.session_id for each in page])
        before = ListCursor(page[-1].at, page[-1].session_id)
    assert pages == [["s4", "s3"], ["s2", "s1"], ["s0"]]


async def test_the_list_has_the_first_words_of_a_session_and_its_last_activity(log: EventLog) -> None:
    run = await log.start_run("s", "p", client_msg_id="m1", content="\U0001f600" * 101, now=NOW)
    await log.end_run(handle_of(run), finish=Finish.STOP, now=NOW + 1)
    await log.start_run("s", "p", client_msg_id="m2", content="not the first", now=NOW + 2)
    assert await log.sessions("p", ListCursor(), limit=9) == [("s", NOW + 2, "\U0001f600" * 100)]


async def test_an_erased_session_is_listed_no_more(log: EventLog) -> None:
    await exchange(log, "s", patient_id="p")
    await log.delete_session("s")
    assert await log.sessions("p", ListCursor(), limit=9) == []


async def test_the_end_carries_the_whole_text_and_stands_for_all_its_pieces(log: EventLog) -> None:
    run = handle_of(await start(log, "s"))
    await log.add_text(run, "Good ")
    usage, error = Usage(3, 4), RunError(ErrorCode.LLM_BUSY, True, 2.5)
    seq = await log.end_run(run, finish=Finish.ERROR, now=NOW, text="day", error=error, usage=usage)
    ended = (await everything(log, "s"))[-1]
    assert ended == MessageEnded(
        seq, 3, run.run_id, run.message_id, "Good day", Finish.ERROR, NOW, error=error, usage=usage
    )


async def test_a_reader_of_the_pieces_and_a_late_reader_show_the_same(log: EventLog, database: str) -> None:
    run = handle_of(await start(log, "s"))
    await log.add_text(run, "a")
    midway = await read_view(log, "s")
    await log.add_text(run, "b")
    await log.end_run(run, finish=Finish.STOP, now=NOW, text="c")
    live = await read_view(log, "s", midway)
    await log.close()
    async with opened(database) as again:
        assert live == await read_view(again, "s") == await read_view(again, "s", midway)
        assert [row.content for row in live.rows] == ["Hello", "abc"]


async def test_parts_are_read_in_their_place_and_stay_with_the_answer_but_its_status(log: EventLog) -> None:
    run = handle_of(await start(log, "s"))
    source, data = Source("Title \U0001f600", "https://example.com/"), Data("vitals", {"nul": "\0", "none": None})
    for part in (Status("looking up"), source):
        await log.add_part(run, part)
    looking_up = await log.snapshot("s")
    await log.add_text(run, "Good ")
    await log.add_part(run, data)
    found = [event.part for event in await everything(log, "s") if isinstance(event, PartAdded)]
    assert found == [Status("looking up"), source, data]
    writing = await log.snapshot("s")
    assert looking_up is not None
    assert writing is not None
    assert looking_up.run == PartialAnswer(run.run_id, run.message_id, "", (source,), "looking up")
    assert writing.run == PartialAnswer(run.run_id, run.message_id, "Good ", (source, data))
    await log.end_run(run, finish=Finish.STOP, now=NOW, text="day")
    (_, answer) = await log.rows("s", before=None, limit=2)
    assert (answer.content, answer.parts) == ("Good day", (source, data))


async def test_a_reader_of_the_parts_and_a_late_reader_show_the_same(log: EventLog, database: str) -> None:
    run = handle_of(await start(log, "s"))
    await log.add_part(run, Status("looking up"))
    await log.add_part(run, Source("one"))
    midway = await read_view(log, "s")
    snapshot = await log.snapshot("s")
    assert snapshot is not None
    assert midway.run == snapshot.run
    await log.end_run(run, finish=Finish.STOP, now=NOW)
    live = await read_view(log, "s", midway)
    await log.close()
    async with opened(database) as again:
        assert live == await read_view(again, "s") == await read_view(again, "s", midway)
        assert [row.parts for row in live.rows] == [(), (Source("one"),)]


async def test_a_part_that_was_written_already_is_not_written_again(log: EventLog) -> None:
    run = handle_of(await start(log, "s"))
    await log.add_text(run, "ab", at=0)
    assert await log.add_part(run, Source("one"), at=2) == 4
    assert await log.add_part(run, Source("one"), at=2) == 4
    assert await log.add_text(run, "c", at=3) == 5
    assert await log.add_part(run, Source("one"), at=2) == 5
    with pytest.raises(RunLost):
        await log.add_part(run, Source("two"), at=9)
    await log.end_run(run, finish=Finish.STOP, now=NOW, text="cd", at=3)
    (_, answer) = await log.rows("s", before=None, limit=2)
    assert (answer.content, answer.parts) == ("abcd", (Source("one"),))


async def test_a_repeated_send_gives_the_first_run_also_while_busy_and_after_the_end(log: EventLog) -> None:
    first = await start(log, "s")
    again = await start(log, "s")
    assert (again.seq, again.run_id, again.duplicate) == (first.seq, first.run_id, True)
    await log.end_run(handle_of(first), finish=Finish.STOP, now=NOW)
    assert (await start(log, "s")).run_id == first.run_id


async def test_fifty_sends_at_once_with_one_id_give_one_run(log: EventLog) -> None:
    outcomes = await asyncio.gather(*(start(log, "s") for _ in range(50)))
    assert len({outcome.run_id for outcome in outcomes}) == 1
    assert sum(not outcome.duplicate for outcome in outcomes) == 1


async def refusal(log: EventLog, **send: str) -> ErrorCode:
    command = {"session_id": "s", "patient_id": "p", "client_msg_id": "m1", "content": "Hello"} | send
    with pytest.raises(Refusal) as caught:
        await log.start_run(now=NOW, refusal=None, **command)
    return caught.value.code


async def test_sends_are_refused_as_the_protocol_says_and_change_nothing(log: EventLog) -> None:
    await start(log, "s")
    assert await refusal(log, patient_id="q") is ErrorCode.FORBIDDEN
    assert await refusal(log, content="other") is ErrorCode.REJECTED
    assert await refusal(log, client_msg_id="m2") is ErrorCode.BUSY
    assert (await read_view(log, "s")).seq == 2
    with pytest.raises(Refusal, match="forbidden"):
        await log.session_for("s", "q")


async def test_a_repeated_command_is_acknowledged_also_where_no_run_may_begin(log: EventLog) -> None:
    full = Refusal(ErrorCode.LLM_BUSY)
    first = await start(log, "s")
    again = await log.start_run("s", "p", client_msg_id="m1", content="Hello", now=NOW, refusal=full)
    await log.end_run(handle_of(first), finish=Finish.ERROR, now=NOW)
    assert again.run_id == first.run_id
    with pytest.raises(Refusal, match="llm_busy"):
        await log.start_run("s", "p", client_msg_id="m2", content="Hello", now=NOW, refusal=full)
    with pytest.raises(Refusal, match="llm_busy"):
        await log.retry_run("s", run_id=first.run_id, client_msg_id="m2", now=NOW, refusal=full)
    with pytest.raises(Refusal, match="llm_busy"):
        await log.start_run("new", "p", client_msg_id="m1", content="Hello", now=NOW, refusal=full)
    assert await log.find_session("new") is None


async def test_a_retry_starts_a_new_run_for_the_same_message_once(log: EventLog) -> None:
    sent = await start(log, "s")
    await log.end_run(handle_of(sent), finish=Finish.INTERRUPTED, now=NOW)
    retried = await log.retry_run("s", run_id=sent.run_id, client_msg_id="r", now=NOW)
    assert retried.seq == sent.seq
    assert retried.run_id != sent.run_id
    again = await log.retry_run("s", run_id=sent.run_id, client_msg_id="r", now=NOW)
    assert (again.run_id, again.duplicate) == (retried.run_id, True)


async def test_retries_are_refused_as_the_protocol_says(log: EventLog) -> None:
    async def code(run_id: str, client_msg_id: str = "r", session_id: str = "s") -> ErrorCode:
        with pytest.raises(Refusal) as caught:
            await log.retry_run(session_id, run_id=run_id, client_msg_id=client_msg_id, now=NOW)
        return caught.value.code

    sent = await start(log, "s")
    assert await code(sent.run_id, session_id="elsewhere") is ErrorCode.NOT_FOUND
    assert await code("nothing") is ErrorCode.NOT_FOUND
    assert await code(sent.run_id) is ErrorCode.BUSY
    assert await code(sent.run_id, "m1") is ErrorCode.REJECTED
    await log.end_run(handle_of(sent), finish=Finish.STOP, now=NOW)
    assert await code(sent.run_id) is ErrorCode.REJECTED


async def test_a_former_owner_of_a_run_cannot_write_it(log: EventLog) -> None:
    first = handle_of(await start(log, "s"))
    await log.end_run(first, finish=Finish.CANCELLED, now=NOW)
    second = handle_of(await start(log, "s", "m2"))
    assert second.fence > first.fence
    for write in (log.add_text(first, "late"), log.end_run(first, finish=Finish.STOP, now=NOW)):
        with pytest.raises(RunLost):
            await write
    await log.add_text(second, "fine")


async def changes(log: EventLog, write: Awaitable[object]) -> bool:
    """Whether `write` was accepted; where it was refused the log must be as it was."""
    before = await everything(log, "s")
    try:
        await write
    except RunLost:
        assert await everything(log, "s") == before
        return False
    return True


@pytest.mark.parametrize("at", [None, 0])
async def test_a_handle_with_another_fence_or_of_another_run_writes_nothing(log: EventLog, at: int | None) -> None:
    run = handle_of(await start(log, "s"))
    for wrong in (
        replace(run, fence=run.fence - 1),
        replace(run, fence=run.fence + 1),
        replace(run, run_id="another"),
        replace(run, session_id="another"),
    ):
        assert not await changes(log, log.add_text(wrong, "x", at=at))
        assert not await changes(log, log.end_run(wrong, finish=Finish.STOP, now=NOW, text="x", at=at))
    assert await changes(log, log.add_text(run, "x", at=at))


@pytest.mark.parametrize("at", [None, 4])
async def test_a_run_ends_once(log: EventLog, at: int | None) -> None:
    run = handle_of(await start(log, "s"))
    await log.add_text(run, "text", at=0)
    assert await changes(log, log.end_run(run, finish=Finish.STOP, now=NOW, at=at))
    assert not await changes(log, log.end_run(run, finish=Finish.STOP, now=NOW, at=at))
    assert not await changes(log, log.add_text(run, "", at=at))


async def test_a_run_of_another_session_cannot_be_retried(log: EventLog) -> None:
    theirs = await start(log, "theirs")
    await log.end_run(handle_of(theirs), finish=Finish.CANCELLED, now=NOW)
    await log.end_run(handle_of(await start(log, "s")), finish=Finish.CANCELLED, now=NOW)
    with pytest.raises(Refusal, match="not_found"):
        await log.retry_run("s", run_id=theirs.run_id, client_msg_id="r", now=NOW)


async def test_a_piece_that_was_written_already_is_not_written_again(log: EventLog) -> None:
    run = handle_of(await start(log, "s"))
    assert await log.add_text(run, "Good ", at=0) == 3
    assert await log.add_text(run, "Good ", at=0) == 3
    assert await log.add_text(run, "Good d\N{GRINNING FACE}y", at=0) == 4
    with pytest.raises(RunLost):
        await log.add_text(run, "later", at=9)
    await log.end_run(run, finish=Finish.STOP, now=NOW, text="\N{GRINNING FACE}y!", at=6)
    view = await read_view(log, "s")
    assert (view.seq, view.rows[-1].content) == (5, "Good d\N{GRINNING FACE}y!")


async def test_the_owner_of_a_run_is_told_that_it_is_cancelled(log: EventLog) -> None:
    owner = RecordingOwner()
    log.attach(owner)
    run = handle_of(await start(log, "s"))
    await log.cancel_run("s", "another")
    await log.cancel_run("another", run.run_id)
    await log.cancel_run("s", run.run_id)
    assert await owner.stopped.get() == run.run_id
    assert owner.stopped.empty()
    await log.end_run(run, finish=Finish.CANCELLED, now=NOW)
    await log.cancel_run("s", run.run_id)
    assert owner.stopped.empty()


async def test_open_ends_what_an_earlier_process_left_and_keeps_its_text(database: str) -> None:
    async with opened(database) as log:
        run = handle_of(await start(log, "s"))
        await log.add_text(run, "half an ans")
    async with opened(database) as log:
        view = await read_view(log, "s")
        assert (view.rows[-1].content, view.rows[-1].finish, view.run) == ("half an ans", Finish.INTERRUPTED, None)
        with pytest.raises(RunLost):
            await log.add_text(run, "wer")


async def test_a_send_whose_caller_is_cancelled_does_not_keep_the_session_busy(log: EventLog) -> None:
    sending = asyncio.create_task(start(log, "s"))
    await asyncio.sleep(0)  # it has queued its command
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    watch = log.watch("s")
    while (info := await log.find_session("s")) is None or info.active_run_id is not None:
        await watch.wait()
    assert (await read_view(log, "s")).rows[-1].finish is Finish.INTERRUPTED


async def test_a_watch_wakes_for_growth_and_for_the_end_of_its_session(log: EventLog) -> None:
    watch = log.watch("s")
    await start(log, "s")
    await watch.wait()
    waiting = asyncio.create_task(watch.wait())
    await start(log, "another")
    assert not waiting.done()
    assert await log.delete_session("s") is True
    assert await waiting is Hint.ERASED
    watch.close()
    watch.close()
    assert await log.find_session("s") is None
    assert await log.snapshot("s") is None
    assert await log.read_after("s", 0, limit=9) == []
    assert await log.delete_session("s") is False


async def test_a_session_that_has_begun_anew_is_not_erased_in_the_place_of_the_former(log: EventLog) -> None:
    await exchange(log, "s")
    former = await log.find_session("s")
    assert former is not None
    await log.delete_session("s")
    await exchange(log, "s", patient_id="another")
    assert await log.delete_session("s", epoch=former.head.epoch) is False
    found = await log.find_session("s")
    assert found is not None
    assert await log.delete_session("s", epoch=found.head.epoch) is True


@pytest.fixture
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for store in ("sqlite", "postgres"):
        monkeypatch.setattr(f"moorline.backend.eventlog.{store}.write.ERASED_AT_ONCE", 4)


async def turns(log: EventLog, session_id: str, count: int) -> None:
    """Three events each."""
    for number in range(count):
        run = await log.start_run(session_id, "p", client_msg_id=f"m{number}", content="Hi", now=NOW)
        await log.end_run(handle_of(run), finish=Finish.STOP, now=NOW, text="text")


async def parts(log: EventLog) -> AsyncIterator[None]:
    """Thin out the session `s`, with a pause behind each part."""
    after = 1
    while (begin := await log._store.thin_out("s", None, after)) is not None:
        after = begin
        yield


def left(database: str, table: str) -> list[str]:
    """The runs that the rows of a table are of, from a database that no log has open."""
    query = f"SELECT run_id FROM {table}"
    if database.startswith("sqlite"):
        with contextlib.closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as file:
            return [run_id for (run_id,) in file.execute(query)]
    with psycopg.connect(database, options="-c search_path=moorline") as connection:
        return [run_id for (run_id,) in connection.execute(query)]


@pytest.mark.usefixtures("short_parts")
async def test_a_long_session_is_erased_in_parts(log: EventLog) -> None:
    await turns(log, "s", 6)
    await turns(log, "other", 6)
    assert await log._store.thin_out("s", "another epoch", 1) is None
    lengths = [len(await everything(log, "s")) async for _ in parts(log)]
    assert lengths[:4] == [14, 10, 6, 2]
    assert [event.seq for event in await everything(log, "s")] == [1, 18]
    # As after a failure between two parts.
    assert await log.delete_session("s")
    assert await log.find_session("s") is None
    assert len(await everything(log, "other")) == 18


@pytest.mark.usefixtures("short_parts")
async def test_a_part_takes_the_rows_of_its_runs_and_commands_with_it(log: EventLog, database: str) -> None:
    await turns(log, "s", 20)
    async for _ in parts(log):
        pass
    stand = {event.run_id for event in await everything(log, "s") if isinstance(event, UserMessage)}
    assert len(stand) == 2
    await log.close()
    assert set(left(database, "runs")) == set(left(database, "commands")) == stand


@pytest.mark.usefixtures("short_parts")
async def test_the_first_message_of_a_session_that_is_thinned_out_has_its_author(log: EventLog) -> None:
    run = await log.start_run("s", "p", client_msg_id="first", content="Hi", now=NOW, principal="dr.who")
    await log.end_run(handle_of(run), finish=Finish.STOP, now=NOW)
    await turns(log, "s", 6)
    async for _ in parts(log):
        first, *_ = await log.rows("s", before=None, limit=99)
        assert (first.content, first.author) == ("Hi", "dr.who")


@pytest.mark.parametrize("behind", range(6))
@pytest.mark.usefixtures("short_parts")
async def test_of_a_session_whose_erasure_failed_each_message_is_sent_once(log: EventLog, behind: int) -> None:
    await turns(log, "s", 6)
    after: int | None = 1
    for _ in range(behind):
        if after is not None:
            after = await log._store.thin_out("s", None, after)
    stands = {event.client_msg_id for event in await everything(log, "s") if isinstance(event, UserMessage)}
    for number in range(6):
        sent = await log.start_run("s", "p", client_msg_id=f"m{number}", content="Hi", now=NOW)
        assert sent.duplicate == (f"m{number}" in stands)
        if sent.handle is not None:
            await log.end_run(sent.handle, finish=Finish.STOP, now=NOW)
    assert await log.delete_session("s")


@pytest.mark.parametrize("behind", range(1, 6))
@pytest.mark.usefixtures("short_parts")
async def test_a_run_whose_message_was_erased_is_not_retried(log: EventLog, behind: int) -> None:
    failed = []
    for number in range(6):
        run = handle_of(await start(log, "s", f"m{number}"))
        await log.end_run(run, finish=Finish.ERROR, now=NOW)
        failed.append(run.run_id)
    after: int | None = 1
    for _ in range(behind):
        if after is not None:
            after = await log._store.thin_out("s", None, after)
    stands = {event.run_id for event in await everything(log, "s") if isinstance(event, UserMessage)}
    # The first run, whose message stays, may be retried or not.
    for run_id in failed[1:]:
        if run_id not in stands:
            with pytest.raises(Refusal, match="not_found"):
                await log.retry_run("s", run_id=run_id, client_msg_id=f"again {run_id}", now=NOW)


@pytest.mark.usefixtures("short_parts")
async def test_retries_of_one_message_are_erased_in_parts_and_none_is_carried_out_twice(
    log: EventLog, database: str
) -> None:
    run = handle_of(await start(log, "s"))
    await log.end_run(run, finish=Finish.ERROR, now=NOW)
    second = handle_of(await start(log, "s", "m2"))
    await log.end_run(second, finish=Finish.ERROR, now=NOW)
    for number in range(12):
        of = run if number % 2 else second
        retried = await log.retry_run("s", run_id=of.run_id, client_msg_id=f"r{number}", now=NOW)
        await log.end_run(handle_of(retried), finish=Finish.ERROR, now=NOW)
    async for _ in parts(log):
        # Of the second message, which the first part had.
        with contextlib.suppress(Refusal):
            assert (await log.retry_run("s", run_id=second.run_id, client_msg_id="r2", now=NOW)).duplicate
    assert await log.delete_session("s")
    await log.close()
    assert left(database, "runs") == left(database, "commands") == left(database, "events") == []


@pytest.mark.usefixtures("short_parts")
async def test_a_long_answer_that_is_under_way_while_its_session_is_erased_can_be_read_and_ended(log: EventLog) -> None:
    await turns(log, "s", 6)
    run = handle_of(await start(log, "s", "under way"))
    for text in "abcdef":
        await log.add_text(run, text)
    async for _ in parts(log):
        snapshot = await log.snapshot("s")
        assert snapshot is not None
        assert snapshot.run is not None
        assert snapshot.run.run_id == run.run_id
    await log.end_run(run, finish=Finish.STOP, now=NOW)
    assert await log.delete_session("s")


@pytest.mark.usefixtures("short_parts")
async def test_a_long_session_expires_like_a_short_one(log: EventLog) -> None:
    await turns(log, "long", 6)
    await exchange(log, "short")
    await exchange(log, "young", at=NOW + 2)
    assert sorted(await log.expire(NOW + 1)) == ["long", "short"]
    assert await everything(log, "long") == []


async def test_an_erased_session_begins_anew_under_another_epoch(log: EventLog) -> None:
    before = await log.session_for("s", "p")
    assert before == await log.session_for("s", "p")
    run = handle_of(await start(log, "s"))
    await log.delete_session("s")
    with pytest.raises(RunLost):
        await log.add_text(run, "late")
    after = await log.session_for("s", "q")
    assert after.head.seq == 0
    assert after.head.epoch != before.head.epoch


async def test_a_database_keeps_its_name_over_an_erasure_and_a_start(log: EventLog, database: str) -> None:
    identity = log.identity
    await start(log, "s")
    await log.delete_session("s")
    await log.close()
    async with opened(database) as again:
        assert again.identity == identity


async def test_a_message_for_a_session_that_was_erased_begins_none_under_its_id(log: EventLog) -> None:
    async def send(client_msg_id: str) -> Started:
        return await log.start_run("s", "p", client_msg_id=client_msg_id, content="Hello", now=NOW, epoch=epoch)

    await exchange(log, "s", patient_id="p")
    epoch = (await log.session_for("s", "p")).head.epoch
    first = await send("m1")
    await log.end_run(handle_of(first), finish=Finish.STOP, now=NOW)
    await log.delete_session("s")
    with pytest.raises(Refusal, match="not_found"):
        await send("m2")
    assert await log.find_session("s") is None
    await exchange(log, "s", patient_id="p")
    with pytest.raises(Refusal, match="not_found"):
        await send("m2")
    assert [event.seq for event in await everything(log, "s")] == [1, 2, 3]


async def test_a_repeated_message_is_acknowledged_whatever_epoch_it_was_written_to(log: EventLog) -> None:
    started = await start(log, "s")
    repeated = await log.start_run("s", "p", client_msg_id="m1", content="Hello", now=NOW, epoch="of before a restore")
    assert (repeated.run_id, repeated.duplicate) == (started.run_id, True)


async def test_a_session_begins_with_its_first_message_under_the_epoch_that_was_given_before(log: EventLog) -> None:
    before = await log.session_for("s", "p")
    assert await log.find_session("s") is None
    assert await log.snapshot("s") is None
    await start(log, "s")
    now = await log.session_for("s", "p")
    assert (now.head.epoch, now.head.seq) == (before.head.epoch, 2)
    assert len(await log.read_after("s", 0, limit=9, epoch=before.head.epoch)) == 2
    assert await log.snapshot("s", epoch=before.head.epoch) is not None


async def test_another_patient_claims_nothing_before_the_first_message_and_reads_nothing(log: EventLog) -> None:
    early = await log.session_for("s", "q")
    await start(log, "s")
    assert await log.read_after("s", 0, limit=9, epoch=early.head.epoch) == []
    assert await log.snapshot("s", epoch=early.head.epoch) is None
    with pytest.raises(Refusal, match="forbidden"):
        await log.session_for("s", "q")


async def test_no_epoch_that_was_given_before_an_erasure_is_used_after_it(log: EventLog) -> None:
    epochs = {(await log.session_for("s", "p")).head.epoch}
    for _ in range(3):
        await log.end_run(handle_of(await start(log, "s")), finish=Finish.STOP, now=NOW - 1)
        assert await log.expire(NOW) == ["s"]
        epochs.add((await log.session_for("s", "p")).head.epoch)
        await start(log, "s")
        await log.delete_session("s")
        epochs.add((await log.session_for("s", "p")).head.epoch)
    assert len(epochs) == 7


async def test_a_reader_of_an_erased_log_gets_nothing_of_the_next_one(log: EventLog) -> None:
    await start(log, "s")
    before = await log.find_session("s")
    assert before is not None
    epoch = before.head.epoch
    assert len(await log.read_after("s", 0, limit=9, epoch=epoch)) == 2
    await log.delete_session("s")
    await start(log, "s")
    assert await log.read_after("s", 0, limit=9, epoch=epoch) == []
    assert len(await log.read_after("s", 0, limit=9)) == 2


async def test_idle_sessions_are_erased_the_oldest_first(log: EventLog) -> None:
    for age, name in enumerate(["new", "active", "old", "older"]):
        sent = await log.start_run(name, "p", client_msg_id="m", content="x", now=NOW - age)
        if name != "active":
            await log.end_run(handle_of(sent), finish=Finish.STOP, now=NOW - age)
    watch = log.watch("old")
    assert await log.expire(NOW, limit=1) == ["older"]
    assert await log.expire(NOW, limit=9) == ["old"]
    await watch.wait()
    assert await log.read_after("old", 0, limit=9) == []
    assert await log.expire(NOW, limit=9) == []
    assert await log.find_session("active") is not None
    assert await log.find_session("new") is not None


async def test_rows_go_back_page_by_page(log: EventLog) -> None:
    for number in range(SNAPSHOT_ROWS // 2 + 1):
        run = handle_of(await start(log, "s", f"m{number}", f"text {number}"))
        await log.end_run(run, finish=Finish.STOP, now=NOW, text="x")
    snapshot = await log.snapshot("s")
    assert snapshot is not None
    assert (len(snapshot.rows), snapshot.earlier) == (SNAPSHOT_ROWS, True)
    assert [row.content for row in await log.rows("s", before=snapshot.rows[0].seq, limit=9)] == ["text 0", "x"]
    assert await log.rows("s", before=None, limit=2) == list(snapshot.rows[-2:])
    assert await log.rows("unknown", before=None, limit=2) == []


async def test_a_snapshot_is_bounded_in_bytes(log: EventLog) -> None:
    for number in range(3):
        run = handle_of(await start(log, "s", f"m{number}", f"text {number}"))
        await log.end_run(run, finish=Finish.STOP, now=NOW, text="ü" * (SNAPSHOT_BYTES // 5))
    snapshot = await log.snapshot("s")
    assert snapshot is not None
    assert [len(row.content) for row in snapshot.rows] == [6, SNAPSHOT_BYTES // 5] * 2
    assert snapshot.earlier


async def test_a_snapshot_is_bounded_in_bytes_of_parts_as_well(log: EventLog) -> None:
    for number in range(3):
        run = handle_of(await start(log, "s", f"m{number}", f"text {number}"))
        await log.add_part(run, Data("chart", "ü" * (SNAPSHOT_BYTES // 5)))
        await log.end_run(run, finish=Finish.STOP, now=NOW)
    snapshot = await log.snapshot("s")
    assert snapshot is not None
    assert [len(row.parts) for row in snapshot.rows] == [0, 1] * 2
    assert snapshot.earlier


async def test_close_is_idempotent_and_what_follows_is_refused(log: EventLog) -> None:
    await log.check()
    await asyncio.gather(log.close(), log.close())
    with pytest.raises(LogUnavailable):
        await start(log, "s")
