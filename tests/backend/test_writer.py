import asyncio
from typing import Any, cast

from moorline.backend.eventlog.base import RunHandle
from moorline.backend.writer import Writer

RUN = RunHandle("s1", "r1", "m1", 1)
SPACING = 0.001


class Log:
    """Commits when the test says so."""

    text_spacing = SPACING

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.commit: asyncio.Future[int]

    def add_text(self, run: RunHandle, text: str, *, at: int) -> "asyncio.Future[int]":
        self.texts.append(text)
        self.commit = asyncio.get_running_loop().create_future()
        return self.commit


async def test_what_came_during_a_long_append_is_appended_when_it_ends() -> None:
    log = Log()
    writer = Writer(cast("Any", log), RUN, lambda: None)
    for text in ("a", "b", "c"):
        writer.put(text)
    await asyncio.sleep(5 * SPACING)
    log.commit.set_result(1)
    await asyncio.sleep(0)
    assert log.texts == ["a", "bc"]
    log.commit.set_result(2)
    await writer.stop()


async def test_text_that_comes_soon_after_a_short_append_waits_for_more() -> None:
    log = Log()
    log.text_spacing = 60.0
    writer = Writer(cast("Any", log), RUN, lambda: None)
    writer.put("a")
    log.commit.set_result(1)
    await asyncio.sleep(0)
    writer.put("b")
    assert log.texts == ["a"]
    await writer.stop()
    assert await writer.write_rest() == "b"


async def test_there_is_no_room_while_too_much_waits_though_a_piece_was_written() -> None:
    log = Log()
    log.text_spacing = 0.0
    writer = Writer(cast("Any", log), RUN, lambda: None)
    writer.put("a")
    writer.put("b" * (1 + (64 << 10)))
    room = asyncio.create_task(writer.room())
    await asyncio.sleep(0)
    log.commit.set_result(1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(log.texts) == 2
    assert not room.done()
    log.commit.set_result(2)
    await room
    await writer.stop()
