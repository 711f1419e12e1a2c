"""Many answers at once, at a provider's pace: what a token costs, and how long it is on its way."""

import asyncio
import dataclasses

from tests.bench.chat_servers import ChatServer
from tests.bench.processes import Child
from tests.bench.usage import cpu_seconds, memory

__all__ = ["ASKS_PER_SECOND", "SETTLE", "Streams", "streams"]

# A question costs as much as seconds of an answer; no site has all its users ask in the same second.
ASKS_PER_SECOND = 50
SETTLE = 1.0
# Seconds that a token may be on its way in a server that is not overloaded.
_BEHIND = 2.0
_KIB = 1 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Streams:
    """Of so many answers at once."""

    wanted: int
    begun: int
    """Those that had a token when it was measured."""
    median: float
    """Seconds from the provider's byte to the client's socket."""
    p99: float
    cpu: float
    """Seconds for 1,000 tokens."""
    busy: float
    """Share of a core."""
    memory: float
    """KiB of a session with its socket, its answer under way and the connection to the provider."""
    commits: float
    """Per second."""

    @property
    def keeps_up(self) -> bool:
        """Whether the server writes as fast as the provider; one that does not only gets slower."""
        return self.begun == self.wanted and self.p99 < _BEHIND


async def streams(
    server: ChatServer, provider: Child, chatters: Child, *, count: int, seconds: float, base: int
) -> Streams:
    """`base` is the server's memory before the first session."""
    names = [f"{count}-{number}" for number in range(count)]
    await chatters.ask("open", port=server.port, sessions=names, hello=server.has_log)
    begun = await chatters.ask("ask", per_second=ASKS_PER_SECOND)
    await asyncio.sleep(SETTLE)
    cpu, commits = cpu_seconds(server.pid), server.commits()
    tokens, median, p99 = await chatters.ask("listen", seconds=seconds)
    cpu, commits = cpu_seconds(server.pid) - cpu, server.commits() - commits
    size = memory(server.pid)
    await provider.ask("finish")
    await chatters.ask("answered")
    await chatters.ask("close")
    return Streams(
        wanted=count,
        begun=begun,
        median=median,
        p99=p99,
        cpu=cpu / tokens * 1000,
        busy=cpu / seconds,
        memory=(size - base) / count / _KIB,
        commits=commits / seconds,
    )
