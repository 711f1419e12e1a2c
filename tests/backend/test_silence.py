"""When a wait that is begun again and again is given up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from moorline.backend.silence import Silence
from tests.support.backends import STEP

SHORT = 0.02


@pytest.fixture
async def silence() -> AsyncIterator[Silence]:
    with contextlib.closing(Silence(asyncio.get_running_loop().time() + SHORT)) as silence:
        yield silence


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_wait_beyond_the_deadline_times_out(silence: Silence) -> None:
    with pytest.raises(TimeoutError), silence:
        await forever()


async def test_a_deadline_that_moves_on_is_kept_to_the_last_one(silence: Silence) -> None:
    clock = asyncio.get_running_loop().time
    for _ in range(3):
        silence.deadline += SHORT
        with silence:
            await asyncio.sleep(0)
    with pytest.raises(TimeoutError), silence:
        await forever()
    # The loop's clock counts milliseconds.
    assert clock() >= silence.deadline - 0.002


async def test_a_deadline_that_moves_back_counts_for_the_next_wait(silence: Silence) -> None:
    silence.deadline += 10 * STEP
    with silence:
        await asyncio.sleep(0)
    silence.deadline -= 10 * STEP
    async with asyncio.timeout(STEP):
        with pytest.raises(TimeoutError), silence:
            await forever()


async def test_nothing_is_cancelled_between_two_waits(silence: Silence) -> None:
    with silence:
        await asyncio.sleep(0)
    await asyncio.sleep(2 * SHORT)
    silence.deadline += STEP
    with silence:
        await asyncio.sleep(SHORT)


async def test_each_wait_may_be_another_tasks(silence: Silence) -> None:
    async def wait() -> None:
        with silence:
            await forever()

    silence.deadline += STEP
    first = asyncio.create_task(wait())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert first.cancelled()
    silence.deadline -= STEP
    with pytest.raises(TimeoutError):
        await asyncio.create_task(wait())


async def test_a_cancellation_that_comes_with_the_deadline_counts(silence: Silence) -> None:
    async def wait() -> None:
        with silence:
            await forever()

    waiting = asyncio.create_task(wait())
    asyncio.get_running_loop().call_at(silence.deadline, waiting.cancel)
    asyncio.get_running_loop().call_at(silence.deadline, silence._timer_fired)
    await asyncio.wait({waiting})
    assert waiting.cancelled()
