"""Clients of a backend that restarts, behind a gateway: `python -m tests.bench restart [--clients N] [--part gateway]`.

Every client has a socket with a session. The backend is stopped, which tells them over which time to come back
(`goaway.reconnect_within`), and started again; or the gateway, which says it in its Close frames. What is printed: that
time, the time from its begin until the last client has its hello, the median and the 99th percentile of a handshake,
and what a returning client costs both parts. How long the start takes is not measured here: see `start`. A gateway has
as many workers as its clients need files, two for each.
"""

import argparse
import asyncio
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.chat_servers import NO_CLIENT_LIMITS
from tests.bench.crowd import Crowd, Reconnects, crowd
from tests.bench.peers.base import workers_for
from tests.bench.processes import raise_file_limit
from tests.bench.services import Service
from tests.bench.usage import cpu_seconds

__all__ = ["Returned", "main", "measure"]

_FILES = 1 << 16
_MOST_SECONDS = 2.0
# The client's own, where it is told none.
_LEAST_WITHIN = 1.0
# Clients of one process, so that several take turns with the servers on few cores.
_OF_A_PROCESS = 5000


@dataclasses.dataclass(frozen=True, slots=True)
class Returned:
    """What was measured."""

    told: float
    """Seconds; 0: the clients were so few that their own jitter of a second was enough."""
    clients: Reconnects
    gateway_cpu: float
    """Of one client, like `backend_cpu`."""
    backend_cpu: float


async def measure(clients: int, part: str, workers: int = 0) -> Returned:
    """One restart of the `backend` or the `gateway` with so many clients. 0 workers: as many as they need."""
    raise_file_limit(_FILES)
    with tempfile.TemporaryDirectory(prefix="moorline-bench-") as name:
        folder = Path(name)
        of_backend = (f"--database=sqlite:///{folder}/chat.db", "--max-requests-per-address=off", *NO_CLIENT_LIMITS)
        backend = Service("backend", folder, "backend", of_backend, {})
        of_gateway = (
            f"--upstream={backend.address}",
            "--max-connections-per-address=off",
            f"--max-connections={2 * clients}",
            f"--workers={workers or workers_for(clients)}",
        )
        gateway = Service("gateway", folder, "gateway", of_gateway, {})
        try:
            await backend.start()
            await gateway.start()
            async with crowd(clients, each=_OF_A_PROCESS) as people:
                return await _restart(clients, backend, gateway, people, restarted=part)
        finally:
            await gateway.stop()
            await backend.stop()


async def _restart(clients: int, backend: Service, gateway: Service, people: Crowd, *, restarted: str) -> Returned:
    part = gateway if restarted == gateway.name else backend
    await people.open(gateway.port, [f"s{number}" for number in range(clients)])
    _, told = await asyncio.gather(part.stop(), people.told())
    await part.start()
    before = cpu_seconds(gateway.pid), cpu_seconds(backend.pid)
    back = await people.come_back_as_told(gateway.port)
    after = cpu_seconds(gateway.pid), cpu_seconds(backend.pid)
    await people.close()
    costs = [(late - early) / clients for early, late in zip(before, after, strict=True)]
    return Returned(told, back, *costs)


def main(arguments: Sequence[str]) -> int:
    """Print it; 1 where a mark is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench restart", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clients", type=int, default=10_000, help="with a socket each (default: %(default)s)")
    parser.add_argument("--part", choices=("backend", "gateway"), default="backend", help="that restarts")
    parser.add_argument("--workers", type=int, default=0, help="of the gateway (default: as its files ask for)")
    given = parser.parse_args(arguments)
    found = asyncio.run(measure(given.clients, given.part, given.workers))
    back = found.clients
    within = max(found.told, _LEAST_WITHIN)
    print(f"told to come back within    {found.told:8.1f} s")
    print(f"the last client was back in {back.last:8.1f} s  (mark: {within:.1f} s and a handshake)")
    print(f"handshake, median           {back.median * 1e3:8.0f} ms")
    print(f"handshake, 99th percentile  {back.p99 * 1e3:8.0f} ms (mark: {_MOST_SECONDS * 1e3:.0f} ms)")
    print(f"turned away                 {back.turned_away:8d}")
    print(f"CPU of one client, gateway  {found.gateway_cpu * 1e6:8.0f} us")
    print(f"CPU of one client, backend  {found.backend_cpu * 1e6:8.0f} us")
    return int(back.p99 > _MOST_SECONDS or back.last > within + _MOST_SECONDS)
