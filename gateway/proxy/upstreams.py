"""Which upstream the next request goes to: nginx's `least_conn`, with its `max_fails` and `fail_timeout`. Pure.

After `max_fails` failures, with no success after a pause of `fail_timeout` between them, an upstream is marked down for
`fail_timeout` and the others take its requests. Then one request probes it, and a response marks it up again. Where all
that are left are down, they are tried all the same: nginx answers 502 for `fail_timeout` then, though they may be up.
"""

import enum
import math
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

__all__ = ["State", "Through", "Upstream", "Upstreams"]

Through = Callable[[Any, str, int], Awaitable[None]]
"""Establishes the connection of a protocol, to this host and port, in place of the event loop."""


class State(enum.Enum):
    UP = "up"
    DOWN = "down"
    PROBING = "probing"
    """Down, and one request tries it; the others wait for what becomes of that one, for `fail_timeout` at most."""


# Each response asks for it.
_UP = State.UP


class _Event(enum.Enum):
    FAILED = "it has failed `max_fails` times"
    CHOSEN = "it is chosen when `fail_timeout` is over"
    RESPONDED = "it has sent a response"


_TRANSITIONS: Mapping[tuple[State, _Event], State] = {
    (State.UP, _Event.FAILED): State.DOWN,
    (State.UP, _Event.CHOSEN): State.UP,
    (State.DOWN, _Event.FAILED): State.DOWN,
    (State.DOWN, _Event.CHOSEN): State.PROBING,
    (State.DOWN, _Event.RESPONDED): State.UP,
    (State.PROBING, _Event.FAILED): State.DOWN,
    (State.PROBING, _Event.CHOSEN): State.PROBING,
    (State.PROBING, _Event.RESPONDED): State.UP,
}


class Upstream:
    """One upstream server, by the URL that was given for it. Its name is resolved at each connect."""

    __slots__ = (
        "_checked_at",
        "_chosen",
        "_failed_at",
        "_fails",
        "authority",
        "connections",
        "host",
        "port",
        "state",
        "through",
        "tls",
        "url",
    )

    def __init__(self, url: str) -> None:
        self.move(url)
        self.state = State.UP
        self.through: Through | None = None
        """Only with the option `faults`."""
        self.connections = 0
        """Requests and sockets that it has at the moment, and a request that is about to go there: counted by each."""
        self._fails = 0
        self._failed_at = self._checked_at = -math.inf
        self._chosen = 0

    def move(self, url: str) -> None:
        """Have the next connection made to this address: a dev server takes another port where its own is taken."""
        address = urlsplit(url)
        self.url = url
        self.authority = address.netloc.encode()
        """Host and port as a Host header has them."""
        self.host = str(address.hostname)
        self.tls = address.scheme == "https"
        self.port = address.port or (443 if self.tls else 80)

    def apply(self, event: _Event) -> bool:
        """Whether this marks it down or up again."""
        before, self.state = self.state, _TRANSITIONS[self.state, event]
        return (before is State.UP) != (self.state is State.UP)


class Upstreams:
    """All of them, at least one. `max_fails` 0: none is ever marked down."""

    def __init__(self, urls: Sequence[str], *, max_fails: int, fail_timeout: float) -> None:
        self._all = [Upstream(url) for url in urls]
        # A single one has no other to take its requests.
        self._max_fails = max_fails if len(self._all) > 1 else 0
        self._fail_timeout = fail_timeout
        self._choices = 0
        self.command = ""
        """What `moorline serve` runs to have one of them serve."""
        self.is_expected = True
        """Whether requests may wait for one that can be reached: not while a command has ended at its start."""

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._all)

    def choose(self, now: float, *, besides: Collection[Upstream] = ()) -> Upstream | None:
        """The one with the fewest connections; of equals, the one that was chosen longest ago. None: there is no other
        besides these.
        """
        if len(self._all) == 1 and not besides:
            return self._all[0]
        left = [upstream for upstream in self._all if upstream not in besides]
        up = [upstream for upstream in left if not self.is_down(upstream, now)]
        chosen = min(up or left, key=lambda upstream: (upstream.connections, upstream._chosen), default=None)
        if chosen is not None:
            self._choices += 1
            chosen._chosen = self._choices
            if now - chosen._checked_at > self._fail_timeout:
                chosen._checked_at = now
                chosen.apply(_Event.CHOSEN)
        return chosen

    def is_down(self, upstream: Upstream, now: float) -> bool:
        """Whether requests go to the others for now."""
        return upstream.state is not State.UP and now - upstream._checked_at <= self._fail_timeout

    def failed(self, upstream: Upstream, now: float) -> bool:
        """It sent no response; whether that marks it down."""
        upstream._fails += 1
        upstream._failed_at = upstream._checked_at = now
        return 0 < self._max_fails <= upstream._fails and upstream.apply(_Event.FAILED)

    def responded(self, upstream: Upstream) -> bool:
        """It sent a response, whatever its status; whether that marks it up again. Failures less than `fail_timeout`
        ago still count, as in nginx, unless it was down.
        """
        if upstream.state is not _UP or upstream._failed_at < upstream._checked_at:
            upstream._fails = 0
        # Each response is reported, and most of them change nothing.
        return upstream.state is not _UP and upstream.apply(_Event.RESPONDED)
