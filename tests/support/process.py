"""Real `python -m …` processes: started in a folder of their own, read line by line, ended by their ids."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

__all__ = [
    "PYTHONPATH",
    "ROOT",
    "Program",
    "children",
    "gone",
    "processes",
    "refused",
    "run_program",
    "started",
    "started_command",
]

ROOT = Path(__file__).parents[2]
# `moorline`, wherever it is installed, and `tests`.
PYTHONPATH = os.pathsep.join([str(ROOT / ".package"), str(ROOT)])
# Two busy cores and the import of a large library; nothing waits for this long where it works.
PATIENCE = 45.0


class Program:
    """A running process and what it has printed."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._printed = asyncio.Condition()
        # A line a request: to join them at each would cost a test of thousands more than what it measures.
        self._out: list[str] = []
        self._err: list[str] = []
        streams = ((process.stdout, self._out), (process.stderr, self._err))
        self._readers = [asyncio.create_task(self._read(stream, lines)) for stream, lines in streams]

    @property
    def pid(self) -> int:
        """The id to signal or to look up children by."""
        return self._process.pid

    @property
    def out(self) -> str:
        """What it has written to standard output."""
        return "".join(self._out)

    @property
    def err(self) -> str:
        """What it has written to standard error."""
        return "".join(self._err)

    async def page(self) -> str:
        """Scheme, host and port of the gateway, from its start block or, with `log_format=json`, its first object."""
        found = re.search(r"https?://[^\s\"/]+", await self.line("page", "://"))
        assert found is not None
        return found[0]

    async def line(self, *words: str, patience: float = PATIENCE) -> str:
        """The first line on either stream, past ones included, that has all these words."""
        async with asyncio.timeout(patience), self._printed:
            while True:
                for line in (self.out + self.err).splitlines():
                    if all(word in line for word in words):
                        return line
                if all(reader.done() for reader in self._readers):
                    raise AssertionError(f"ended without a line with {words}:\n{self.out}\n{self.err}")
                await self._printed.wait()

    async def lines(self, words: str, count: int) -> None:
        """Return when these words were printed so many times."""
        async with asyncio.timeout(PATIENCE), self._printed:
            await self._printed.wait_for(lambda: (self.out + self.err).count(words) >= count)

    def send(self, number: int) -> None:
        """Send a signal to this process alone."""
        self._process.send_signal(number)

    async def ended(self, patience: float = PATIENCE) -> int:
        """Its exit status, once it has ended and all it printed has been read."""
        async with asyncio.timeout(patience):
            await asyncio.gather(*self._readers)
            return await self._process.wait()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait for its end."""
        self.send(number)
        return await self.ended()

    async def _read(self, stream: asyncio.StreamReader | None, lines: list[str]) -> None:
        assert stream is not None
        while line := await stream.readline():
            async with self._printed:
                lines.append(line.decode())
                self._printed.notify_all()
        async with self._printed:
            self._printed.notify_all()

    async def _end(self) -> None:
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), PATIENCE)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        # The transport closes its pipes in a later turn of the loop; a warning would tell on it otherwise.
        self._process._transport.close()  # type: ignore[attr-defined]
        await asyncio.sleep(0)


@asynccontextmanager
async def started(
    module: str,
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    files: int | None = None,
    under: Sequence[str] = (),
) -> AsyncIterator[Program]:
    """`python -m module arguments…` as a `started_command`.

    `files`: so many descriptors and no more. `under`: a command that runs it.
    """
    limited = [] if files is None else ["bash", "-c", f'ulimit -n {files}; exec "$@"', "bash"]
    command = (*under, *limited, sys.executable, "-m", module, *arguments)
    async with started_command(*command, cwd=cwd, env=env) as program:
        yield program


@asynccontextmanager
async def started_command(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
) -> AsyncIterator[Program]:
    """A command in the folder `cwd`, without options or keys of the person who runs the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MOORLINE_", "OPENAI_"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        stdout=PIPE,
        stderr=PIPE,
        pass_fds=pass_fds,
        env={**inherited, "PYTHONPATH": PYTHONPATH, "COLUMNS": "100", **(env or {})},
    )
    program = Program(process)
    try:
        yield program
    finally:
        await program._end()


async def run_program(
    module: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, patience: float = PATIENCE
) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a process that ends by itself."""
    async with started(module, *arguments, cwd=cwd, env=env) as program:
        status = await program.ended(patience)
        return status, program.out, program.err


async def refused(*arguments: str, cwd: Path) -> str:
    """The one line with which a start of `moorline` is refused."""
    status, out, err = await run_program("moorline", *arguments, cwd=cwd)
    assert (status, out) == (2, "")
    assert err.startswith("moorline: ")
    assert err.count("\n") == 1, err
    return err.removeprefix("moorline: ").rstrip()


def processes(columns: str) -> list[str]:
    """This machine's processes, one a line."""
    return subprocess.run(
        ["ps", "-A", "-o", columns], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout.splitlines()


def children(pid: int, words: str = "") -> list[int]:
    """The processes that this one started, oldest first; those with `words` in their arguments."""
    found = [line.split(maxsplit=2) for line in processes("pid=,ppid=,args=")]
    # A process that has been forked has its parent's arguments until it executes its own program.
    forked = [args for process, _, *args in found if int(process) == pid]
    return sorted(
        int(child)
        for child, parent, *args in found
        if int(parent) == pid and words in "".join(args) and args not in forked
    )


async def gone(pid: int) -> None:
    """Return when no process has this id: only its parent is notified, so it is polled."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return
            await asyncio.sleep(0.02)
