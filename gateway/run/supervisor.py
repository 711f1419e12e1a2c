"""A process of ours that is kept alive: started again whenever it ends.

Parent and child are joined by a socket pair. The child reports in one line of JSON that it is ready. Its end of file
tells the child to end at once: at a reload, and when this process was killed, so that no orphan keeps the port and the
database. SIGTERM tells it to drain. The child is in a session of its own: Ctrl-C in a terminal reaches it through us,
once. It gets its options in variables, because a list of processes shows arguments, and a database's address may hold
a password.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Iterator, Mapping

from moorline.gateway.common.config.commandline import SUPERVISOR, USAGE_ERROR, module_command

__all__ = ["Child", "Equipment", "Supervisor"]

log = logging.getLogger("moorline.supervisor")

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 10.0
# A process that lived this long did not die of its start: the next one is tried soon again.
_STABLE_AFTER = 10.0
# What a process gets beyond its own deadline before it is killed.
_KILL_AFTER = 2.0


@contextlib.contextmanager
def _nothing() -> Iterator["Equipment"]:
    yield Equipment()


@dataclasses.dataclass(frozen=True, slots=True)
class Equipment:
    """What one life of a process inherits beside its options."""

    descriptors: tuple[int, ...] = ()
    variables: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What is kept alive, and who hears of it."""

    name: str
    """In log lines: `the backend`."""
    command: str
    environ: Mapping[str, str]
    drain: float
    on_ready: Callable[[Mapping[str, str]], None]
    """Called in each life, once it is ready, with what it reports."""
    on_failed_start: Callable[[], None] = lambda: None
    """Called when its very first life ends before it is ready."""
    equipped: Callable[[], contextlib.AbstractContextManager[Equipment]] = _nothing
    """Held around each life."""
    waits_for_changes: bool = False
    """After a start that failed the next waits for `restart`."""


class Supervisor:
    """Keeps one process alive. Only one exists at any time: the next starts when the last is gone."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._process: Process | None = None
        self._lifeline: asyncio.StreamWriter | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._was_ready = False
        self._is_ready = False
        self._failed_start = False
        self._stopping = asyncio.Event()
        self._restarting = False
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        """Return 0 once `stop` was called and the process is gone, or the status of one that refused its options."""
        clock = asyncio.get_running_loop().time
        delay = _FIRST_DELAY
        while True:
            began = clock()
            try:
                status = await self._live()
            except OSError as error:
                # The system has no process or descriptor left, or cut the line.
                log.error("%s: %s", self._child.name, error)
                status = 1
            if self._stopping.is_set():
                return 0
            if status == USAGE_ERROR and not self._was_ready:
                return USAGE_ERROR
            if clock() - began >= _STABLE_AFTER:
                delay = _FIRST_DELAY
            if not self._restarting:
                await self._pause(status, delay)
                delay = min(2 * delay, _LONGEST_DELAY)
            if self._stopping.is_set():
                return 0
            self._restarting = False
            self._hurry.clear()

    async def _pause(self, status: int, delay: float) -> None:
        """Wait before the next life; until a source changes where that alone can help."""
        if not self._was_ready and not self._failed_start:
            self._failed_start = True
            self._child.on_failed_start()
        name = self._child.name
        if self._child.waits_for_changes and not self._is_ready:
            log.error("%s ended with status %d at its start; waiting for the next change", name, status)
            await self._hurry.wait()
            return
        log.error("%s ended with status %d; starting it again in %gs", name, status, delay)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), delay)

    def restart(self) -> None:
        """End the process without a drain and start another; where none lives, do not wait any longer."""
        self._restarting = True
        self._hurry.set()
        if self._lifeline is not None:
            self._lifeline.close()
            self._kill_after(_KILL_AFTER)

    def stop(self) -> None:
        """Have the process drain, and start no other."""
        self._stopping.set()
        self._hurry.set()
        self._signal(signal.SIGTERM)
        self._kill_after(self._child.drain + _KILL_AFTER)

    def kill(self) -> None:
        """End the process now."""
        self._signal(signal.SIGKILL)

    async def _live(self) -> int:
        """One life of the process; its exit status."""
        self._is_ready = False
        with self._child.equipped() as equipment:
            ours, self._process = await self._start(equipment)
            process = self._process
            try:
                reader, self._lifeline = await asyncio.open_connection(sock=ours)
                if self._stopping.is_set():
                    # Asked to while the process was being started.
                    self._signal(signal.SIGTERM)
                if line := await reader.readline():
                    self._report(json.loads(line))
                return await process.wait()
            finally:
                self._forget()
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    async def _start(self, equipment: Equipment) -> tuple[socket.socket, Process]:
        """Our end of the line, and the process at the other."""
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            variables = {**self._child.environ, **equipment.variables, SUPERVISOR: str(number)}
            try:
                process = await asyncio.create_subprocess_exec(
                    *module_command(self._child.command),
                    env=variables,
                    stdin=DEVNULL,
                    pass_fds=[number, *equipment.descriptors],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return ours, process

    def _report(self, facts: Mapping[str, str]) -> None:
        self._is_ready = True
        if self._was_ready:
            log.info("%s is back", self._child.name)
        self._was_ready = True
        self._child.on_ready(facts)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._lifeline is not None:
            self._lifeline.close()
        self._process = self._lifeline = self._deadline = None

    def _kill_after(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self.kill)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            # The process may be gone while its end has not been noticed here.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)
