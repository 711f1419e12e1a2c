"""Which backend the next request goes to: nginx's `least_conn`, with its `max_fails` and `fail_timeout`. Pure.

`max_fails` failures, with no success after a pause of `fail_timeout` between them, and an upstream rests for as long:
others take its place. Then one request tries it, and its answer brings it back. Where all that are left rest, they are
tried all the same: nginx answers 502 for `fail_timeout` then, though they may be back.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from urllib.parse import urlsplit

__all__ = ["Upstream", "Upstreams"]


class Upstream:
    """One backend, by the URL that was given for it. Its name is resolved anew at each dial."""

    __slots__ = ("_checked_at", "_failed_at", "_fails", "_turn", "connections", "host", "port", "url")

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.url = url
        self.host = str(address.hostname)
        self.port = address.port or 80
        self.connections = 0
        self._fails = 0
        self._failed_at = self._checked_at = -math.inf
        self._turn = 0

    def take(self) -> None:
        """A connection to it is about to be dialled; `release` says that it ended, or never began."""
        self.connections += 1

    def release(self) -> None:
        self.connections -= 1


class Upstreams:
    """All of them, at least one. `max_fails` 0: none ever rests."""

    def __init__(self, urls: Sequence[str], *, max_fails: int, fail_timeout: float) -> None:
        self._all = [Upstream(url) for url in urls]
        # Nobody could take its place.
        self._max_fails = max_fails if len(self._all) > 1 else 0
        self._fail_timeout = fail_timeout
        self._turns = 0

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._all)

    def choose(self, now: float, *, besides: Collection[Upstream] = ()) -> Upstream | None:
        """The one with the fewest connections; of equals, the one whose last turn is longest ago. None: none is left
        besides these.
        """
        left = [upstream for upstream in self._all if upstream not in besides]
        awake = [upstream for upstream in left if not self.rests(upstream, now)]
        chosen = min(awake or left, key=lambda upstream: (upstream.connections, upstream._turn), default=None)
        if chosen is not None:
            self._turns += 1
            chosen._turn = self._turns
            if now - chosen._checked_at > self._fail_timeout:
                # The one request that tries it; for the others it rests on until there is an answer.
                chosen._checked_at = now
        return chosen

    def rests(self, upstream: Upstream, now: float) -> bool:
        """Whether it has failed too often to be asked now."""
        return self._out(upstream) and now - upstream._checked_at <= self._fail_timeout

    def failed(self, upstream: Upstream, now: float) -> bool:
        """It gave no answer; whether that makes it rest."""
        was_out = self._out(upstream)
        upstream._fails += 1
        upstream._failed_at = upstream._checked_at = now
        return self._out(upstream) and not was_out

    def answered(self, upstream: Upstream) -> bool:
        """It gave an answer, whatever that said; whether that brings it back. Failures less than `fail_timeout` ago
        still count, as in nginx, unless it was thought to be away.
        """
        was_out = self._out(upstream)
        if was_out or upstream._failed_at < upstream._checked_at:
            upstream._fails = 0
        return was_out

    def _out(self, upstream: Upstream) -> bool:
        return 0 < self._max_fails <= upstream._fails
