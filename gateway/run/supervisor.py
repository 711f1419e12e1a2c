"""A process of moorline that is kept alive: started again whenever it ends.

Parent and child are joined by a socket pair, see `gateway/common/supervised.py`. Its end of file tells the child to
end at once: at a restart, and when this process was killed, so that no orphan keeps the port and the database. SIGTERM
tells it to drain. Each is in a session and a process group of its own: Ctrl-C in a terminal reaches it through the
parent, once, and what is left of the group is killed when the child has ended.

A child that is silent for its `watchdog` hangs: it is stopped, or in a loop that does not end. Before it is ready the
limit is its `start_timeout`, which is longer: the event loop does not run while the user's modules are imported. It is
killed, and the next one starts.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Container, Iterator, Mapping

from moorline.gateway.common.config.units import format_duration
from moorline.gateway.common.program import USAGE_ERROR
from moorline.gateway.common.supervised import BEATS, END_SECONDS, SUPERVISOR, packed
from moorline.gateway.run.lifecycle import Event, State, after

__all__ = ["Child", "SpawnExtras", "Supervisor", "module_command"]

log = logging.getLogger("moorline.supervisor")

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 10.0
# A process that was ready and lived this long did not end because of its start: the next is not delayed for long.
_STABLE_AFTER = 10.0
# Until a process that takes another's place is ready: it may have a database to migrate.
_START_SECONDS = 60.0
# What a process gets beyond its own deadline before it is killed.
_KILL_AFTER = 2.0
# The same for one that waits for its last requests before it drains.
_LEAVE_AFTER = _KILL_AFTER + 3.0


@dataclasses.dataclass(frozen=True, slots=True)
class SpawnExtras:
    """What one life of a process gets beside what all its lives get."""

    descriptors: tuple[int, ...] = ()
    message: Mapping[str, object] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def _no_extras() -> Iterator[SpawnExtras]:
    yield SpawnExtras()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What is kept alive, and the callbacks for what becomes of it."""

    name: str
    """In log lines: `the backend`."""
    command: str
    message: Mapping[str, object]
    """What `Parent.receive` returns in the child: its settings."""
    environ: Mapping[str, str]
    drain: float
    on_ready: Callable[[Mapping[str, str]], None]
    """Called in each life with what it reports: once it is ready, and when that has changed."""
    on_failed_start: Callable[[], None] = lambda: None
    """Called when a life ends that was not asked to, and none has been ready yet."""
    spawn_context: Callable[[], contextlib.AbstractContextManager[SpawnExtras]] = _no_extras
    """Held around each life."""
    watchdog: float | None = None
    """Seconds without a sign of life, once it is ready, after which it is killed."""
    start_timeout: float | None = None
    """The same for the time until it is ready."""
    waits_for_changes: bool = False
    """After a start that failed the next waits for `restart`."""
    refusals: Container[int] = (USAGE_ERROR,)
    """Statuses of a process that was never ready, and that another start cannot help."""


def module_command(command: str) -> list[str]:
    """Arguments that run a command of moorline with this interpreter.

    `-P` keeps the current folder off the path, where the user may have a module with the name of a library.
    """
    return [sys.executable, "-P", "-m", "moorline", command]


class _Trial:
    """The first life of a process that takes the place of another one."""

    def __init__(self, before: Child) -> None:
        self.before = before
        self.is_ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.has_begun = False
        """False while the one before ends."""


class Supervisor:
    """Keeps one process alive. Only one exists at any time: the next starts when the last has ended."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._state = State.STARTING
        self._changed = asyncio.Event()
        self._was_ready = False
        self._drain = child.drain
        # Of the present life.
        self._is_ready = False
        self._process: Process | None = None
        self._connection: asyncio.StreamWriter | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._beat_at = 0.0
        self._trial: _Trial | None = None

    # Requests ---------------------------------------------------------------------------------------------------------

    async def replace(self, child: Child) -> bool:
        """Restart it as this one from now on. False: that ended before it was ready, or was not ready in time, and the
        one before is started again."""
        trial = self._trial = _Trial(self._child)
        self._become(child)
        self.restart()
        try:
            async with asyncio.timeout(_START_SECONDS):
                return await trial.is_ready
        except TimeoutError:
            log.error("%s was not ready within %gs", child.name, _START_SECONDS)
        self._trial = None
        self._become(trial.before)
        self.restart()
        return False

    def _become(self, child: Child) -> None:
        self._child, self._drain = child, child.drain

    def restart(self) -> None:
        """End the process without a drain and start another; where none lives, do not wait any longer."""
        if self._apply(Event.RESTART):
            self._tell()

    def stop(self, within: float | None = None) -> None:
        """Have the process drain, and start no other; kill it after so many seconds, or after its own `drain`."""
        if within is not None:
            self._drain = min(within, self._drain)
        if self._apply(Event.STOP):
            self._tell()

    def leave(self) -> None:
        """The process ends by itself, within its own `drain`, and no other is to be started."""
        if self._apply(Event.LEAVE):
            self._tell()

    def kill(self) -> None:
        """End the process now, and what it has started."""
        if self._process is not None:
            _kill_group(self._process)

    # Lives ------------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Return 0 once `stop` was called and the process is gone, or the status of one that refused its options."""
        clock = asyncio.get_running_loop().time
        status, delay = 0, _FIRST_DELAY
        while self._state is not State.STOPPED:
            if self._state is State.STARTING:
                began = clock()
                if self._trial is not None:
                    self._trial.has_begun = True
                status = await self._live()
                self._ended(status)
                if self._is_ready and clock() - began >= _STABLE_AFTER:
                    delay = _FIRST_DELAY
            elif self._state is State.BACKOFF:
                log.error("%s ended with status %d; starting it again in %gs", self._child.name, status, delay)
                await self._pause(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
            else:
                log.error("%s ended with status %d at its start; waiting for the next change", self._child.name, status)
                await self._pause(None)
        self._decide(is_ready=False)
        return status if self._refused(status) else 0

    def _refused(self, status: int) -> bool:
        return status in self._child.refusals and not self._was_ready

    def _ended(self, status: int) -> None:
        if self._trial is not None and self._trial.has_begun and self._state is State.STARTING:
            self._become(self._trial.before)
            self._decide(is_ready=False)
            self._apply(Event.ENDED)
        elif self._refused(status):
            self._apply(Event.REFUSED)
        elif self._child.waits_for_changes and self._state is State.STARTING:
            self._apply(Event.BROKEN)
        else:
            self._apply(Event.ENDED)
        if not self._was_ready and self._state in (State.BACKOFF, State.WAITING_FOR_CHANGE):
            self._child.on_failed_start()

    def _decide(self, *, is_ready: bool) -> None:
        if self._trial is not None:
            if not self._trial.is_ready.done():
                self._trial.is_ready.set_result(is_ready)
            self._trial = None

    def _apply(self, event: Event) -> bool:
        """Whether this is another state: a second request must not signal the process again."""
        before, self._state = self._state, after(self._state, event)
        self._changed.set()
        return self._state is not before

    async def _pause(self, seconds: float | None) -> None:
        """Wait until the state changes, or for so long."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            self._apply(Event.DELAY_OVER)

    # The process ------------------------------------------------------------------------------------------------------

    async def _live(self) -> int:
        """One life of the process; its exit status."""
        try:
            with self._child.spawn_context() as extras:
                ours, process = await self._spawn(extras)
                try:
                    return await self._attend(ours, process, extras)
                finally:
                    self._forget()
                    _kill_group(process)
                    await process.wait()
        except OSError as error:
            # The system has no process or descriptor left.
            log.error("%s: %s", self._child.name, error)
            return 1

    async def _spawn(self, extras: SpawnExtras) -> tuple[socket.socket, Process]:
        """The parent's end of the socket pair, and the process at the other."""
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            try:
                process = await asyncio.create_subprocess_exec(
                    *module_command(self._child.command),
                    env={**self._child.environ, SUPERVISOR: str(number)},
                    stdin=DEVNULL,
                    pass_fds=[number, *extras.descriptors],
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return ours, process

    async def _attend(self, ours: socket.socket, process: Process, extras: SpawnExtras) -> int:
        self._process, self._is_ready = process, False
        reader, self._connection = await asyncio.open_connection(sock=ours)
        limits = {"watchdog": self._child.watchdog, "start_timeout": self._child.start_timeout}
        self._connection.write(packed({**self._child.message, **extras.message, **limits}))
        # A request that came while the process was being started.
        self._tell()
        self._beat_at = asyncio.get_running_loop().time()
        watching = asyncio.create_task(self._watch(self._child.start_timeout, " at its start (start_timeout)"))
        try:
            # Reset, not end of file, where it ended without having read the message.
            with contextlib.suppress(ConnectionError):
                async for line in reader:
                    self._beat_at = asyncio.get_running_loop().time()
                    if line != b"\n":
                        self._report(json.loads(line))
                        if not self._is_ready:
                            self._is_ready = True
                            watching.cancel()
                            watching = asyncio.create_task(self._watch(self._child.watchdog))
        finally:
            watching.cancel()
        # It drains, or has ended; also one that was told so by another process than this one has so much time.
        if self._kill_timer is None:
            self._kill_after(self._drain + _KILL_AFTER)
        return await process.wait()

    async def _watch(self, seconds: float | None, when: str = "") -> None:
        """Kill the process when it has been silent for so long."""
        clock = asyncio.get_running_loop().time
        while seconds is not None:
            looked = clock()
            await asyncio.sleep(seconds / BEATS)
            if clock() - looked > 2 * seconds / BEATS:
                # This process was stopped or busy itself, and has not read what came meanwhile.
                self._beat_at = clock()
            elif clock() - self._beat_at > seconds:
                silence = format_duration(seconds)
                log.error("%s has given no sign of life for %s%s: killing it", self._child.name, silence, when)
                self.kill()
                return

    def _report(self, facts: Mapping[str, str]) -> None:
        if self._apply(Event.READY) and self._was_ready:
            log.info("%s is up again", self._child.name)
        self._was_ready = True
        if self._state is State.UP:
            self._decide(is_ready=True)
        self._child.on_ready(facts)

    def _tell(self) -> None:
        """Tell the process what its state asks of it."""
        if self._connection is None:
            return
        if self._state is State.STOPPING:
            self._signal(signal.SIGTERM)
            self._kill_after(self._drain + _KILL_AFTER)
        elif self._state is State.LEAVING:
            self._kill_after(self._drain + _LEAVE_AFTER)
        elif self._state is State.RESTARTING:
            self._connection.close()
            self._kill_after(END_SECONDS)

    def _forget(self) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = self._kill_timer = None

    def _kill_after(self, seconds: float) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        self._kill_timer = asyncio.get_running_loop().call_later(seconds, self.kill)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            # The process may have ended and its end not been noticed here yet.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


def _kill_group(process: Process) -> None:
    """A process that has ended was the leader of its group, whose id is not given again while a member lives."""
    # PermissionError is macOS's, for a group of which only the ended leader is left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
