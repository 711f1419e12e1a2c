"""Upgrades under open sockets: `python -m tests.bench handover [--tunnels N] [--upgrades N]`.

A real gateway is upgraded by SIGUSR2 again and again, while every tunnel carries one endless stream to a server that
sends it back. A tunnel sends its next piece when the last one has come back whole, and half of all pieces end within a
frame. What comes back is compared byte by byte, so that one that is lost, doubled or changed is found on its tunnel. A
pause is the time of a piece there and back that was sent while the tunnels were handed over.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import re
import signal
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import monotonic
from typing import cast

import uvloop

from tests.bench.processes import raise_file_limit
from tests.support.faulty_upstream import HANDSHAKE, SWITCH
from tests.support.process import Program, started
from tests.support.websocket_frames import BINARY, frame

__all__ = ["Result", "main", "measure"]

_FRAMES = [frame(BINARY, bytes([number % 256]) * (number * 37 % 900), key=b"mask") for number in range(500)]
# Longer than a piece, so that a slice of it wraps around: into the first frame.
_STREAM = b"".join(_FRAMES)
# Where a stream may begin.
_BOUNDARIES = list(itertools.accumulate(map(len, _FRAMES), initial=0))[:-1]
_PIECE = 700
_FILES = 1 << 16
_DIALLING = 64
_DONE = "the new processes serve"
# Until a line of the log is read here.
_READ_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """What the tunnels have seen."""

    tunnels: int
    closed: int
    damaged: int
    """Streams in which a byte is missing, doubled or changed."""
    pieces: int
    pauses: Sequence[float]
    """Seconds."""

    @property
    def pause_p99(self) -> float:
        return statistics.quantiles(self.pauses, n=100)[98] if len(self.pauses) > 1 else 0.0


class _Echo(asyncio.Protocol):
    """The upstream: bytes come back as they are."""

    def __init__(self) -> None:
        self._head = b""
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._open:
            self._transport.write(data)
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._open = True
            self._transport.write(SWITCH)


class _Tunnel(asyncio.Protocol):
    """One client."""

    def __init__(self, number: int) -> None:
        self.opened = asyncio.Event()
        self.closed = self.damaged = False
        self.pieces = 0
        self.round_trips: list[tuple[float, float]] = []
        """When each piece was sent, and the seconds until it had come back."""
        self._head = b""
        # An odd tunnel's pieces end within a frame, as good as always.
        self._size = _PIECE + number % 2 * 13
        self._at = _BOUNDARIES[number * 7 % len(_BOUNDARIES)]
        self._expected = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        if not self.opened.is_set():
            self._head += data
            if b"\r\n\r\n" in self._head:
                self.opened.set()
            return
        if not self._expected.startswith(data):
            self.damaged = True
        self._expected = self._expected[len(data) :]
        if not self._expected:
            self.round_trips.append((self._sent_at, monotonic() - self._sent_at))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    @property
    def is_waiting(self) -> bool:
        return bool(self._expected)

    def send(self) -> None:
        """The next piece, if the last one has come back."""
        if self.closed or self._expected:
            return
        self._expected = (_STREAM[self._at :] + _STREAM)[: self._size]
        self._at = (self._at + self._size) % len(_STREAM)
        self._sent_at = monotonic()
        self.pieces += 1
        self._transport.write(self._expected)

    def close(self) -> None:
        self._transport.abort()


@contextlib.asynccontextmanager
async def _tunnels(port: int, count: int) -> AsyncIterator[list[_Tunnel]]:
    loop, dialling = asyncio.get_running_loop(), asyncio.Semaphore(_DIALLING)

    async def one(number: int) -> _Tunnel:
        async with dialling:
            _, tunnel = await loop.create_connection(lambda: _Tunnel(number), "127.0.0.1", port)
            await tunnel.opened.wait()
            return tunnel

    tunnels = await asyncio.gather(*map(one, range(count)))
    try:
        yield tunnels
    finally:
        for tunnel in tunnels:
            tunnel.close()


async def _send(tunnels: Sequence[_Tunnel], rate: float) -> None:
    """So many pieces a second, from each in turn."""
    began, sent = monotonic(), 0
    while True:
        for _ in range(int((monotonic() - began) * rate) - sent):
            tunnels[sent % len(tunnels)].send()
            sent += 1
        await asyncio.sleep(0.005)


async def measure(tunnels: int, upgrades: int, *, rate: float = 1000.0) -> Result:
    """Run it."""
    raise_file_limit(_FILES)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Echo, "127.0.0.1", 0, backlog=1024)
    upstream = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    options = ("--host", "127.0.0.1", "--port", "0", "--upstream", upstream, "--log-level", "info", "--drain", "2s")
    pauses: list[float] = []
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as folder:
        async with started("moorline", "gateway", *options, cwd=Path(folder)) as program:
            port = int((await program.page()).rpartition(":")[2])
            async with _tunnels(port, tunnels) as opened:
                sending = asyncio.create_task(_send(opened, rate))
                for number in range(upgrades):
                    program.send(signal.SIGUSR2)
                    await program.lines(_DONE, number + 1)
                    # The processes start first; the hand-over is the last of it.
                    begin = monotonic() - _seconds(program) - _READ_SECONDS
                    pauses += [took for each in opened for sent, took in each.round_trips if sent + took >= begin]
                    for each in opened:
                        each.round_trips.clear()
                sending.cancel()
                await _returned(opened)
                result = Result(
                    tunnels=len(opened),
                    closed=sum(each.closed for each in opened),
                    damaged=sum(each.damaged or each.is_waiting for each in opened),
                    pieces=sum(each.pieces for each in opened),
                    pauses=pauses,
                )
    server.close()
    return result


def _seconds(program: Program) -> float:
    """How long the last hand-over took, by its line in the log."""
    return float(re.findall(r"handed over \d+ sockets? in ([0-9.]+)s", program.err)[-1])


async def _returned(tunnels: Sequence[_Tunnel]) -> None:
    """Wait for what is under way; what has not come after this is lost."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(10):
            while any(each.is_waiting and not each.closed for each in tunnels):  # noqa: ASYNC110 - thousands of them
                await asyncio.sleep(0.05)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench handover", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tunnels", type=int, default=5000)
    parser.add_argument("--upgrades", type=int, default=20)
    given = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(measure(given.tunnels, given.upgrades))
    print(f"tunnels {result.tunnels}, upgrades {given.upgrades}, pieces {result.pieces}")
    print(f"closed {result.closed}, with a byte lost, doubled or changed {result.damaged}: both must be 0")
    print(f"pause, 99th percentile: {result.pause_p99 * 1e3:.0f} ms of {len(result.pauses)} (mark 100)")
    return 1 if result.closed or result.damaged else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
