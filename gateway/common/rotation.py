"""A queue in which each client has the next place in rotation. Pure.

In one queue for all, a client with hundreds of requests keeps the others waiting for all of them.
"""

from collections import deque
from typing import Generic, TypeVar

__all__ = ["Rotation"]

T = TypeVar("T")


class Rotation(Generic[T]):
    """What waits, each item with the client that it is of."""

    def __init__(self) -> None:
        self.clients: dict[str, deque[T]] = {}
        """Those that wait, each with its items, of which there is one at least; the one that is next first."""

    def __bool__(self) -> bool:
        return bool(self.clients)

    def __len__(self) -> int:
        return sum(map(len, self.clients.values()))

    def append(self, client: str, item: T) -> None:
        """Add the last one of this client."""
        self.clients.setdefault(client, deque()).append(item)

    def popleft(self) -> T:
        """The first item of the client that is next, which then is behind all others."""
        client = next(iter(self.clients))
        items = self.clients.pop(client)
        item = items.popleft()
        if items:
            self.clients[client] = items
        return item

    def discard(self, client: str, item: T) -> bool:
        """Remove it; whether it was there."""
        items = self.clients.get(client, deque())
        if item not in items:
            return False
        items.remove(item)
        if not items:
            del self.clients[client]
        return True
