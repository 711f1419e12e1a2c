"""How items gather into batches."""

import asyncio
from collections.abc import Sequence
from unittest.mock import Mock

import pytest

from moorline.backend.eventlog.base import LogUnavailable, RunHandle
from moorline.backend.eventlog.batches import Batches
from moorline.backend.eventlog.log import EventLog, text_gap

SPACING = 0.02


class Recorder:
    """Carries out batches, and notes when each began and what was in it."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, list[int]]] = []

    def carry_out(self, items: Sequence[int]) -> "asyncio.Future[Sequence[int | Exception]]":
        loop = asyncio.get_running_loop()
        self.batches.append((loop.time(), list(items)))
        carried_out: asyncio.Future[Sequence[int | Exception]] = loop.create_future()
        carried_out.set_result([-item for item in items])
        return carried_out


async def test_a_first_item_is_carried_out_at_once() -> None:
    recorder = Recorder()
    began = asyncio.get_running_loop().time()
    assert await Batches(recorder.carry_out, size=9, gap_after=lambda items: 60).submit(1) == -1
    assert recorder.batches[0][0] - began < 1


async def test_items_that_come_within_the_spacing_of_a_batch_gather() -> None:
    recorder = Recorder()
    batches = Batches(recorder.carry_out, size=9, gap_after=lambda items: items * SPACING)
    await asyncio.gather(batches.submit(1), batches.submit(2))
    late = asyncio.ensure_future(batches.submit(3))
    await asyncio.sleep(0)
    assert [*await asyncio.gather(late, batches.submit(4))] == [-3, -4]
    (first, _), (second, items) = recorder.batches
    assert items == [3, 4]
    assert second - first >= 2 * SPACING


@pytest.mark.parametrize(
    ("pieces", "milliseconds"), [(1, 1), (4, 4), (15, 15), (75, 15), (100, 20), (200, 40), (1000, 40)]
)
def test_text_gathers_for_longer_where_there_is_more_of_it(pieces: int, milliseconds: int) -> None:
    assert text_gap(pieces) == pytest.approx(milliseconds / 1000)


async def test_the_log_closes_only_when_the_items_that_gather_are_carried_out() -> None:
    recorder = Recorder()
    batches = Batches(recorder.carry_out, size=9, gap_after=lambda items: items * SPACING)
    await batches.submit(1)
    late = asyncio.ensure_future(batches.submit(2))
    await asyncio.sleep(0)
    await batches.settled()
    assert [items for _, items in recorder.batches] == [[1], [2]]
    assert await late == -2


@pytest.mark.parametrize(
    ("error", "texts", "statements"),
    [
        (LogUnavailable("a row is locked", separable=True), "ab", 3),
        (LogUnavailable("a row is locked", separable=True), "a", 1),
        (LogUnavailable("the database is down"), "ab", 1),
    ],
)
async def test_texts_are_tried_alone_only_where_one_of_several_may_be_the_cause(
    error: LogUnavailable, texts: str, statements: int
) -> None:
    def fail(_: object) -> asyncio.Future[Sequence[int | Exception]]:
        failed: asyncio.Future[Sequence[int | Exception]] = asyncio.get_running_loop().create_future()
        failed.set_exception(error)
        return failed

    store = Mock()
    store.add_texts.side_effect = fail
    log, run = EventLog(store), RunHandle("s", "run", "message", 1)
    found = await asyncio.gather(*(log.add_text(run, text) for text in texts), return_exceptions=True)
    assert found == [error] * len(texts)
    assert store.add_texts.call_count == statements
