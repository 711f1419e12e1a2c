"""A command of the user's as `serve` runs it: `--frontend-command` and `--backend-command`.

This is the process between `serve`, which supervises it, and the command. It is the leader of the process group that
the command runs in, so that one signal reaches all that the command has started: `npm run dev` is npm, a shell and
node. When the connection to `serve` ends, as it does when `serve` is killed, it kills the group and itself with it;
Linux's parent-death signal would reach the shell alone.

It reports the command as ready with the address at which that serves: the one that is announced in its output, or the
one that it was given, as soon as that accepts connections. A command that takes long is named in a line of the log, and
goes on: it may install or compile something first.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

from moorline.gateway.common import logs
from moorline.gateway.common.config.settings import CommonSettings
from moorline.gateway.common.config.units import format_duration
from moorline.gateway.common.loop import run
from moorline.gateway.common.supervised import Parent, ParentConnection
from moorline.gateway.run.announced import announced_address, port_of, without_colours, without_controls

__all__ = ["NOT_FOUND", "UserCommand", "listens", "run_command"]

log = logging.getLogger("moorline.serve")

#: What a shell ends with where a program cannot be run, or is not there.
NOT_FOUND = (126, 127)

_POLL_SECONDS = 0.25
# A connection to this machine; what takes longer does not accept any.
_CONNECT_SECONDS = 1.0
# Of a line without an end.
_LONGEST_LINE = 64 << 10
_CHUNK = 64 << 10
# For the last lines of a command that has ended, where another process still holds its output.
_LAST_OUTPUT_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class UserCommand:
    """What is to be run, in the current folder. Pickled on its way to the process that runs it."""

    option: str
    """`frontend_command`, for the user to find it again."""
    label: str
    """Before each line of its output: `frontend`."""
    line: str
    """As a shell reads it."""
    address: str
    """Where it is expected to serve: `http://localhost:3000`."""
    follows_output: bool
    """Whether an address that it announces counts instead."""
    log_format: str
    patience: float = 30.0
    """Seconds until it is said that it does not listen."""


def run_command(parent: Parent) -> int:
    """Run the command until it ends, a SIGTERM, or the end of the parent; the command's exit status."""
    command: UserCommand = parent.receive()["command"]
    logs.setup(CommonSettings(log_format=command.log_format))
    return run(_run(parent, command))


async def _run(parent: Parent, command: UserCommand) -> int:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with parent.connected() as connection:
        process = await asyncio.create_subprocess_shell(
            command.line,
            # Never written to, and open for as long as this process lives: tools that are told to end with their input
            # do so with it, and not at once.
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
        )
        output = _Output(command, connection)
        copying = asyncio.create_task(output.copy(process))
        polling = asyncio.create_task(output.poll())
        try:
            status = await _ended(process, stop, connection, copying)
        finally:
            polling.cancel()
            copying.cancel()
    if status in NOT_FOUND and not output.is_ready:
        print(_not_found(command, status), file=sys.stderr)
    return status if status >= 0 else 128 - status


async def _ended(
    process: Process, stop: asyncio.Event, connection: ParentConnection, copying: "asyncio.Task[None]"
) -> int:
    """The status of the command, once it has ended and its output was copied."""
    exited, stopped = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stop.wait())
    await asyncio.wait([exited, stopped, connection.closed], return_when=asyncio.FIRST_COMPLETED)
    if stopped.done():
        # This process is a member, too, and has set its handler.
        os.killpg(0, signal.SIGTERM)
        # The shell may end before what it started. All of them hold the output; `serve` bounds the wait.
        finished = asyncio.create_task(asyncio.wait([exited, copying]))
        await asyncio.wait([finished, connection.closed], return_when=asyncio.FIRST_COMPLETED)
    if connection.closed.done():
        os.killpg(0, signal.SIGKILL)
    stopped.cancel()
    status = await exited
    await asyncio.wait([copying], timeout=_LAST_OUTPUT_SECONDS)
    return status


def _not_found(command: UserCommand, status: int) -> str:
    return (
        f'moorline: {command.option}: "{command.line}" ended with status {status}: '
        "a program was not found; install it, or correct the command"
    )


class _Output:
    """The command's output on this process's stderr, and what is reported of it."""

    def __init__(self, command: UserCommand, connection: ParentConnection) -> None:
        self._command = command
        self._connection = connection
        self._reported = ""
        self._log = logging.getLogger(f"moorline.{command.label}")
        self._shown = without_controls if sys.stderr.isatty() else without_colours

    @property
    def is_ready(self) -> bool:
        return bool(self._reported)

    async def copy(self, process: Process) -> None:
        """Copy all of it, each line with its label."""
        assert process.stdout is not None
        async for lines in _lines(process.stdout):
            for line in lines:
                if (address := announced_address(line)) is not None:
                    self._announced(address)
            # In a thread: a terminal that is stopped must not keep this process from ending the command.
            await asyncio.to_thread(self._write, lines)

    async def poll(self) -> None:
        """Report the expected address as soon as it accepts connections."""
        if await listens(self._command, lambda: self.is_ready):
            self._report(self._command.address)

    def _announced(self, address: str) -> None:
        if self._command.follows_output:
            self._report(address)
        elif port_of(address) != port_of(self._command.address):
            log.warning(
                "%s: it serves at %s, and moorline expects it at %s",
                self._command.option,
                address,
                self._command.address,
            )

    def _report(self, address: str) -> None:
        if address != self._reported:
            self._reported = address
            self._connection.report({"address": address})

    def _write(self, lines: list[str]) -> None:
        if self._command.log_format == "json":
            for line in lines:
                self._log.info("%s", without_colours(line))
            return
        # A reader that has gone does not end the command.
        with contextlib.suppress(OSError):
            sys.stderr.write("".join(f"{self._command.label} | {self._shown(line)}\n" for line in lines))
            sys.stderr.flush()


async def listens(command: UserCommand, is_known: Callable[[], bool]) -> bool:
    """Wait until the command accepts connections at its address (True), or `is_known` where it serves."""
    parts = urlsplit(command.address)
    # As the gateway connects: a hosts file may name one of the two for localhost.
    hosts = (parts.hostname, "::1") if parts.hostname == "localhost" else (parts.hostname,)
    clock = asyncio.get_running_loop().time
    began, is_told = clock(), False
    while not is_known():
        for host in hosts:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_CONNECT_SECONDS):
                    _, writer = await asyncio.open_connection(host, port_of(command.address))
                writer.close()
                return True
        if not is_told and clock() - began >= command.patience:
            is_told = True
            log.warning(
                '%s: nothing listens at %s after %s: have "%s" listen there, or give its address as %s',
                command.option,
                command.address,
                format_duration(command.patience),
                command.line,
                "frontend" if command.option == "frontend_command" else "upstream",
            )
        await asyncio.sleep(_POLL_SECONDS)
    return False


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[list[str]]:
    """The lines of a stream as they come. One that is too long, or the last, may be without an end."""
    rest = b""
    while data := await stream.read(_CHUNK):
        *lines, rest = (rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines.append(rest)
            rest = b""
        if lines:
            yield [line.decode(errors="replace") for line in lines]
    if rest:
        yield [rest.decode(errors="replace")]
