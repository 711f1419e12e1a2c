"""A backend that restarts under its clients, as `--reload` does it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.common.config.options import changed
from moorline.gateway.common.web.listen import listen
from moorline.gateway.run import server
from moorline.gateway.run.backend_port import BackendPort
from moorline.gateway.run.supervisor import Child, Supervisor
from moorline.gateway.settings import Settings
from tests.support.faulty_upstream import UNFINISHED, dial
from tests.support.process import PATIENCE

CLIENTS = 50
RESTARTS = 3


class Supervised:
    """A backend process, and how often it was ready."""

    def __init__(self, folder: Path) -> None:
        (sock,) = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self._port = BackendPort(sock, 10.0)
        self.ready = asyncio.Event()
        self._supervisor = Supervisor(self._child(f"sqlite:///{folder}/chat.db"))

    def _child(self, database: str) -> Child:
        options = BackendSettings(database=database, log_level="error")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MOORLINE_", "OPENAI_"))}
        return Child(
            name="the backend",
            command="backend",
            message={"settings": changed(options)},
            environ=environ,
            drain=1.0,
            on_ready=self._is_ready,
            spawn_context=self._port.life,
        )

    def _is_ready(self, _: Mapping[str, str]) -> None:
        self._port.up()
        self.ready.set()

    def restart(self) -> None:
        self._supervisor.restart()

    async def replace(self, database: str) -> bool:
        self.ready.clear()
        return await self._supervisor.replace(self._child(database))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        supervising = asyncio.create_task(self._supervisor.run())
        try:
            async with asyncio.timeout(PATIENCE):
                await self.ready.wait()
            yield
        finally:
            self._supervisor.stop()
            await supervising
            await self._port.close()


class Clients:
    """Each opens a socket as soon as it has lost one."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.failures: list[str] = []
        self.opened = [0] * CLIENTS
        self._changed = asyncio.Condition()

    async def stay(self, number: int) -> None:
        while True:
            try:
                async with connect(f"{self._address}/ws/chat/p/s{number}", proxy=None, open_timeout=PATIENCE) as socket:
                    await self._count(number)
                    with contextlib.suppress(ConnectionClosed):
                        while True:
                            await socket.recv()
            except Exception as error:
                self.failures.append(repr(error))
                await self._count(number)

    async def all_have_opened(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: min(self.opened) >= count or self.failures)

    async def _count(self, number: int) -> None:
        async with self._changed:
            self.opened[number] += 1
            self._changed.notify_all()


async def test_no_handshake_fails_while_a_backend_restarts_under_50_clients(tmp_path: Path, page: str) -> None:
    backend = Supervised(tmp_path)
    settings = Settings(host="127.0.0.1", port=0, upstream=(backend.address,), frontend=page, drain=1.0)
    async with backend.running(), server.running(settings) as gateway:
        clients = Clients(gateway.addresses[0].replace("http", "ws"))
        staying = [asyncio.create_task(clients.stay(number)) for number in range(CLIENTS)]
        for restarts in range(RESTARTS):
            await clients.all_have_opened(1 + restarts)
            backend.restart()
        await clients.all_have_opened(1 + RESTARTS)
        for task in staying:
            task.cancel()
        await asyncio.gather(*staying, return_exceptions=True)
    assert clients.failures == []


async def test_who_comes_back_while_the_last_process_ends_is_served_by_the_next(tmp_path: Path) -> None:
    backend = Supervised(tmp_path)
    port, address = int(backend.address.rpartition(":")[2]), backend.address.replace("http", "ws") + "/ws/chat/p/s"
    # The process gives it half a second.
    async with backend.running(), dial(port) as unfinished:
        await unfinished.send(UNFINISHED)
        await unfinished.head()
        async with connect(address, proxy=None) as socket:
            backend.ready.clear()
            backend.restart()
            await socket.wait_closed()
        async with connect(address, proxy=None, open_timeout=PATIENCE):
            assert backend.ready.is_set()


async def test_a_backend_that_does_not_start_with_new_options_is_started_as_before(tmp_path: Path) -> None:
    backend = Supervised(tmp_path)
    async with backend.running(), asyncio.timeout(PATIENCE):
        assert not await backend.replace("sqlite:////dev/null/chat.db")
        await backend.ready.wait()
        assert await backend.replace(f"sqlite:///{tmp_path}/other.db")
        assert (tmp_path / "other.db").exists()
