"""Whose process is at the other end of a Unix socket, as the kernel knows it."""

import os
import socket
import struct
import sys

__all__ = ["may_use", "peer_uid"]

_ROOT = 0
# unix(7), struct ucred: pid, uid, gid.
_UCRED = struct.Struct("=iII")
# unix(4) of macOS and FreeBSD, struct xucred: a version, the uid, and groups that do not matter here.
_XUCRED = struct.Struct("=II")
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1
_XUCRED_BYTES = 128


def peer_uid(sock: socket.socket) -> int:
    """The user of the process that has connected, or that listens where this one has connected.

    Raises:
        OSError: this system does not tell.
    """
    if sys.platform == "linux":
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    else:
        _, uid = _XUCRED.unpack_from(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES))
    return int(uid)


def may_use(uid: int, *owners: int) -> bool:
    """Whether a process of this user is root's, of this process's own user, or of one of `owners`."""
    return uid in (_ROOT, os.geteuid(), *owners)
