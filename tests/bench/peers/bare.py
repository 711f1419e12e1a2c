"""The limit: a relay in C that knows nothing of HTTP or WebSockets, compiled on the spot."""

import asyncio
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import Peer, installed

__all__ = ["BARE"]

_SOURCE = Path(__file__).with_name("relay.c")


async def _command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    compiler = installed("cc", package="gcc")
    target = str(folder / "relay")
    process = await asyncio.create_subprocess_exec(
        compiler, "-O2", "-Wall", "-o", target, str(_SOURCE), stdout=PIPE, stderr=STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{_SOURCE.name} does not compile: {said.decode()}")
    return [target, str(port), str(backend_port)]


BARE = Peer("bare relay", _command)
