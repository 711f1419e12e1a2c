"""Time limits that share a timer, beside what `asyncio.timeout` does."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from moorline.gateway.common.web.time_limit import Deadlines, TimeLimits

SHORT = 0.02


@pytest.fixture
async def limits() -> AsyncIterator[TimeLimits]:
    limits = TimeLimits()
    yield limits
    limits.close()


async def wait(limits: TimeLimits, seconds: float | None) -> None:
    with limits.of(seconds):
        await asyncio.Event().wait()


async def test_a_block_that_takes_too_long_raises_timeout_error(limits: TimeLimits) -> None:
    with pytest.raises(TimeoutError):
        await wait(limits, SHORT)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_block_that_ends_in_time_leaves_the_next_one_all_of_its_time(limits: TimeLimits) -> None:
    with limits.of(SHORT):
        pass
    clock = asyncio.get_running_loop().time
    began = clock()
    with pytest.raises(TimeoutError):
        await wait(limits, SHORT)
    assert clock() - began >= SHORT * 0.9


async def test_of_many_each_expires(limits: TimeLimits) -> None:
    results = await asyncio.gather(*(wait(limits, SHORT) for _ in range(100)), return_exceptions=True)
    assert all(isinstance(each, TimeoutError) for each in results)


async def test_the_inner_one_of_two_expires_alone(limits: TimeLimits) -> None:
    with limits.of(30.0):
        with pytest.raises(TimeoutError):
            await wait(limits, SHORT)
        await asyncio.sleep(0)


async def test_both_cancelled_and_expired_in_one_turn_of_the_loop_it_is_cancelled(limits: TimeLimits) -> None:
    limit: Any = limits.of(30.0)

    async def block() -> None:
        with limit:
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    limit.expire()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_none_is_no_limit_within_another(limits: TimeLimits) -> None:
    with pytest.raises(TimeoutError), limits.of(SHORT):
        await wait(limits, None)


async def test_an_error_of_the_block_is_its_own(limits: TimeLimits) -> None:
    with pytest.raises(KeyError), limits.of(SHORT):
        raise KeyError("x")


class Waiting:
    """What expires, and may end another one as it does."""

    def __init__(self, deadlines: Deadlines, ends: "Waiting | None" = None) -> None:
        self.deadlines = deadlines
        self.ends = ends
        self.expired = asyncio.Event()
        deadlines.add(self)

    def expire(self) -> None:
        self.expired.set()
        if self.ends is not None:
            self.deadlines.remove(self.ends)


async def test_of_two_that_are_due_at_once_the_one_that_the_other_ends_does_not_expire() -> None:
    deadlines = Deadlines(asyncio.get_running_loop(), SHORT)
    first = Waiting(deadlines)
    first.ends = second = Waiting(deadlines)
    third = Waiting(deadlines)
    await third.expired.wait()
    assert first.expired.is_set()
    assert not second.expired.is_set()


async def test_what_has_expired_has_all_of_its_time_again_where_it_begins_again() -> None:
    deadlines, clock = Deadlines(asyncio.get_running_loop(), SHORT), asyncio.get_running_loop().time
    each = Waiting(deadlines)
    await each.expired.wait()
    each.expired.clear()
    began = clock()
    deadlines.add(each)
    await each.expired.wait()
    assert clock() - began >= SHORT * 0.9
