"""The two chat servers that are measured: moorline's backend, and the plain one."""

import asyncio
import contextlib
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

from tests.bench.counted import COMMITS
from tests.bench.processes import free_port, spawned
from tests.bench.staged import STAGES_FILE

__all__ = ["NO_CLIENT_LIMITS", "ChatServer", "moorline", "plain"]

#: One address stands for all clients of a measurement.
NO_CLIENT_LIMITS = ("--rate-limit-per-address=off", "--max-runs-per-address=off", "--new-sessions-per-address=off")
_START_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class ChatServer:
    """One at work."""

    name: str
    port: int
    pid: int
    has_log: bool
    """It speaks version 2 of the protocol, which begins with a hello."""
    counter: Path

    def commits(self) -> int:
        """How many there were so far."""
        return int.from_bytes(self.counter.read_bytes(), "little") if self.counter.exists() else 0


@contextlib.asynccontextmanager
async def moorline(
    folder: Path,
    database: Path | str,
    provider_port: int,
    *options: str,
    cores: Collection[int] = (),
    module: str = "tests.bench.counted",
) -> AsyncIterator[ChatServer]:
    """The backend as it comes, with room for all streams, on this SQLite file or the database of this address. `module`
    is it, and what it writes."""
    port = free_port()
    url = database if isinstance(database, str) else f"sqlite:///{database}"
    given = [f"--port={port}", f"--database={url}", "--max-runs=10000", *NO_CLIENT_LIMITS, *options]
    command = [sys.executable, "-m", module, *given]
    async with _serving("moorline", command, folder, port, provider_port, cores=cores, has_log=True) as server:
        yield server


@contextlib.asynccontextmanager
async def plain(folder: Path, provider_port: int, *, cores: Collection[int] = ()) -> AsyncIterator[ChatServer]:
    """See `plain.py`."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.plain", str(port)]
    async with _serving("plain", command, folder, port, provider_port, cores=cores, has_log=False) as server:
        yield server


@contextlib.asynccontextmanager
async def _serving(
    name: str,
    command: Sequence[str],
    folder: Path,
    port: int,
    provider_port: int,
    *,
    cores: Collection[int],
    has_log: bool,
) -> AsyncIterator[ChatServer]:
    os.makedirs(folder)
    counter = folder / "commits"
    env = {
        "OPENAI_API_KEY": "any",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{provider_port}/v1",
        COMMITS: str(counter),
        STAGES_FILE: str(folder / "stages"),
    }
    async with spawned(command, folder, cores=cores, env=env) as process:
        async with asyncio.timeout(_START_SECONDS):
            while True:
                if process.returncode is not None:
                    raise RuntimeError(
                        f"{name} does not start: {(folder / 'output').read_text(encoding='utf-8')[-2000:]}"
                    )
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield ChatServer(name, port, process.pid, has_log, counter)
