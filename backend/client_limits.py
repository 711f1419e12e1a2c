"""How much one client may ask of the model: messages in a minute, answers at once, sessions begun in a minute. Pure.

A client counts under two names: as a principal, where an authorize hook names it, and as a network address. The counts
are those of a process and not of the log, so that erasing a session gives nothing back.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.settings import Settings
from moorline.gateway.common.access.places import count_down
from moorline.gateway.common.access.rate import Rate

__all__ = ["Client", "ClientLimits", "Place"]

# `retry_after` where a client has too many answers at once: when one of them ends is not known.
_RUN_RETRY_SECONDS = 5.0
_FEW_RUNS = 10


class Client(NamedTuple):
    """Who a command comes from."""

    address: str
    """Its network: an IPv4 address, or the /64 of an IPv6 one."""
    principal: str | None = None
    """As the authorize hook names it; None without a hook."""


class _Names:
    """The limits of one kind of name."""

    def __init__(self, kind: str, *, rate: int | None, runs: int | None) -> None:
        self._kind = kind
        self._rate = None if rate is None else Rate(rate)
        self._most_runs = runs
        self._runs = Counter[str]()

    def refusal(self, name: str, now: float) -> Refusal | None:
        """Why one more message of this name starts no run."""
        if self._most_runs is not None and self._runs[name] >= self._most_runs:
            message = f"Too many answers are being written for you; please wait for one (max_runs_per_{self._kind})."
            return Refusal(ErrorCode.RATE_LIMITED, message, retry_after=_RUN_RETRY_SECONDS)
        if self._rate is not None and (wait := self._rate.wait(name, now)):
            message = f"Too many messages; please wait a moment (rate_limit_per_{self._kind})."
            return Refusal(ErrorCode.RATE_LIMITED, message, retry_after=wait)
        return None

    def add(self, name: str, now: float) -> None:
        self._runs[name] += 1
        if self._rate is not None:
            self._rate.add(name, now)

    def give_back(self, name: str) -> None:
        """The message started no run."""
        if self._rate is not None:
            self._rate.give_back(name)

    def run_ended(self, name: str) -> None:
        count_down(self._runs, name)


class ClientLimits:
    """The counts of all clients. `clock` is asked for seconds that never go back."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        # One client leaves room to others, as twice `max_runs` run or wait. Fewer than ten runs are one person's own
        # model, whose second chat waits for the first.
        runs_of_principal = _at_most(settings.max_runs, settings.max_runs_per_principal)
        runs_of_address = _at_most(settings.max_runs, settings.max_runs_per_address)
        self._principals = _Names("principal", rate=settings.rate_limit_per_principal, runs=runs_of_principal)
        self._addresses = _Names("address", rate=settings.rate_limit_per_address, runs=runs_of_address)
        sessions = settings.new_sessions_per_address
        self._sessions = None if sessions is None else Rate(sessions)
        self._clock = clock

    def take(self, client: Client) -> "Place":
        """Count a message and the run that it starts.

        Raises:
            Refusal: `rate_limited`, there is no room for it.
        """
        now = self._clock()
        counts = [(self._addresses, client.address)]
        if client.principal is not None:
            counts.append((self._principals, client.principal))
        for names, name in counts:
            if (refusal := names.refusal(name, now)) is not None:
                raise refusal
        for names, name in counts:
            names.add(name, now)
        return Place(counts)

    def session_refusal(self, client: Client) -> Refusal | None:
        """Why a message of this client begins no session; it may write to one that exists."""
        wait = 0.0 if self._sessions is None else self._sessions.wait(client.address, self._clock())
        if not wait:
            return None
        message = "Too many new chats from your address; please wait a moment (new_sessions_per_address)."
        return Refusal(ErrorCode.RATE_LIMITED, message, retry_after=wait)

    def session_begun(self, client: Client) -> None:
        """A message of this client has begun a session."""
        if self._sessions is not None:
            self._sessions.add(client.address, self._clock())


class Place:
    """What a message was counted for."""

    def __init__(self, counts: list[tuple[_Names, str]]) -> None:
        self._counts = counts

    def give_back(self) -> None:
        """The message has started no run, and counts for none."""
        for names, name in self._counts:
            names.give_back(name)
        self.release()

    def release(self) -> None:
        """Its run has ended."""
        for names, name in self._counts:
            names.run_ended(name)


def _at_most(most: int, wanted: int | None) -> int | None:
    return None if wanted is None else min(wanted, max(most, _FEW_RUNS))
