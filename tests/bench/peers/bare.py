"""The limits: a relay in C and one in Python, which know nothing of HTTP or WebSockets."""

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import Peer, installed

__all__ = ["BARE", "BARE_ASYNCIO"]

_SOURCE = Path(__file__).with_name("relay.c")


async def _relay(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    """Compiled on the spot."""
    compiler = installed("cc", package="gcc")
    target = str(folder / "relay")
    process = await asyncio.create_subprocess_exec(
        compiler, "-O2", "-Wall", "-o", target, str(_SOURCE), stdout=PIPE, stderr=STDOUT
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{_SOURCE.name} does not compile: {said.decode()}")
    return [target, str(port), str(backend_port)]


async def _asyncio_relay(_: Path, port: int, backend_port: int) -> Sequence[str]:
    return [sys.executable, "-m", "tests.bench.peers.asyncio_relay", str(port), str(backend_port)]


BARE = Peer("bare relay", _relay)
BARE_ASYNCIO = Peer("asyncio relay", _asyncio_relay)
