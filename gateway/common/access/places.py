"""Counts of what many clients share, in all and for each client address or name. Pure."""

import enum
import math
from collections.abc import Callable

from moorline.gateway.common.access.rules import client_network

__all__ = ["Full", "Places", "count_down"]


class Full(enum.Enum):
    """Why there is no place."""

    ALL = enum.auto()
    CLIENT = enum.auto()
    """The client has its share."""


class Places:
    """So many places in all, and `most_per_address` of them for one client address (IPv6: a /64), at most half: one
    client must not take all there are, also where few are configured. An exempt address stands for many clients.
    """

    def __init__(
        self, most: int, most_per_address: int | None, is_exempt: Callable[[str], bool] = lambda address: False
    ) -> None:
        self._most = most
        self._most_per_address = most if most_per_address is None else min(most_per_address, math.ceil(most / 2))
        self._is_exempt = is_exempt
        self._total = 0
        # Not a Counter, whose deletions are calls of a method in Python.
        self._by_network: dict[str, int] = {}

    def __len__(self) -> int:
        return self._total

    @property
    def free(self) -> int:
        """How many are left."""
        return self._most - self._total

    def take(self, address: str) -> Full | None:
        """Take a place for this address; else why there is none."""
        network = client_network(address)
        if self._total >= self._most:
            return Full.ALL
        held = self._by_network.get(network, 0)
        if held >= self._most_per_address and not self._is_exempt(address):
            return Full.CLIENT
        self._total += 1
        self._by_network[network] = held + 1
        return None

    def add(self, address: str) -> None:
        """One more is taken; `remove` it with the same address."""
        network = client_network(address)
        self._total += 1
        self._by_network[network] = self._by_network.get(network, 0) + 1

    def remove(self, address: str) -> None:
        """One less is taken."""
        self._total -= 1
        count_down(self._by_network, client_network(address))


def count_down(counts: dict[str, int], name: str) -> None:
    """One less of `name`. Of the last one nothing stays: as many names and addresses come and go as clients have."""
    left = counts[name] - 1
    if left:
        counts[name] = left
    else:
        del counts[name]
