"""Input that the kernel holds and no loop has read: a socket that is closed with it sends RST instead of FIN."""

import asyncio
import fcntl
import struct
import termios

__all__ = ["descriptor", "has_unread", "has_unread_at"]

_NONE = bytes(struct.calcsize("i"))


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether an open connection has such input."""
    return has_unread_at(descriptor(transport))


def has_unread_at(descriptor: int) -> bool:
    """The same by its descriptor, which is open: each request on a pooled connection asks."""
    # What can be written to: for bytes the call makes an exception first, and drops it, at three times the cost.
    size = bytearray(_NONE)
    try:
        fcntl.ioctl(descriptor, termios.FIONREAD, size)
    except (OSError, ValueError):
        return False
    return size != _NONE


def descriptor(transport: asyncio.Transport) -> int:
    """That of an open connection; -1 where it has none."""
    # uvloop forgets the socket of a TLS connection that has ended.
    sock = transport.get_extra_info("socket")
    return -1 if sock is None else int(sock.fileno())
