"""Turns at work that costs memory, shared fairly."""

import asyncio

import pytest

from moorline.backend.gate import Gate


async def test_no_more_are_at_work_than_there_are_turns() -> None:
    gate, at_work, most = Gate(2), 0, 0

    async def work() -> None:
        nonlocal at_work, most
        async with gate.turn("a"):
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0)
            at_work -= 1

    await asyncio.gather(*(work() for _ in range(10)))
    assert (most, at_work) == (2, 0)


@pytest.mark.parametrize("much", ["192.0.2.1", "2001:db8::{}"])
async def test_a_client_with_much_work_keeps_others_waiting_for_one_piece_of_it(much: str) -> None:
    gate, done = Gate(1), list[str]()

    async def work(client: str) -> None:
        async with gate.turn(client):
            await asyncio.sleep(0)
            done.append(client)

    await asyncio.gather(*(work(much.format(number)) for number in range(50)), work("little"), work("other"))
    assert done.index("little") <= 2
    assert done.index("other") <= 4
    assert len(done) == 52


async def test_one_that_is_cancelled_while_it_waits_takes_no_turn() -> None:
    gate = Gate(1)
    async with gate.turn("a"):
        waiting = asyncio.create_task(gate.turn("a").__aenter__())
        behind = asyncio.create_task(gate.turn("b").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
    async with asyncio.timeout(5):
        await behind


async def test_a_turn_that_reaches_a_cancelled_task_goes_on_to_the_next() -> None:
    gate = Gate(1)
    first = gate.turn("a")
    await first.__aenter__()
    waiting = asyncio.create_task(gate.turn("a").__aenter__())
    behind = asyncio.create_task(gate.turn("b").__aenter__())
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)
    waiting.cancel()
    async with asyncio.timeout(5):
        await behind
