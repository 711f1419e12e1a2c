"""What a program's event loop is given at the start, and what runs beside its servers."""

import asyncio

import pytest

from moorline.gateway.common.loop import run_until


async def test_work_beside_a_server_is_ended_with_it() -> None:
    stop, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def short() -> None:
        pass

    running = asyncio.create_task(run_until(stop, endless(), short()))
    await asyncio.sleep(0)
    stop.set()
    await running
    assert ended.is_set()


async def test_an_error_of_work_beside_a_server_ends_it() -> None:
    async def broken() -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        await run_until(asyncio.Event(), asyncio.Event().wait(), broken())
