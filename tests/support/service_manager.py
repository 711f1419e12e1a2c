"""systemd's part, played: the notification socket, and a listening socket that stays open between two lives."""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from moorline.gateway.common.web.listen import listen
from tests.support.process import Program, started_command
from tests.support.socket_folder import socket_folder

__all__ = ["Manager"]


class Manager:
    """Its notification socket, and the sockets that it passes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify_folder = socket_folder("notify-")
        self._notify_path = f"{self._notify_folder.name}/notify"
        self.notify.bind(self._notify_path)
        self.notify.setblocking(False)
        # Read as it comes: the kernel keeps ten messages at most.
        self._said = asyncio.Queue[str]()
        asyncio.get_running_loop().add_reader(
            self.notify, lambda: self._said.put_nowait(self.notify.recv(4096).decode())
        )
        (self.sock,) = listen("127.0.0.1", 0)
        self.port = self.sock.getsockname()[1]

    async def told_that(self, state: str) -> str:
        while state not in (said := await self._said.get()):
            pass
        return said

    def service(
        self, upstream: str, *options: str, streams: str = ""
    ) -> contextlib.AbstractAsyncContextManager[Program]:
        """One life of `moorline gateway`; `streams` are a shell's redirections."""
        return self.life("gateway", "--upstream", upstream, *options, streams=streams)

    @contextlib.asynccontextmanager
    async def life(self, *command: str, streams: str = "") -> AsyncIterator[Program]:
        """One life of a command of moorline's, as systemd executes it: the socket is descriptor 3."""
        script = f'exec 3<&"$1"; shift; export LISTEN_PID=$$; exec "$@" {streams}'
        moorline = (sys.executable, "-m", "moorline", *command)
        env = {
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "http",
            "NOTIFY_SOCKET": self._notify_path,
            "WATCHDOG_USEC": "2000000",
        }
        os.set_inheritable(self.sock.fileno(), True)
        arguments = ("bash", "-c", script, "bash", str(self.sock.fileno()), *moorline)
        async with started_command(*arguments, cwd=self._folder, env=env, pass_fds=[self.sock.fileno()]) as program:
            yield program

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.notify)
        self.notify.close()
        self.sock.close()
        self._notify_folder.cleanup()
