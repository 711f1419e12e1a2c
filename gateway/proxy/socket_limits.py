"""How many sockets there may be, in all and of one client address, and how many it may open. Pure."""

import math
from collections.abc import Callable

from moorline.gateway.common.access.places import Full, Places
from moorline.gateway.common.access.rate import Rate
from moorline.gateway.common.access.rules import client_network
from moorline.gateway.errors import TooManyHandshakes, Unavailable

__all__ = ["SocketLimits"]

_FULL = {
    Full.ALL: "There are too many sockets at the moment (max_connections).",
    Full.CLIENT: "There are too many sockets of your address (max_connections_per_address).",
}


class SocketLimits(Places):
    """Counts sockets. Of a trusted proxy's own address, which stands for many clients, only the total counts."""

    def __init__(
        self,
        most: int,
        most_per_address: int | None,
        is_exempt: Callable[[str], bool],
        *,
        handshakes_per_address: int | None = None,
    ) -> None:
        """`handshakes_per_address`: in a minute."""
        super().__init__(most, most_per_address, is_exempt)
        self._rate = None if handshakes_per_address is None else Rate(handshakes_per_address)

    def admit(self, address: str, now: float) -> None:
        """Take a place for one more; `remove` it with the same address.

        Raises:
            Unavailable: there is none, or it comes too early.
        """
        rate = None if self._is_exempt(address) else self._rate
        if rate is not None and (wait := rate.wait(client_network(address), now)):
            raise TooManyHandshakes(math.ceil(wait))
        if (full := self.take(address)) is not None:
            raise Unavailable(_FULL[full])
        if rate is not None:
            rate.add(client_network(address), now)
