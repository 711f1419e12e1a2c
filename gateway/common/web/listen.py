"""Listening sockets for `host` and `port`.

`localhost` is both loopback addresses on one port: browsers try ::1 first, and another program's server on the other
address would otherwise answer half of the requests.
"""

import contextlib
import errno
import socket
from collections.abc import Sequence

from moorline.gateway.common.errors import UsageError

__all__ = ["BACKLOG", "address", "listen"]

#: Connections that wait to be accepted: as many as Linux permits without a setting (net.core.somaxconn). A client that
#: comes while they are that many is dropped, and tries again a second later, then after three: after a restart
#: thousands come at once.
BACKLOG = 4096
# A port that is free on one address may be in use on the other; a few attempts find one that is free on both.
_DRAWS = 20
_LOOPBACK = ("127.0.0.1", "::1")


def listen(host: str, port: int, *, option: str = "port") -> list[socket.socket]:
    """Sockets that listen on `host`; port 0 is one free port on all its addresses.

    `option` is the name under which the message for a port that is taken speaks of it.

    Raises:
        UsageError: the port is taken or forbidden, or the host is none of this machine's.
    """
    addresses = _resolve(host)
    for draw in range(_DRAWS):
        try:
            return _bind_all(addresses, port)
        except OSError as error:
            another_draw = port == 0 and error.errno == errno.EADDRINUSE and draw < _DRAWS - 1
            if not another_draw:
                raise _explain(error, host, port, option) from error
    raise AssertionError("the last draw returns or raises")


def address(sock: socket.socket, scheme: str = "http") -> str:
    """`http://127.0.0.1:4321` or `http://[::1]:4321`"""
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _resolve(host: str) -> Sequence[str]:
    if host == "localhost":
        return _LOOPBACK
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(
            f'host: "{host}" has no address ({error.strerror}); write a name or address of this machine alone, '
            "for example 0.0.0.0 or ::1"
        ) from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _bind_all(addresses: Sequence[str], port: int) -> list[socket.socket]:
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        for host in addresses:
            try:
                sock = undo.enter_context(_bind(host, sockets[0].getsockname()[1] if sockets else port))
                # Listen at once: with SO_REUSEADDR two sockets can be bound to one port, but only one can listen.
                sock.listen(BACKLOG)
            except OSError as error:
                # Containers without IPv6 have no ::1; the other address of localhost serves.
                if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue
                raise
            sockets.append(sock)
        undo.pop_all()
        return sockets


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # Connections in TIME_WAIT, of a process that has just ended, must not prevent the next one from binding.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        # What it accepts has it, too: the kernel ends connections whose peer is gone.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _explain(error: OSError, host: str, port: int, option: str) -> UsageError:
    flag = "--" + option.replace("_", "-")
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"{option}: {port} is in use on {host}; end the program that has it or choose another with {flag}"
        )
    if error.errno == errno.EACCES:
        return UsageError(f"{option}: {port} is not allowed to this user; choose one from 1024 up with {flag}")
    return UsageError(f'host: "{host}" cannot be listened on ({error.strerror}); write an address of this machine')
