"""How many sockets there may be, in all and of one client address. Pure."""

import math
from collections import Counter
from collections.abc import Callable

from moorline.gateway.common.access.rules import client_network
from moorline.gateway.errors import Unavailable

__all__ = ["SocketLimits"]


class SocketLimits:
    """Counts sockets. `is_proxy` tells the addresses that stand for many clients, of which only the total counts."""

    def __init__(self, most: int, most_per_address: int | None, is_proxy: Callable[[str], bool]) -> None:
        self._most = most
        # Half at most: one address must not take all there are, also where few are configured.
        self._most_per_address = most if most_per_address is None else min(most_per_address, math.ceil(most / 2))
        self._is_proxy = is_proxy
        self._total = 0
        self._by_network = Counter[str]()

    def check(self, address: str) -> None:
        """Whether there is a place for one more.

        Raises:
            Unavailable: there is none.
        """
        if self._total >= self._most:
            raise Unavailable("There are too many sockets at the moment (max_connections).")
        if self._by_network[client_network(address)] >= self._most_per_address and not self._is_proxy(address):
            raise Unavailable("There are too many sockets of your address (max_connections_per_address).")

    def add(self, address: str) -> None:
        """There is one more; `remove` it with the same address."""
        self._total += 1
        self._by_network[client_network(address)] += 1

    def remove(self, address: str) -> None:
        """There is one less."""
        self._total -= 1
        network = client_network(address)
        self._by_network[network] -= 1
        if not self._by_network[network]:
            # As many addresses come and go as the clients have.
            del self._by_network[network]
