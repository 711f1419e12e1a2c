"""What a server does when file descriptors run short: it closes idle connections, then new ones.

nginx counts all its connections (worker_connections) and, when few are left, closes the idle ones first. Here the
kernel counts: it gives a new connection the lowest free number, so that the number itself says how many descriptors are
taken, by connections to upstreams, open files and tunnels as well. To count them here, each of these would have to
report its begin and its end.
"""

import contextlib
import dataclasses
import fcntl
import logging
import os
import resource
from typing import Protocol

__all__ = ["Descriptors", "IdleConnections", "raise_limit"]

log = logging.getLogger("moorline.http")

# Kept for files, and for connections to the backend; of a small limit a quarter.
_RESERVE = 64
# Connections that are accepted for the page and /healthz when all others are taken; of a small limit a quarter.
_RESERVED_CONNECTIONS = 32
# More than can be used: two for each of 10,000 sockets, several times over.
_ENOUGH = 1 << 16
# From the accept to the first request a client needs a round trip or two, and to take its last response.
_SILENT_SECONDS = 1.0
# So many connections of one address may have sent nothing for longer than this: a browser opens a few ahead of need,
# and some hundred browsers may have one address. After a restart all connect before the first request is read.
_SILENT_PER_ADDRESS = 256
_SILENT_LONG_SECONDS = 5.0
# Between two lines in the log.
_WARN_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptors:
    """How the descriptors of a process are divided."""

    limit: int
    taken: int
    """By what is open before the first connection."""

    @classmethod
    def of_process(cls) -> "Descriptors":
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        with open(os.devnull) as lowest_free:
            return cls(_ENOUGH if soft == resource.RLIM_INFINITY else soft, lowest_free.fileno())

    @property
    def accepted(self) -> int:
        """Connections with a number below this are accepted."""
        return self.limit - min(_RESERVE, self.limit // 4)

    @property
    def unreserved(self) -> int:
        """Connections with a number from this on are for the page and /healthz."""
        return self.accepted - min(_RESERVED_CONNECTIONS, self.accepted // 4)

    @property
    def sockets(self) -> int:
        """So many WebSockets leave the reserve free; each has a connection to the client and one to the upstream."""
        return max(1, (self.unreserved - self.taken) // 2)


class ClientConnection(Protocol):
    """A connection of a client."""

    def has_asked(self) -> bool:
        """Whether it has sent a request."""

    def is_waiting(self) -> bool:
        """Whether no request of it is under way."""

    def has_begun(self) -> bool:
        """Whether something of its next request has come."""

    def force_close(self) -> None:
        """End it."""


class IdleConnections:
    """The connections of one server that wait for a request. `now` is the event loop's time."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._full = descriptors.accepted
        self._unreserved = descriptors.unreserved
        # Each by the time since when, the earliest first.
        self._silent: dict[ClientConnection, float] = {}
        self._idle: dict[ClientConnection, float] = {}
        self._lingering: dict[ClientConnection, float] = {}
        # Those in `_silent` again, by address.
        self._silent_of: dict[str, dict[ClientConnection, float]] = {}
        self._address_of: dict[ClientConnection, str] = {}
        # Closed, but their descriptors are not free yet.
        self._closing: set[ClientConnection] = set()
        self._warned = -_WARN_SECONDS

    def admit(self, connection: ClientConnection, descriptor: int, now: float, address: str = "") -> bool:
        """Whether a new connection with this number is accepted. Idle ones are closed for it, and of those that never
        sent a request the oldest of its address, where they are too many."""
        # Each that waits, this one too, may need a second descriptor, for the backend; open sockets have theirs.
        shed = False
        while descriptor + 2 - len(self._closing) + len(self._silent) + len(self._idle) > self._full:
            if not self._shed(now):
                break
            shed = True
        full = descriptor >= self._full and not self._closing
        if shed or full:
            self._warn(now)
        if not full:
            self.add(connection, now)
            self._count_silent(connection, address, now)
        return not full

    @property
    def silent(self) -> int:
        """How many have sent no request yet."""
        return len(self._silent)

    @property
    def begun(self) -> int:
        """How many have had a response, and sent a part of another request."""
        return sum(connection.has_begun() for connection in self._idle)

    def close_idle(self) -> None:
        """Close those that have had a response and wait for another request."""
        for connection in list(self._idle):
            if connection.is_waiting() and not connection.has_begun():
                connection.force_close()

    def is_reserved(self, descriptor: int) -> bool:
        """Whether a connection with this number is for the page and /healthz alone."""
        return descriptor >= self._unreserved

    def add(self, connection: ClientConnection, now: float) -> None:
        """From now on it waits for a request, or soon will."""
        waiting = self._idle if connection.has_asked() else self._silent
        # The last one in order.
        waiting.pop(connection, None)
        waiting[connection] = now

    def set_busy(self, connection: ClientConnection) -> None:
        """It has sent a request and waits no more."""
        if self._idle.pop(connection, None) is not None:
            return
        self._silent.pop(connection, None)
        address = self._address_of.pop(connection, None)
        if address is not None:
            del self._silent_of[address][connection]
            if not self._silent_of[address]:
                del self._silent_of[address]

    def linger(self, connection: ClientConnection, now: float) -> None:
        """It has its last response, and what it goes on sending is dropped."""
        self._lingering[connection] = now

    def remove(self, connection: ClientConnection) -> None:
        """Its descriptor is free again."""
        if self._lingering.pop(connection, None) is None:
            self.set_busy(connection)
        self._closing.discard(connection)

    def _count_silent(self, connection: ClientConnection, address: str, now: float) -> None:
        self._address_of[connection] = address
        silent = self._silent_of.setdefault(address, {})
        silent[connection] = now
        while len(silent) > _SILENT_PER_ADDRESS:
            oldest, since = next(iter(silent.items()))
            if now - since <= _SILENT_LONG_SECONDS:
                break
            self.set_busy(oldest)
            self._closing.add(oldest)
            oldest.force_close()

    def _shed(self, now: float) -> bool:
        """Close one: first one that has its last response or never sent a request, and had the time to, then the one
        that is idle for longest."""
        extra = (self._lingering, self._silent)
        had_time = [each for each in extra if now - next(iter(each.values()), now) > _SILENT_SECONDS]
        return any(self._close_first(connections) for connections in (*had_time, self._idle, *extra))

    def _close_first(self, connections: dict[ClientConnection, float]) -> bool:
        while connections:
            connection = next(iter(connections))
            del connections[connection]
            # Where the rest of a request's body is awaited behind its response, it is not idle yet.
            if connection.is_waiting():
                self._closing.add(connection)
                connection.force_close()
                return True
        return False

    def _warn(self, now: float) -> None:
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            log.warning("file descriptors run short: idle connections are closed, then new ones; see ulimit -n")


def raise_limit() -> None:
    """Have as many descriptors as this process may: the limit that shells give is for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS has a lower limit beside this one.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    _make_room(wanted if soft == resource.RLIM_INFINITY else min(soft, _ENOUGH))


def _make_room(descriptors: int) -> None:
    """Have the kernel's table of this process hold so many descriptors at once: 8 bytes for each.

    Linux doubles the table when it is full. In a process with several threads each of these steps waits until no
    processor reads the old one, 16 ms in which no socket is served. The 10,000 descriptors of 5,000 tunnels, which a
    reload hands over within seconds, took six steps.
    """
    with contextlib.suppress(OSError):
        os.close(fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, descriptors - 1))
