"""The backend under a service manager, which listens for it and is notified of its states."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
from websockets.asyncio.client import connect

from tests.support.faulty_upstream import UNFINISHED, dial
from tests.support.service_manager import Manager


async def test_the_manager_is_told_of_start_life_and_end_and_its_socket_is_served(tmp_path: Path) -> None:
    with contextlib.closing(Manager(tmp_path)) as manager:
        async with manager.life("backend") as program:
            assert f"MAINPID={program.pid}" in await manager.told_that("READY=1")
            async with aiohttp.request("GET", f"http://127.0.0.1:{manager.port}/readyz") as answer:
                assert answer.status == 200
            await manager.told_that("WATCHDOG=1")
            assert await program.stop() == 0
            await manager.told_that("STOPPING=1")


async def test_who_comes_back_while_a_life_ends_is_served_by_the_next(tmp_path: Path) -> None:
    with contextlib.closing(Manager(tmp_path)) as manager:
        address = f"ws://127.0.0.1:{manager.port}/ws/chat/p/s"
        async with manager.life("backend") as program:
            await manager.told_that("READY=1")
            # The process waits for it.
            async with dial(manager.port) as unfinished:
                await unfinished.send(UNFINISHED)
                await unfinished.head()
                async with connect(address, proxy=None) as socket:
                    stopping = asyncio.create_task(program.stop())
                    await socket.wait_closed()
                early = asyncio.create_task(connect(address, proxy=None, open_timeout=None).__aenter__())
                await asyncio.sleep(0)
            assert await stopping == 0
            assert not early.done()
        async with manager.life("backend"), await early:
            pass


async def test_the_manager_is_asked_to_wait_for_a_start_that_takes_long_and_lives(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import asyncio, pathlib\n"
        "class Chat:\n"
        "    async def startup(self):\n"
        "        while not pathlib.Path('go').exists():\n"
        "            await asyncio.sleep(0.02)\n"
        "    async def answer(self, turn):\n"
        "        yield 'Hello'\n"
        "chat = Chat()\n",
        encoding="utf-8",
    )
    with contextlib.closing(Manager(tmp_path)) as manager:
        async with manager.life("backend", "--responder", "slow:chat"):
            assert await manager.told_that("EXTEND_TIMEOUT_USEC=") == "EXTEND_TIMEOUT_USEC=60000000"
            (tmp_path / "go").touch()
            await manager.told_that("READY=1")
