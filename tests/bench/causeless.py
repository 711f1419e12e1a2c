"""The gateway without what it does to name the causes of ends, for a comparison.

`python -m tests.bench.causeless gateway OPTIONS`
"""

import asyncio
import sys

from moorline.gateway.cause import Moment, Reason
from moorline.gateway.proxy.sockets import EndedSocket, Ends, Socket
from moorline.gateway.run.cli import main
from moorline.gateway.tunnel import kernel
from moorline.gateway.tunnel.endings import Side
from moorline.gateway.tunnel.machine import Tunnel
from moorline.gateway.tunnel.relay import Ended
from moorline.gateway.tunnel.tcp_info import TcpInfo

__all__ = ["strip"]


def strip() -> None:
    """Take it out of the classes: order and moment of an end, the kernel's view, and the list of the last ends."""

    def no_order(self: Tunnel, side: Side | None, reason: Reason) -> None:
        pass

    def no_moment(self: Tunnel) -> Moment:
        return Moment.IDLE

    def no_view(transport: asyncio.Transport) -> TcpInfo | None:
        return None

    def no_list(self: Ends, socket: Socket, ended: Ended) -> EndedSocket | None:
        return None

    Tunnel._note = no_order  # type: ignore[method-assign]
    Tunnel._moment = no_moment  # type: ignore[method-assign]
    kernel.info = no_view
    Ends.add = no_list  # type: ignore[assignment]


if __name__ == "__main__":
    strip()
    sys.exit(main())
