"""Clients of a backend that restarts, behind a gateway: `python -m tests.bench restart [--clients N] [--part gateway]`.

Every client has a socket with a session. The backend is stopped, which tells them over which time to come back
(`goaway.reconnect_within`), and started again; or the gateway, which says it in its Close frames. What is printed: that
time, the time from its begin until the last client has its hello, the median and the 99th percentile of a handshake,
and what a returning client costs both processes. How long the start takes is not measured here: see `start`.
"""

import argparse
import asyncio
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.chat_servers import NO_CLIENT_LIMITS
from tests.bench.processes import Child, child, raise_file_limit
from tests.bench.services import Service
from tests.bench.usage import cpu_seconds

__all__ = ["Returned", "main", "measure"]

_FILES = 1 << 16
_MOST_SECONDS = 2.0
# The client's own, where it is told none.
_LEAST_WITHIN = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Returned:
    """What was measured; seconds."""

    told: float
    """0: the clients were so few that their own jitter of a second was enough."""
    last: float
    median: float
    slowest: float
    """The 99th percentile."""
    turned_away: int
    gateway_cpu: float
    backend_cpu: float
    """Of one client."""


async def measure(clients: int, part: str) -> Returned:
    """One restart of the `backend` or the `gateway` with so many clients."""
    raise_file_limit(_FILES)
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        options = (f"--database=sqlite:///{folder}/chat.db", "--max-requests-per-address=off", *NO_CLIENT_LIMITS)
        backend = Service("backend", folder, "backend", options, {})
        gateway = Service(
            "gateway",
            folder,
            "gateway",
            (f"--upstream={backend.address}", "--max-connections-per-address=off", f"--max-connections={2 * clients}"),
            {},
        )
        try:
            await backend.start()
            await gateway.start()
            async with child("tests.bench.chatters") as chatters:
                return await _restart(clients, backend, gateway, chatters, restarted=part)
        finally:
            await gateway.stop()
            await backend.stop()


async def _restart(clients: int, backend: Service, gateway: Service, chatters: Child, *, restarted: str) -> Returned:
    part = gateway if restarted == gateway.name else backend
    await chatters.ask("open", port=gateway.port, sessions=[f"s{number}" for number in range(clients)], hello=True)
    _, told = await asyncio.gather(part.stop(), chatters.ask("told"))
    await part.start()
    before = cpu_seconds(gateway.pid), cpu_seconds(backend.pid)
    last, median, slowest, turned_away = await chatters.ask("come_back_as_told", port=gateway.port)
    after = cpu_seconds(gateway.pid), cpu_seconds(backend.pid)
    costs = [(late - early) / clients for early, late in zip(before, after, strict=True)]
    await chatters.ask("close")
    return Returned(told, last, median, slowest, int(turned_away), *costs)


def main(arguments: Sequence[str]) -> int:
    """Print it; 1 where a mark is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench restart", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000, help="with a socket each (default: %(default)s)")
    parser.add_argument("--part", choices=("backend", "gateway"), default="backend", help="that restarts")
    given = parser.parse_args(arguments)
    found = asyncio.run(measure(given.clients, given.part))
    within = max(found.told, _LEAST_WITHIN)
    print(f"told to come back within    {found.told:8.1f} s")
    print(f"the last client was back in {found.last:8.1f} s  (mark: {within:.1f} s and a handshake)")
    print(f"handshake, median           {found.median * 1e3:8.0f} ms")
    print(f"handshake, 99th percentile  {found.slowest * 1e3:8.0f} ms (mark: {_MOST_SECONDS * 1e3:.0f} ms)")
    print(f"turned away                 {found.turned_away:8d}")
    print(f"CPU of one client, gateway  {found.gateway_cpu * 1e6:8.0f} us")
    print(f"CPU of one client, backend  {found.backend_cpu * 1e6:8.0f} us")
    return int(found.slowest > _MOST_SECONDS or found.last > within + _MOST_SECONDS)
