"""`moorline serve`: the gateway in this process and the backend in another, started again whenever it ends.

Parent and child are joined by a socket pair. The child reports in one line of JSON that it is ready. Its end of file
tells the child to end at once: at a reload, and when this process was killed, so that no orphan keeps the port and the
database. SIGTERM tells it to drain. The child is in a session of its own: Ctrl-C in a terminal reaches it through us,
once. It gets its options in variables, because a list of processes shows arguments, and a database's address may hold
a password.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Mapping

from gateway import server
from gateway.common.commandline import SUPERVISOR, USAGE_ERROR, sibling, start_block
from gateway.common.server import stop_signals
from gateway.reload import changes
from gateway.settings import Settings

__all__ = ["Supervisor", "serve"]

log = logging.getLogger("moorline.serve")

_FIRST_DELAY = 0.25
_LONGEST_DELAY = 10.0
# A backend that lived this long did not die of its start: the next one is tried soon again.
_STABLE_AFTER = 10.0
# What a backend gets beyond its own deadline before it is killed.
_KILL_AFTER = 2.0


async def serve(settings: Settings, environ: Mapping[str, str], *, reload: bool = False) -> int:
    """Run gateway and backend until SIGTERM or SIGINT; the exit status. `environ` is the backend's."""

    def ready(facts: Mapping[str, str]) -> None:
        print(start_block({"page": server.page(settings, started), **facts}), flush=True)

    supervisor = Supervisor(environ, drain=settings.drain, on_ready=ready, waits_for_changes=reload)
    with stop_signals(before_exit=supervisor.kill) as stop:
        async with server.running(settings, backend_ends_too=True) as started, asyncio.TaskGroup() as tasks:
            stopped = tasks.create_task(stop.wait())
            watching = tasks.create_task(_reload(supervisor)) if reload else None
            supervising = tasks.create_task(supervisor.run())
            await asyncio.wait([stopped, supervising], return_when=asyncio.FIRST_COMPLETED)
            # Both parts drain at the same time, the gateway as this block is left.
            started.drain()
            supervisor.stop()
            for task in (stopped, watching):
                if task is not None:
                    task.cancel()
    return supervising.result()


async def _reload(supervisor: "Supervisor") -> None:
    async for path in changes():
        log.info("%s changed; starting the backend again", path)
        supervisor.restart()


class Supervisor:
    """Keeps one backend process alive. Only one exists at any time: the next starts when the last is gone."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        drain: float,
        on_ready: Callable[[Mapping[str, str]], None],
        waits_for_changes: bool = False,
    ) -> None:
        self._environ = environ
        self._drain = drain
        self._on_ready = on_ready
        self._process: Process | None = None
        self._lifeline: asyncio.StreamWriter | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._waits_for_changes = waits_for_changes
        self._was_ready = False
        self._is_ready = False
        self._announced = False
        self._stopping = False
        self._restarting = False
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        """Return 0 once `stop` was called and the process is gone, or the status of one that refused its options."""
        clock = asyncio.get_running_loop().time
        delay = _FIRST_DELAY
        while True:
            began = clock()
            status = await self._live()
            if self._stopping:
                return 0
            if status == USAGE_ERROR and not self._was_ready:
                return USAGE_ERROR
            if clock() - began >= _STABLE_AFTER:
                delay = _FIRST_DELAY
            if not self._restarting:
                await self._pause(status, delay)
                delay = min(2 * delay, _LONGEST_DELAY)
            self._restarting = False
            self._hurry.clear()

    async def _pause(self, status: int, delay: float) -> None:
        """Wait before the next life; until a source changes where that alone can help."""
        if not self._announced:
            # Somebody who starts with a broken source wants to know all the same where the page will be.
            self._announced = True
            self._on_ready({"backend": "it did not start; its own lines say why"})
        if self._waits_for_changes and not self._is_ready:
            log.error("the backend ended with status %d at its start; waiting for the next change", status)
            await self._hurry.wait()
            return
        log.error("the backend ended with status %d; starting it again in %gs", status, delay)
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
        self._stopping = True
        self._hurry.set()
        self._signal(signal.SIGTERM)
        self._kill_after(self._drain + _KILL_AFTER)

    def kill(self) -> None:
        """End the process now."""
        self._signal(signal.SIGKILL)

    async def _live(self) -> int:
        """One life of the process; its exit status."""
        self._is_ready = False
        ours, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            arguments, environ = sibling("backend", {**self._environ, SUPERVISOR: str(number)})
            self._process = await asyncio.create_subprocess_exec(
                *arguments, env=environ, stdin=DEVNULL, pass_fds=[number], start_new_session=True
            )
        process = self._process
        try:
            reader, self._lifeline = await asyncio.open_connection(sock=ours)
            if self._stopping:
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

    def _report(self, facts: Mapping[str, str]) -> None:
        self._is_ready = True
        if self._was_ready:
            log.info("the backend is back")
        else:
            self._was_ready = self._announced = True
            self._on_ready(facts)

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
