"""What signals and a full house do to tunnels: nginx and the gateway, each as a process of its own.

nginx cuts at SIGTERM, and leaves tunnels alone at SIGQUIT and at a reload. The gateway has one way to end: it drains.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.differential.proxies import nginx
from tests.differential.session import Session, backend, play_one, played_once, together
from tests.differential.stage import Backend, Stage
from tests.differential.table import Record, Row, table
from tests.support import needs
from tests.support.faulty_upstream import HANDSHAKE, SWITCH
from tests.support.process import started

pytestmark = [needs.nginx, pytest.mark.timeout(120)]

# Tunnels at once; with nginx's listener and the line between its processes they make ten connections.
_MOST = 4
_CONNECTIONS = 10
_GATEWAY = ("--host=127.0.0.1", "--port=0", "--drain=1.5s", f"--max-connections={_MOST}", "--proxy-read-timeout=2s")
_HEARTBEATS_OFF = ("--client-heartbeat=off", "--upstream-heartbeat=off")
_PROFILES = {"profile": ("--no-close-frames", *_HEARTBEATS_OFF), "defaults": _HEARTBEATS_OFF}
_SHUTDOWN_TIMEOUT = "worker_shutdown_timeout 1s;"


class Life(Stage):
    """A stage whose proxy can be ended."""

    def __init__(self, port: int, backend: Backend, pid: int, ended: Callable[[], Awaitable[object]]) -> None:
        super().__init__(port, backend)
        self._pid = pid
        self._ended = ended

    def signal(self, number: int) -> None:
        """Signal the proxy. The time runs from here."""
        self.mark()
        os.kill(self._pid, number)

    def kill(self) -> None:
        """Kill the process that has the connections: of nginx the worker."""
        workers = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text(encoding="utf-8").split()
        self.mark()
        os.kill(int(workers[0]) if workers else self._pid, signal.SIGKILL)

    async def process(self) -> None:
        await self._ended()
        self.see("process", "ended")

    async def refuses(self) -> None:
        """Wait until no process listens any more."""
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                await self.client()
                await asyncio.sleep(0.02)  # no event tells of a listener that is gone
        self.see("new", "refused")


ROWS, row = table(Life)
_BOTH_AT_ONCE = {"client": "FIN @0.0", "backend": "FIN @0.0"}
_BOTH_LATER = {"client": "FIN @1.0", "backend": "FIN @1.0"}
_IDLE = {"client": "FIN @2.0", "backend": "FIN @2.0"}


@row("reload", {"old": "x", "new": "101", **_IDLE}, alone=True)
async def reload(stage: Life) -> None:
    """An old tunnel works on, new ones open, and the old one still meets its timeout."""
    client, backend_ = await stage.tunnel()
    stage.signal(signal.SIGHUP)
    await asyncio.sleep(0.3)  # for the new worker
    await stage.passes("old", b"x", client, backend_)
    stage.mark()
    another = await stage.client()
    await another.send(HANDSHAKE)
    await (await stage.backend.accept()).send(SWITCH)
    await stage.answer(another, "new")
    await stage.ends(client=client, backend=backend_)


@row("reload_shutdown_timeout", _BOTH_LATER, main=_SHUTDOWN_TIMEOUT, alone=True)
async def reload_shutdown_timeout(stage: Life) -> None:
    client, backend_ = await stage.tunnel()
    stage.signal(signal.SIGHUP)
    await stage.ends(client=client, backend=backend_)


@row("quit", {"new": "refused", "old": "x", **_IDLE, "process": "ended @2.0"}, alone=True)
async def quit_(stage: Life) -> None:
    """No connection is accepted any more; the process ends with the last tunnel."""
    client, backend_ = await stage.tunnel()
    stage.signal(signal.SIGQUIT)
    await stage.refuses()
    await stage.passes("old", b"x", backend_, client)
    stage.mark()
    await stage.ends(client=client, backend=backend_)
    await stage.process()


@row("quit_shutdown_timeout", {**_BOTH_LATER, "process": "ended @1.0"}, main=_SHUTDOWN_TIMEOUT, alone=True)
async def quit_shutdown_timeout(stage: Life) -> None:
    client, backend_ = await stage.tunnel()
    stage.signal(signal.SIGQUIT)
    await stage.ends(client=client, backend=backend_)
    await stage.process()


@row(
    "terminate",
    {**_BOTH_AT_ONCE, "process": "ended @0.0"},
    truthful={
        "client": "Close 1001 gateway restarting FIN @0.0",
        "backend": "masked Close 1001 gateway restarting FIN @0.0",
    },
)
async def terminate(stage: Life) -> None:
    client, backend_ = await stage.tunnel()
    stage.signal(signal.SIGTERM)
    await stage.ends(client=client, backend=backend_)
    client.close()
    backend_.close()
    await stage.process()


@row("killed", _BOTH_AT_ONCE)
async def killed(stage: Life) -> None:
    client, backend_ = await stage.tunnel()
    stage.kill()
    await stage.ends(client=client, backend=backend_)


@row("full", {"client": "nothing"}, gateway={"client": "503"})
async def full(stage: Life) -> None:
    """nginx has no place left for one more, and ends it without a byte; the gateway says so."""
    for _ in range(_MOST):
        await stage.tunnel()
    client = await stage.client()
    try:
        await client.send(HANDSHAKE)
        await stage.answer(client)
    except (ConnectionError, EOFError):
        stage.see("client", "nothing")


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
def test_nginx_does_what_the_row_says(session: Session, row: Row[Life]) -> None:
    assert session.differences(row, "nginx", row.nginx) == []


_COMPARED = pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS if not row.alone])


@_COMPARED
def test_the_gateway_does_what_nginx_did(session: Session, row: Row[Life]) -> None:
    assert session.differences(row, "profile", {**session.as_nginx(row), **row.gateway}) == []


@_COMPARED
def test_with_its_defaults_the_gateway_says_why(session: Session, row: Row[Life]) -> None:
    assert session.differences(row, "defaults", {**session.as_nginx(row), **row.gateway, **row.truthful}) == []


# The session ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """All rows at the same time, each at processes of its own."""
    return played_once(_play, request, tmp_path_factory)


async def _play(rows: Sequence[Row[Life]], folder: Path) -> Session:
    plays: dict[tuple[str, str], Awaitable[Record]] = {}
    for row in rows:
        plays[row.name, "nginx"] = _at_nginx(row, folder)
        if not row.alone:
            plays |= {(row.name, name): _at_gateway(row, folder, flags) for name, flags in _PROFILES.items()}
    return await together(plays)


async def _at_nginx(row: Row[Life], folder: Path) -> Record:
    (own := folder / row.name).mkdir()
    async with (
        backend(row) as upstream,
        nginx(own, [(row, upstream.port)], main=row.main, connections=_CONNECTIONS) as (process, ports),
    ):
        return await play_one(row, Life(ports[0], upstream, process.pid, process.wait))


async def _at_gateway(row: Row[Life], folder: Path, flags: Sequence[str]) -> Record:
    async with backend(row) as upstream:
        arguments = (*_GATEWAY, *flags, f"--upstream=http://127.0.0.1:{upstream.port}")
        async with started("moorline", "gateway", *arguments, cwd=folder) as program:
            page = await program.line("page", "http://")
            port = urlsplit(page.split()[-1]).port or 0
            return await play_one(row, Life(port, upstream, program.pid, program.ended))
