"""What is measured side by side: each relays WebSockets from a port of its own to one backend."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from gateway.settings import Settings
from tests.bench.processes import free_port, spawned
from tests.bench.wire import handshake
from tests.support.needs import program

__all__ = ["GATEWAY", "PEERS", "Missing", "Peer", "Relaying", "gateway_command", "relaying"]

Prepare = Callable[[Path, int, int], Awaitable[Sequence[str]]]

_START_SECONDS = 60.0
# More than any figure needs: nobody shall be measured at his limit.
_CONNECTIONS = 30_000


class Missing(Exception):
    """A peer that is not on this machine; the message says what would bring it."""


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
async def relaying(peer: Peer, folder: Path, backend_port: int) -> AsyncIterator[Relaying]:
    """Start it in `folder` and wait until a handshake passes.

    Raises:
        Missing: it cannot be had here.
    """
    os.makedirs(folder)
    port = free_port()
    async with spawned(await peer.command(folder, port, backend_port), folder) as process:
        await _ready(peer, process, port, folder)
        yield Relaying(peer.name, port, process.pid)


async def _ready(peer: Peer, process: Process, port: int, folder: Path) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            if process.returncode is not None:
                raise RuntimeError(f"{peer.name} does not start: {(folder / 'output').read_text()[-2000:]}")
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(handshake("/ws/echo"))
                answer = await reader.read(12)
                writer.close()
                if answer == b"HTTP/1.1 101":
                    return
            await asyncio.sleep(0.1)


def installed(name: str) -> str:
    """Where this program is."""
    path = program(name)
    if path == name:
        raise Missing(f"apt-get install -y {name}")
    return path


# The gateway ----------------------------------------------------------------------------------------------------------


def gateway_command(port: int, backend_port: int, **options: str) -> Sequence[str]:
    """The gateway as it comes, but for these options; those that it does not have yet are left out."""
    given = {
        "host": "127.0.0.1",
        "port": str(port),
        "upstream": f"http://127.0.0.1:{backend_port}",
        "max_connections": str(_CONNECTIONS),
        **options,
    }
    known = {field.name for field in dataclasses.fields(Settings)}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if name in known]
    return [sys.executable, "-m", "gateway", *flags]


async def _gateway(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    return gateway_command(port, backend_port)


# nginx ----------------------------------------------------------------------------------------------------------------

# The directives of nginx/ that bear on a socket, in one process.
_NGINX = """
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections {files}; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location /ws/ {{
            proxy_pass http://127.0.0.1:{backend_port};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_read_timeout 86400s;
            proxy_send_timeout 86400s;
        }}
    }}
}}
"""


async def _nginx(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    path = installed("nginx")
    text = _NGINX.format(
        user="user root;" if os.geteuid() == 0 else "",
        folder=folder,
        port=port,
        backend_port=backend_port,
        # Two descriptors a tunnel.
        files=2 * _CONNECTIONS,
    )
    (folder / "nginx.conf").write_text(text)
    return [path, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]


GATEWAY = Peer("gateway", _gateway)
PEERS = (GATEWAY, Peer("nginx", _nginx))
