"""A peer of a measurement: a program that relays to the backend, or answers itself, on a port of its own."""

import asyncio
import contextlib
import dataclasses
import math
import os
import resource
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from pathlib import Path

from tests.bench.http_messages import request
from tests.bench.processes import free_port, spawned
from tests.bench.wire import handshake
from tests.support.needs import program

__all__ = [
    "HTTP",
    "SITE",
    "WEBSOCKET",
    "Missing",
    "Peer",
    "Prepare",
    "Probe",
    "Running",
    "backends_for",
    "connections",
    "installed",
    "running",
    "workers_for",
]

Prepare = Callable[[Path, int, int], Awaitable[Sequence[str]]]

SITE = Path("../site")
"""The assets that all serve, from the folder of one."""

_START_SECONDS = 60.0
_CONNECTIONS = 30_000
# For listeners, logs and libraries.
_OTHER_FILES = 100
_USED = 0.9


class Missing(Exception):
    """A peer that cannot be measured here; the message says why, or what would bring it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """What shows that a peer is ready."""

    request: bytes
    reply: bytes
    """How its reply begins then."""


WEBSOCKET = Probe(handshake("/ws/echo"), b"HTTP/1.1 101")
"""A handshake passes."""
HTTP = Probe(request("/api/2"), b"HTTP/1.1 ")
"""It responds, if only with 404."""


@dataclasses.dataclass(frozen=True, slots=True)
class Peer:
    """A program that is measured."""

    name: str
    command: Prepare
    """Lays out a folder for a port and the backend's port; the command to run there. It may raise `Missing`."""
    probe: Probe = WEBSOCKET


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """One that runs."""

    name: str
    port: int
    pid: int


@contextlib.asynccontextmanager
async def running(
    peer: Peer, folder: Path, backend_port: int, *, cores: Collection[int] = ()
) -> AsyncIterator[Running]:
    """Start it in `folder` and wait until it is ready.

    Raises:
        Missing: it cannot be had here.
    """
    os.makedirs(folder)
    port = free_port()
    async with spawned(await peer.command(folder, port, backend_port), folder, cores=cores) as process:
        await _ready(peer.probe, process, port, folder)
        yield Running(peer.name, port, process.pid)


async def _ready(probe: Probe, process: Process, port: int, folder: Path) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            if process.returncode is not None:
                raise Missing(f"does not start: {(folder / 'output').read_text(encoding='utf-8')[-500:]}")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(probe.request)
                reply = await reader.read(len(probe.reply))
                writer.close()
                if reply == probe.reply:
                    return
            await asyncio.sleep(0.1)


def connections() -> int:
    """What each is set up for: more than any figure needs, or what two files a tunnel leave."""
    return min(_CONNECTIONS, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHER_FILES) // 2)


def workers_for(clients: int) -> int:
    """How many a gateway needs for so many clients; each keeps a part of its files for other requests."""
    return math.ceil(clients / connections() / _USED)


def backends_for(clients: int) -> int:
    """The same of backends, where a client takes one file."""
    return math.ceil(clients / (2 * connections()) / _USED)


def installed(name: str, *, package: str = "") -> str:
    """Where this program is."""
    path = program(name)
    if path == name:
        raise Missing(f"apt-get install -y {package or name}")
    return path
