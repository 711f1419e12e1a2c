"""Who tries again when, of the handshakes that wait for an upstream."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from moorline.gateway.proxy.retry_queue import RetryQueue

MANY = 100


@pytest.fixture
async def queue() -> AsyncIterator[RetryQueue]:
    queue = RetryQueue()
    yield queue
    queue.close()


def waiting(queue: RetryQueue, count: int) -> list["asyncio.Task[None]"]:
    return [asyncio.create_task(queue.wait_turn(30.0)) for _ in range(count)]


async def iterations(queue: RetryQueue, *, until: int) -> int:
    """How many iterations of the event loop pass until so many are left."""
    count = 0
    while len(queue) > until:
        count += 1
        assert count < MANY, "they are not woken"
        await asyncio.sleep(0)
    return count


async def test_all_of_many_are_woken_in_the_order_of_their_arrival_and_in_several_iterations(queue: RetryQueue) -> None:
    woken: list[asyncio.Task[None]] = []
    tasks = waiting(queue, MANY)
    for task in tasks:
        task.add_done_callback(woken.append)
    await asyncio.sleep(0)
    queue.wake_all()
    assert 0 < len(queue) < MANY
    assert await iterations(queue, until=0) >= 2
    await asyncio.gather(*tasks)
    assert woken == tasks


async def test_one_that_comes_while_others_are_woken_waits(queue: RetryQueue) -> None:
    tasks = waiting(queue, MANY)
    await asyncio.sleep(0)
    queue.wake_all()
    late = waiting(queue, 1)[0]
    await iterations(queue, until=1)
    await asyncio.gather(*tasks)
    assert len(queue) == 1
    assert not late.done()
    late.cancel()
    await asyncio.wait([late])


async def test_those_that_leave_while_others_are_woken_are_not_waited_for(queue: RetryQueue) -> None:
    tasks = waiting(queue, MANY)
    await asyncio.sleep(0)
    queue.wake_all()
    for task in tasks[MANY // 2 :]:
        task.cancel()
    assert await iterations(queue, until=0) < MANY
    await asyncio.wait(tasks)
    (again,) = waiting(queue, 1)
    await asyncio.sleep(0)
    queue.wake_all()
    await again
