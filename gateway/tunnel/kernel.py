"""What the kernel knows of a connection and the event loops do not report."""

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import sys
import termios

from moorline.gateway.common.unread import descriptor
from moorline.gateway.tunnel import tcp_info

__all__ = ["duplicate", "info", "is_tls", "reset", "unread", "unsent"]

# The most that both loops read at once.
_ONE_READ = 256 << 10
# struct linger of socket(7): on, for no time.
_NO_LINGER = struct.pack("ii", 1, 0)
_NONE = bytes(struct.calcsize("i"))
# Linux alone has it in this form.
_TCP_INFO = socket.TCP_INFO if sys.platform == "linux" else None


def unsent(transport: asyncio.Transport) -> int:
    """How many bytes the peer has not taken yet, those in the kernel's queue included. Of a TLS connection those are
    missing that the loop holds between the two; they are at most its high-water mark of 64 KiB, and one write.
    """
    try:
        queued = fcntl.ioctl(descriptor(transport), termios.TIOCOUTQ, _NONE)
    except (OSError, ValueError):
        # macOS does not report it.
        queued = _NONE
    return transport.get_write_buffer_size() + int(struct.unpack("i", queued)[0])


def unread(transport: asyncio.Transport) -> bytes:
    """What a peer had sent before its reset. A loop whose write fails does not read it any more; the common case is a
    peer that sends a Close frame and closes while it is being written to. The loop closes the socket only after
    `connection_lost`. Nothing of a TLS connection: what the kernel has of it is encrypted.
    """
    if is_tls(transport):
        return b""
    try:
        with socket.socket(fileno=os.dup(descriptor(transport))) as copy:
            return copy.recv(_ONE_READ, socket.MSG_DONTWAIT)
    except OSError:
        return b""


def is_tls(transport: asyncio.Transport) -> bool:
    # The loops know no half-closed connection with TLS. To ask for its parts takes uvloop five times as long.
    return not transport.can_write_eof()


def reset(transport: asyncio.Transport) -> None:
    """Abort the connection with a RST: a FIN would pass for the end of what was sent."""
    with contextlib.suppress(OSError):  # it is lost already
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def duplicate(transport: asyncio.Transport) -> int:
    """Another descriptor of the connection, which outlives the transport; OSError where none is left."""
    return os.dup(descriptor(transport))


def info(transport: asyncio.Transport) -> tcp_info.TcpInfo | None:
    """The kernel's view of a connection; None where it has none any more, and on systems other than Linux."""
    if _TCP_INFO is None:
        return None
    try:
        # uvloop's stand-in for the socket leaves getsockopt to the descriptor it was made for. Each end asks,
        # and a duplicate of the descriptor would be five more calls of the system.
        borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor(transport))
    except (OSError, ValueError):
        return None
    try:
        return tcp_info.parse(borrowed.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, tcp_info.SIZE))
    except OSError:
        return None
    finally:
        borrowed.detach()
