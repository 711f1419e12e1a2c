"""Processes of moorline's that are killed, stopped and started again on the port that they had."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

__all__ = ["Service", "free_port"]

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0


def free_port() -> int:
    """A free port. Another program may take it first; the service then says so and ends."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Service:
    """`moorline command arguments…` with a port of its own; what it prints goes to a file."""

    def __init__(
        self,
        name: str,
        folder: Path,
        command: str,
        arguments: Sequence[str],
        env: Mapping[str, str],
        *,
        module: str = "moorline",
    ) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"{name}.log"
        self._folder = folder
        self._command = [sys.executable, "-m", module, command, *arguments, "--port", str(self.port)]
        self._env = {**os.environ, **env}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, *, path: str = "/healthz") -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=self._folder, env=self._env, stdout=output, stderr=output
            )
        async with asyncio.timeout(_START_SECONDS), aiohttp.ClientSession() as client:
            while True:
                if self._process.returncode is not None:
                    raise RuntimeError(f"{self.name} ended with {self._process.returncode}: see {self.log}")
                try:
                    async with client.get(self.address + path) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "it was started"
        return self._process.pid

    async def kill(self) -> None:
        """kill -9, also of one that is stopped."""
        self.send(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.send(signal.SIGTERM)
        return await self._ended()

    def send(self, number: int) -> None:
        """Signal it, if it is there."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _ended(self) -> int:
        if self._process is None:
            return 0
        try:
            return await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()
