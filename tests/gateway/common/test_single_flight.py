"""One call for all that ask at once."""

import asyncio

import pytest

from moorline.gateway.common.single_flight import SingleFlight


class Question:
    """A call that ends when the test says so."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> int:
        self.calls += 1
        try:
            return await asyncio.shield(self.answer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def asked(flight: SingleFlight[int], count: int) -> list[asyncio.Task[int]]:
    """So many that wait for the result."""
    tasks = [asyncio.create_task(flight.result()) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_those_that_ask_during_a_call_get_its_result_and_the_next_one_another() -> None:
    question = Question()
    flight = SingleFlight(question)
    tasks = await asked(flight, 3)
    question.answer.set_result(7)
    assert (await asyncio.gather(*tasks), question.calls) == ([7, 7, 7], 1)
    assert (await flight.result(), question.calls) == (7, 2)


async def test_an_error_is_that_of_all_that_asked() -> None:
    question = Question()
    tasks = await asked(SingleFlight(question), 2)
    question.answer.set_exception(KeyError("a"))
    for task in tasks:
        with pytest.raises(KeyError):
            await task


async def test_the_call_goes_on_until_the_last_one_is_cancelled() -> None:
    question = Question()
    flight = SingleFlight(question)
    first, second = await asked(flight, 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert question.cancelled == 0
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    (third,) = await asked(flight, 1)
    assert (question.calls, question.cancelled) == (2, 1)
    question.answer.set_result(1)
    assert await third == 1
