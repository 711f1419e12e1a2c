"""The processes of a measurement: started, asked, and ended by their ids."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.usage import tree

__all__ = [
    "Child",
    "child",
    "commands",
    "environment",
    "free_port",
    "on_cores",
    "raise_file_limit",
    "spawned",
    "split_cores",
]

ROOT = Path(__file__).parents[2]
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
# A measurement of a long list takes long; this ends one that hangs.
_ANSWER_SECONDS = 300.0
# Of one answer, which is a line: 10,000 figures are 200 KB.
_LONGEST_ANSWER = 4 << 20


def free_port() -> int:
    """A port that is free now. Another program may take it first; the program it is for then ends and says so."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def raise_file_limit(wanted: int) -> int:
    """Have this process and its children open so many files, or as many as the system lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(wanted, hard), hard):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (OSError, ValueError):
            continue
        return limit
    return soft


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """What is started meanwhile, all threads of it, stays on these cores; none means any."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def split_cores() -> tuple[set[int], set[int]]:
    """Those of the two ends, and the one of what is measured between them, where there is more than one.

    Who is moved from core to core, or has to wait for one, pays for what the system does.
    """
    cores = sorted(os.sched_getaffinity(0))
    return (set(cores[:-1]), {cores[-1]}) if len(cores) > 1 else (set(), set())


def environment() -> dict[str, str]:
    """This one, without options and keys of the user who measures, and with the packages of this checkout."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MOORLINE_", "OPENAI_"))}
    return {**inherited, "PYTHONPATH": str(ROOT)}


@contextlib.asynccontextmanager
async def spawned(
    command: Sequence[str], folder: Path, *, cores: Collection[int] = (), env: Mapping[str, str] | None = None
) -> AsyncIterator[Process]:
    """A program at work in `folder`; what it prints is in `output` there."""
    with (folder / "output").open("ab") as output, on_cores(cores):
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdin=DEVNULL, stdout=output, stderr=output, env=environment() | dict(env or {})
        )
    try:
        yield process
    finally:
        await _end(process)


class Child:
    """A process of the benchmark's own that answers each line of JSON with one."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.port = 0
        """Where it listens, if it does."""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, command: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([command, arguments]).encode() + b"\n")
        return await self.answer(_ANSWER_SECONDS)

    async def answer(self, seconds: float) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a process of the benchmark's own ended early; its error is above")
        return json.loads(line)


@contextlib.asynccontextmanager
async def child(module: str, *arguments: str, cores: Collection[int] = ()) -> AsyncIterator[Child]:
    """`python -m module`, which begins with its port and goes on with `commands`. It ends when this process does."""
    with on_cores(cores):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=PIPE,
            stdout=PIPE,
            env=environment(),
            limit=_LONGEST_ANSWER,
        )
    try:
        started = Child(process)
        started.port = await started.answer(_START_SECONDS)
        yield started
    finally:
        await _end(process)


async def commands(port: int, table: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
    """The other end of a `Child`: say the port, then do what is asked until standard input ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print(json.dumps(port), flush=True)
    while line := await reader.readline():
        command, arguments = json.loads(line)
        print(json.dumps(await table[command](**arguments)), flush=True)


async def _end(process: Process) -> None:
    if process.returncode is None:
        descendants = tree(process.pid)[1:]
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            for pid in (process.pid, *descendants):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    await process.wait()
    # The pipes are closed in a later turn of the loop.
    process._transport.close()  # type: ignore[attr-defined]
    await asyncio.sleep(0)
