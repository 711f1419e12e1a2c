"""What the kernel knows of a connection and the loops do not tell."""

import asyncio
import fcntl
import os
import socket
import struct
import termios

__all__ = ["has_unread", "unread", "unsent"]

# What both loops read at once.
_ONE_READ = 256 << 10


def unsent(transport: asyncio.Transport) -> int:
    """How many bytes the peer has not taken yet, those in the kernel's queue included."""
    return transport.get_write_buffer_size() + _waiting(transport, termios.TIOCOUTQ)


def has_unread(transport: asyncio.Transport) -> bool:
    """Whether the peer has sent what nobody has read; a socket closed like this sends RST."""
    return _waiting(transport, termios.FIONREAD) > 0


def unread(transport: asyncio.Transport) -> bytes:
    """What a side had sent before its reset. A write that fails makes the loop forget to read it; a peer that says why
    it leaves and leaves while it is written to, is the common case. The loop closes the socket after `connection_lost`.
    """
    try:
        with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as copy:
            return copy.recv(_ONE_READ, socket.MSG_DONTWAIT)
    except OSError:
        return b""


def _waiting(transport: asyncio.Transport, queue: int) -> int:
    """How many bytes are in one of the two queues; 0 where the system does not say, as macOS for the outgoing one."""
    try:
        answer = fcntl.ioctl(transport.get_extra_info("socket").fileno(), queue, bytes(4))
    except (OSError, ValueError):
        return 0
    return int(struct.unpack("i", answer)[0])
