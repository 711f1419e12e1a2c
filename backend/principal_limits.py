"""How much one principal may hold open, from whatever addresses it comes, and how many sockets it may open. Pure."""

from moorline.backend.errors import ErrorCode, Refusal
from moorline.gateway.common.access.places import count_down
from moorline.gateway.common.access.rate import Rate

__all__ = ["PrincipalLimits"]

# `retry_after` where it has too many open: when one of them ends is not known.
_HELD_RETRY_SECONDS = 5.0


class PrincipalLimits:
    """The counts of this process."""

    def __init__(self, *, held: int | None = None, handshakes: int | None = None) -> None:
        """`held`: sockets and requests at once; `handshakes`: in a minute; None: any number."""
        self._most_held = held
        self._held: dict[str, int] = {}
        # Those of `_held` that are requests.
        self._requests: dict[str, int] = {}
        self._rate = None if handshakes is None else Rate(handshakes)

    def __len__(self) -> int:
        """How many principals have something open."""
        return len(self._held)

    def take(self, name: str) -> None:
        """Count a socket or a request until `release`.

        Raises:
            Refusal: `rate_limited`, there are too many.
        """
        held = self._held.get(name, 0)
        if self._most_held is not None and held >= self._most_held:
            text = "You have too many sockets and requests open (max_connections_per_principal)."
            raise Refusal(ErrorCode.RATE_LIMITED, text, retry_after=_HELD_RETRY_SECONDS)
        self._held[name] = held + 1

    def release(self, name: str) -> None:
        """One of them has ended."""
        count_down(self._held, name)

    def take_request(self, name: str, *, free: int) -> None:
        """Count a request until `release_request`. `free`: the places that are left for the requests of all.

        A principal has no more than that: several together leave others some, and one alone has what none else needs.

        Raises:
            Refusal: `rate_limited`, it has its share.
        """
        held = self._requests.get(name, 0)
        if held > free:
            text = "You have your share of the requests at the moment (max_requests)."
            raise Refusal(ErrorCode.RATE_LIMITED, text, retry_after=_HELD_RETRY_SECONDS)
        self._requests[name] = held + 1

    def release_request(self, name: str) -> None:
        """One of the requests has ended."""
        count_down(self._requests, name)

    def handshake(self, name: str, now: float) -> None:
        """Count a socket that is to be opened.

        Raises:
            Refusal: `rate_limited`, it comes too early.
        """
        if self._rate is None:
            return
        if wait := self._rate.wait(name, now):
            text = "You have opened too many sockets; please wait a moment (handshakes_per_principal)."
            raise Refusal(ErrorCode.RATE_LIMITED, text, retry_after=wait)
        self._rate.add(name, now)
