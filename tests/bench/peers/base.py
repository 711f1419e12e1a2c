"""A peer of a measurement: a program that relays WebSockets from a port of its own to the backend."""

import asyncio
import contextlib
import dataclasses
import os
import resource
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path

from tests.bench.processes import free_port, spawned
from tests.bench.wire import handshake
from tests.support.needs import program

__all__ = ["Missing", "Peer", "Relaying", "connections", "installed", "relaying"]

Prepare = Callable[[Path, int, int], Awaitable[Sequence[str]]]

_START_SECONDS = 60.0
_CONNECTIONS = 30_000
# For listeners, logs and libraries.
_OTHER_FILES = 100


class Missing(Exception):
    """A peer that cannot be measured here; the message says why, or what would bring it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A program that can relay."""

    name: str
    command: Prepare
    """Lays out a folder for a port and the backend's port; the command to run there. It may raise `Missing`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Relaying:
    """One that does."""

    name: str
    port: int
    pid: int


@contextlib.asynccontextmanager
async def relaying(
    peer: Peer, folder: Path, backend_port: int, *, cores: Collection[int] = ()
) -> AsyncIterator[Relaying]:
    """Start it in `folder` and wait until a handshake passes.

    Raises:
        Missing: it cannot be had here.
    """
    os.makedirs(folder)
    port = free_port()
    async with spawned(await peer.command(folder, port, backend_port), folder, cores=cores) as process:
        await _ready(peer, process, port, folder)
        yield Relaying(peer.name, port, process.pid)


async def _ready(peer: Peer, process: Process, port: int, folder: Path) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            if process.returncode is not None:
                raise Missing(f"does not start: {(folder / 'output').read_text()[-500:]}")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(handshake("/ws/echo"))
                answer = await reader.read(12)
                writer.close()
                if answer == b"HTTP/1.1 101":
                    return
            await asyncio.sleep(0.1)


def connections() -> int:
    """What each is set up for: more than any figure needs, or what two files a tunnel leave."""
    return min(_CONNECTIONS, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES) // 2)


def installed(name: str, *, package: str = "") -> str:
    """Where this program is."""
    path = program(name)
    if path == name:
        raise Missing(f"apt-get install -y {package or name}")
    return path
