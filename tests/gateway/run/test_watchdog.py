"""A worker or a backend whose event loop does not run, or not any more, is replaced; the others notice nothing."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from moorline.gateway.run import supervisor
from moorline.gateway.run.supervisor import Child, Supervisor
from tests.gateway.run.test_serve import ask, serving
from tests.support.gateway_process import echoing
from tests.support.process import PATIENCE, children, gone

# Long enough for a process that waits for a busy core.
WATCHDOG = ("--watchdog", "3s")
# A start with its imports takes a second, and several beside other tests.
START = ("--start-timeout", "8s")
#: In a module: the line that this is called in hangs in the process that comes to it as the `number`th.
HANGS = """
import os, time
def hang(number):
    for count in range(1, 9):
        try:
            os.close(os.open(f"came-{count}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        while count == number:
            time.sleep(3600)
        return
"""
ANSWER = """
class Chat:
    async def startup(self):
        await asyncio.sleep(STARTUP)
    async def answer(self, turn):
        yield "Hello"
chat = Chat()
"""


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


#: Touches a file, and does not return to its event loop.
BUSY = """
import pathlib
async def answer(turn):
    pathlib.Path("busy").touch()
    while True:
        pass
    yield
async def authorize(request, patient_id, session_id):
    await anext(answer(None))
"""


async def test_a_backend_that_does_not_return_to_its_loop_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY, encoding="utf-8")
    async with serving(tmp_path, "--responder", "busy:answer", *WATCHDOG) as (program, address):
        (backend,) = children(program.pid, "backend")
        asking = asyncio.create_task(ask(address, "hang"))
        await gone(backend)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await program.line("the backend is up again")


async def test_a_backend_whose_import_does_not_return_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(f"import asyncio\n{HANGS}\nhang(1)\nSTARTUP = 0\n{ANSWER}", encoding="utf-8")
    async with serving(tmp_path, "--responder", "slow:chat", *START) as (program, address):
        assert await ask(address) == "Hello"
    # A request that waits for it is another logger's line.
    lines = [
        line.partition("supervisor: ")[2] for line in program.err.splitlines() if "supervisor: the backend" in line
    ]
    assert lines == [
        "the backend has given no sign of life for 8s at its start (start_timeout): killing it",
        "the backend ended with status -9; starting it again in 0.25s",
    ]


async def test_a_worker_whose_hook_does_not_return_from_its_import_is_replaced(tmp_path: Path) -> None:
    # The program itself comes first, then its workers.
    hook = "async def authorize(request, patient_id, session_id):\n    return 'someone'\n"
    (tmp_path / "slow.py").write_text(f"{HANGS}\nhang(2)\n{hook}", encoding="utf-8")
    options = ("--workers", "2", "--authorize", "slow:authorize", *START)
    async with echoing(tmp_path, *options) as (program, address), connect(address, proxy=None) as client:
        await client.send("served")
        assert await client.recv() == "served"
    assert "has given no sign of life for 8s at its start (start_timeout): killing it" in program.err


async def test_a_start_that_is_slow_and_lives_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(f"import asyncio\nSTARTUP = 6\n{ANSWER}", encoding="utf-8")
    async with serving(tmp_path, "--responder", "slow:chat", *START) as (program, address):
        assert await ask(address) == "Hello"
    assert "no sign of life" not in program.err


async def test_a_backend_that_hangs_while_it_ends_by_itself_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        f"import asyncio, time\nSTARTUP = 0\n{ANSWER}\nasync def stop(): time.sleep(3600)\nchat.shutdown = stop\n",
        encoding="utf-8",
    )
    async with serving(tmp_path, "--responder", "stuck:chat", "--drain", "1s") as (program, address):
        (backend,) = children(program.pid, "backend")
        os.kill(backend, signal.SIGTERM)
        await program.line("the backend ended with status -9")
        await program.line("the backend is up again")
        assert await ask(address) == "Hello"


@contextlib.asynccontextmanager
async def busy_in(folder: Path, asking: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
    """Within, a process in this folder is in the loop of BUSY, since it was asked this."""
    asked = asyncio.create_task(asking)
    async with asyncio.timeout(PATIENCE):
        while not (folder / "busy").exists():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    yield
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def test_a_busy_backend_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY, encoding="utf-8")
    async with serving(tmp_path, "--responder", "busy:answer") as (program, address):
        (backend,) = children(program.pid, "backend")
        async with busy_in(tmp_path, ask(address, "hang")):
            program.send(signal.SIGKILL)
            await gone(backend)


async def test_a_busy_worker_does_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY, encoding="utf-8")
    async with echoing(tmp_path, "--workers", "2", "--authorize", "busy:authorize") as (program, address):
        workers = children(program.pid)
        async with busy_in(tmp_path, connect(address, proxy=None).__aenter__()):
            program.send(signal.SIGKILL)
            for worker in workers:
                await gone(worker)


async def test_a_long_life_that_was_never_ready_does_not_shorten_the_pause_before_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "_STABLE_AFTER", 0.0)
    tried = asyncio.Queue[None]()
    child = Child(
        name="a part",
        command="no-such-command",
        message={},
        environ=os.environ,
        drain=1.0,
        on_ready=lambda _: None,
        on_failed_start=lambda: tried.put_nowait(None),
        refusals=(),
    )
    kept = Supervisor(child)
    with caplog.at_level(logging.ERROR, "moorline.supervisor"):
        running = asyncio.create_task(kept.run())
        for _ in range(3):
            await tried.get()
        kept.stop()
        await running
    assert [line.rpartition(" ")[2] for line in caplog.messages] == ["0.25s", "0.5s", "1s"]
