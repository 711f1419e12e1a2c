"""Restarts under handshakes: `python -m tests.bench restarts [--restarts N] [--rate N] [--workers N]`.

A service manager's part is played: it holds the listening socket and ends and starts the gateway again and again, while
clients open sockets at a steady rate. A connection that comes between two lives waits in the listening socket. None may
be refused: each handshake has to end with 101, in whatever life of the gateway.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic

import uvloop

from tests.bench.processes import raise_file_limit
from tests.support.faulty_upstream import HANDSHAKE, SWITCH
from tests.support.service_manager import Manager

__all__ = ["Dialling", "main", "measure"]

_FILES = 1 << 16
# A client that was not answered by then is counted as refused.
_PATIENCE = 30.0


class Dialling:
    """Clients that open so many sockets a second."""

    def __init__(self, port: int, rate: float) -> None:
        self.rate = rate
        self.count = 0
        """Handshakes that have begun."""
        self.seconds: list[float] = []
        """Of each that was answered with 101."""
        self.refused: list[str] = []
        """What the others have got instead."""
        self._port = port

    async def run(self) -> None:
        """Open them until cancelled; then wait for those under way."""
        async with asyncio.TaskGroup() as group:
            began = monotonic()
            try:
                while True:
                    for _ in range(int((monotonic() - began) * self.rate) - self.count):
                        group.create_task(self._one())
                        self.count += 1
                    await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                # Those under way are answered by the last life.
                pass

    async def answered(self, more: float) -> None:
        """Return when all that have begun are answered, and so many more."""
        due = self.count + more
        while len(self.seconds) + len(self.refused) < due:  # noqa: ASYNC110 - thousands of them
            await asyncio.sleep(0.01)

    async def _one(self) -> None:
        began = monotonic()
        try:
            async with asyncio.timeout(_PATIENCE):
                status = await _handshake(self._port)
        except (OSError, EOFError, TimeoutError) as error:
            status = type(error).__name__
        if status == "101":
            self.seconds.append(monotonic() - began)
        else:
            self.refused.append(f"{status} after {monotonic() - began:.0f}s")


async def measure(restarts: int, rate: float, workers: int = 1) -> Dialling:
    """Run it; what the clients have seen."""
    raise_file_limit(_FILES)
    upstream = await asyncio.start_server(_switch, "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"
    options = ("--log-level=warning", "--drain=1s", "--max-connections-per-address=off", f"--workers={workers}")
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        manager = Manager(Path(folder))
        try:
            clients = Dialling(manager.port, rate)
            dialling = asyncio.create_task(clients.run())
            for _ in range(restarts + 1):
                async with manager.service(url, *options) as program:
                    await manager.told_that("READY=1")
                    # Those that waited for this life, and half a second of new ones.
                    await clients.answered(more=rate / 2)
                    await program.stop()
            # The last connections wait for a life that answers them.
            async with manager.service(url, *options):
                dialling.cancel()
                await asyncio.gather(dialling, return_exceptions=True)
        finally:
            manager.close()
    upstream.close()
    return clients


async def _handshake(port: int) -> str:
    """The status; the socket is closed at once, as the restart would do it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(HANDSHAKE)
        return (await reader.readuntil(b"\r\n\r\n")).split(maxsplit=2)[1].decode()
    finally:
        writer.close()


async def _switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The upstream: each handshake is answered, and what follows is read."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCH)
        while await reader.read(1 << 16):
            pass
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench restarts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--restarts", type=int, default=50)
    parser.add_argument("--rate", type=float, default=300.0, help="handshakes a second")
    parser.add_argument("--workers", type=int, default=1, help="of the gateway")
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(given.restarts, given.rate, given.workers))
    print(f"restarts {given.restarts}, handshakes {len(result.seconds)} at {given.rate:g}/s")
    print(f"refused {len(result.refused)}, must be 0; {' '.join(sorted(set(result.refused)))}")
    if len(result.seconds) > 1:
        percentile = statistics.quantiles(result.seconds, n=100)
        print(f"handshake: median {percentile[49] * 1e3:.0f} ms, 99th percentile {percentile[98] * 1e3:.0f} ms")
    return 1 if result.refused else 0
