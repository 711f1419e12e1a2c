"""How many sockets there may be, in all and of one client address. Pure."""

from moorline.gateway.common.access.places import Full, Places
from moorline.gateway.errors import Unavailable

__all__ = ["SocketLimits"]

_FULL = {
    Full.ALL: "There are too many sockets at the moment (max_connections).",
    Full.CLIENT: "There are too many sockets of your address (max_connections_per_address).",
}


class SocketLimits(Places):
    """Counts sockets. Of a trusted proxy's own address, which stands for many clients, only the total counts."""

    def admit(self, address: str) -> None:
        """Take a place for one more; `remove` it with the same address.

        Raises:
            Unavailable: there is none.
        """
        if (full := self.take(address)) is not None:
            raise Unavailable(_FULL[full])
