"""The kernel's view of a connection: the fields of Linux's `struct tcp_info` that tell a lost network from a peer that
hangs. Pure.

The struct is an interface to user space: it grows at its end and nothing in it moves (linux/tcp.h).
"""

import dataclasses
import struct

__all__ = ["SIZE", "TcpInfo", "parse"]

# Two bytes, tcpi_retransmits, five bytes; then 32-bit fields up to tcpi_total_retrans.
_LAYOUT = struct.Struct("=2xB5x24I")
SIZE = _LAYOUT.size
_UNACKED, _LAST_ACK_RECEIVED, _RTT, _TOTAL_RETRANSMITS = 4, 12, 15, 23


@dataclasses.dataclass(frozen=True, slots=True)
class TcpInfo:
    """One connection at one moment."""

    unacked: int
    """Segments that were sent and not acknowledged."""
    retransmits: int
    """How often the oldest of them was sent again."""
    total_retransmits: int
    """In the connection's whole life."""
    since_ack: float
    """Seconds since the peer's kernel last acknowledged anything."""
    rtt: float
    """Smoothed round-trip time of the kernels, seconds."""

    @property
    def is_unanswered(self) -> bool:
        """Whether the peer's kernel is silent: segments were sent again and not acknowledged. The kernel of a peer that
        hangs, or does not read, still acknowledges."""
        return self.unacked > 0 and self.retransmits > 0


def parse(data: bytes) -> TcpInfo | None:
    """The struct as getsockopt returns it; None where an old kernel's is shorter."""
    if len(data) < SIZE:
        return None
    retransmits, *fields = _LAYOUT.unpack_from(data)
    return TcpInfo(
        unacked=fields[_UNACKED],
        retransmits=retransmits,
        # The kernel leaves out of the total what a link that is down did not take.
        total_retransmits=max(retransmits, fields[_TOTAL_RETRANSMITS]),
        since_ack=fields[_LAST_ACK_RECEIVED] / 1e3,
        rtt=fields[_RTT] / 1e6,
    )
