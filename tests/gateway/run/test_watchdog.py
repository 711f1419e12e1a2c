"""A worker or a backend whose event loop does not run any more is replaced; the others notice nothing."""

import asyncio
import os
import signal
from pathlib import Path

from websockets.asyncio.client import connect

from tests.gateway.run.test_serve import ask, serving
from tests.support.gateway_process import echoing
from tests.support.process import children, gone

# Long enough for a process that waits for a busy core.
WATCHDOG = ("--watchdog", "3s")


async def test_a_worker_that_is_stopped_is_replaced_and_the_other_serves_on(tmp_path: Path) -> None:
    async with echoing(tmp_path, "--workers", "2", *WATCHDOG) as (program, address):
        workers = children(program.pid)
        async with connect(address, proxy=None) as one, connect(address, proxy=None) as other:
            os.kill(workers[0], signal.SIGSTOP)
            closed = {asyncio.create_task(each.wait_closed()): each for each in (one, other)}
            _, (still_open,) = await asyncio.wait(closed, return_when=asyncio.FIRST_COMPLETED)
            await closed[still_open].send("served on")
            assert await closed[still_open].recv() == "served on"
            still_open.cancel()
        await gone(workers[0])
        await program.line("worker 1", "is up again")
    assert "worker 1 has given no sign of life for 3s: killing it" in program.err


async def test_a_backend_that_does_not_return_to_its_loop_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "async def answer(turn):\n    while True:\n        pass\n    yield\n",
        encoding="utf-8",
    )
    async with serving(tmp_path, "--responder", "busy:answer", *WATCHDOG) as (program, address):
        (backend,) = children(program.pid, "backend")
        asking = asyncio.create_task(ask(address, "hang"))
        await gone(backend)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await program.line("the backend is up again")
