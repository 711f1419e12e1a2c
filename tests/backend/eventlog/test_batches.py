"""How items gather into batches."""

import asyncio
from collections.abc import Sequence

import pytest

from moorline.backend.eventlog.batches import Batches

SPACING = 0.02


class Recorder:
    """Carries out batches, and notes when each began and what was in it."""

    def __init__(self) -> None:
        self.batches: list[tuple[float, list[int]]] = []

    async def carry_out(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append((asyncio.get_running_loop().time(), list(items)))
        return [-item for item in items]


async def test_a_first_item_is_carried_out_at_once() -> None:
    recorder = Recorder()
    began = asyncio.get_running_loop().time()
    assert await Batches(recorder.carry_out, size=9, spacing=60, longest=60).submit(1) == -1
    assert recorder.batches[0][0] - began < 1


async def test_items_that_come_within_the_spacing_of_a_batch_gather() -> None:
    recorder = Recorder()
    batches = Batches(recorder.carry_out, size=9, spacing=SPACING, longest=60)
    await asyncio.gather(batches.submit(1), batches.submit(2))
    late = asyncio.ensure_future(batches.submit(3))
    await asyncio.sleep(0)
    assert [*await asyncio.gather(late, batches.submit(4))] == [-3, -4]
    (first, _), (second, items) = recorder.batches
    assert items == [3, 4]
    assert second - first >= 2 * SPACING


@pytest.mark.parametrize("count", [1, 9])
async def test_the_spacing_is_bounded(count: int) -> None:
    recorder = Recorder()
    batches = Batches(recorder.carry_out, size=9, spacing=60, longest=SPACING)
    async with asyncio.timeout(10):
        for _ in range(2):
            await asyncio.gather(*(batches.submit(number) for number in range(count)))
    (first, _), (second, _) = recorder.batches
    assert second - first >= SPACING


async def test_the_log_closes_only_when_the_items_that_gather_are_carried_out() -> None:
    recorder = Recorder()
    batches = Batches(recorder.carry_out, size=9, spacing=SPACING, longest=60)
    await batches.submit(1)
    late = asyncio.ensure_future(batches.submit(2))
    await asyncio.sleep(0)
    await batches.settled()
    assert [items for _, items in recorder.batches] == [[1], [2]]
    assert await late == -2
