"""What aiohttp costs by itself: a minimal proxy, and one handler with and without an access log."""

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import HTTP, Peer

__all__ = ["AIOHTTP", "AIOHTTP_LOGGED", "AIOHTTP_PROXY"]


async def _proxy(_: Path, port: int, backend_port: int) -> Sequence[str]:
    return [sys.executable, "-m", "tests.bench.peers.aiohttp_proxy", str(port), str(backend_port)]


async def _handler(_: Path, port: int, __: int) -> Sequence[str]:
    return [sys.executable, "-m", "tests.bench.peers.aiohttp_handler", str(port)]


async def _logged(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    return [*await _handler(folder, port, backend_port), "log"]


AIOHTTP = Peer("aiohttp", _handler, HTTP)
AIOHTTP_LOGGED = Peer("aiohttp logged", _logged, HTTP)
AIOHTTP_PROXY = Peer("aiohttp proxy", _proxy, HTTP)
