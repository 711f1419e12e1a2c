"""What ends a wait: a hint, the time, or a call."""

import asyncio

import pytest

from moorline.backend.eventlog.base import Hint
from moorline.backend.eventlog.watches import Watches
from moorline.backend.waiting import Waiter

SHORT, NEVER = 0.02, 3600.0


def in_seconds(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.fixture
def watches() -> Watches:
    return Watches()


@pytest.fixture
def waiter(watches: Watches) -> Waiter:
    return Waiter(watches.watch("s"))


async def test_a_hint_that_came_before_ends_the_wait_at_once(watches: Watches, waiter: Waiter) -> None:
    watches.notify({"s": Hint.ERASED})
    assert await waiter.until(in_seconds(NEVER)) is Hint.ERASED


async def test_a_hint_ends_the_wait_under_way(watches: Watches, waiter: Waiter) -> None:
    asyncio.get_running_loop().call_soon(watches.notify, {"s": Hint.GROWN})
    assert await waiter.until(in_seconds(NEVER)) is Hint.GROWN


async def test_a_call_ends_the_wait_under_way_or_the_next_one(waiter: Waiter) -> None:
    asyncio.get_running_loop().call_soon(waiter.wake)
    assert await waiter.until(in_seconds(NEVER)) is None
    waiter.wake()
    assert await waiter.until(in_seconds(NEVER)) is None


async def test_a_wait_ends_at_its_own_time_whatever_the_waits_before_it_had(watches: Watches, waiter: Waiter) -> None:
    async with asyncio.timeout(10):
        for seconds in (SHORT, 2 * SHORT, NEVER, SHORT):
            if seconds == NEVER:
                # Its timer is set when the next one, which is earlier, begins.
                asyncio.get_running_loop().call_soon(watches.notify, {"s": Hint.GROWN})
                assert await waiter.until(in_seconds(seconds)) is Hint.GROWN
                continue
            when = in_seconds(seconds)
            assert await waiter.until(when) is None
            assert in_seconds(0.002) >= when


async def test_a_timer_that_fires_before_the_time_of_a_later_wait_does_not_end_it(
    watches: Watches, waiter: Waiter
) -> None:
    asyncio.get_running_loop().call_soon(watches.notify, {"s": Hint.GROWN})
    assert await waiter.until(in_seconds(SHORT)) is Hint.GROWN
    when = in_seconds(5 * SHORT)
    assert await waiter.until(when) is None
    assert in_seconds(0.002) >= when


async def test_a_wait_that_is_cancelled_leaves_the_next_hint_for_the_next_wait(
    watches: Watches, waiter: Waiter
) -> None:
    waiting = asyncio.create_task(waiter.until(in_seconds(NEVER)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    watches.notify({"s": Hint.GROWN})
    assert await waiter.until(in_seconds(NEVER)) is Hint.GROWN


async def test_nothing_refers_to_a_waiter_that_was_closed(watches: Watches) -> None:
    waiter = Waiter(watches.watch("s"))
    asyncio.get_running_loop().call_soon(waiter.wake)
    await waiter.until(in_seconds(NEVER))
    waiter.close()
    del waiter
    # A session is watched as long as a watch of it is referred to.
    assert watches.watched() == {}


async def test_growth_that_is_dealt_with_does_not_end_the_wait(watches: Watches) -> None:
    grown: list[None] = []
    dealt_with = iter((True, True, False))

    def at_growth() -> bool:
        grown.append(None)
        return next(dealt_with)

    waiter = Waiter(watches.watch("s"), at_growth)
    for number in range(3):
        asyncio.get_running_loop().call_later(number * SHORT, watches.notify, {"s": Hint.GROWN})
    assert await waiter.until(in_seconds(NEVER)) is Hint.GROWN
    assert len(grown) == 3
    waiter.close()


async def test_an_error_in_dealing_with_growth_is_the_waiting_tasks_alone(watches: Watches) -> None:
    def fail() -> bool:
        raise ValueError("of one session")

    waiters = [Waiter(watches.watch("s"), fail), Waiter(watches.watch("s"))]
    loop = asyncio.get_running_loop()
    loop.call_soon(watches.notify, {"s": Hint.GROWN})
    waits = [waiter.until(in_seconds(NEVER)) for waiter in waiters]
    assert await asyncio.gather(*waits) == [Hint.GROWN, Hint.GROWN]
    for waiter in waiters:
        waiter.close()


async def test_an_erasure_is_always_the_waiting_tasks(watches: Watches) -> None:
    waiter = Waiter(watches.watch("s"), at_growth=lambda: True)
    loop = asyncio.get_running_loop()
    loop.call_soon(watches.notify, {"s": Hint.ERASED})
    loop.call_soon(watches.notify, {"s": Hint.GROWN})
    assert await waiter.until(in_seconds(NEVER)) is Hint.ERASED
    waiter.close()
