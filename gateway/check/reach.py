"""The first two hops: the name has an address, and something listens there.

They need a socket, and neither an event loop nor TLS: importing asyncio takes as long as all else that a check of a
server that is down imports.
"""

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from moorline.gateway.check.verdicts import Failure, FailureKind, Hop, Step

__all__ = ["network_failure", "reach"]

_NO_NETWORK = (errno.ENETUNREACH, errno.ENETDOWN)

# As `socket.getaddrinfo` returns them.
_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def reach(host: str, port: int, timeout: float) -> Iterator[Step]:
    """Both hops, or the first alone where it fails. Each ends within `timeout`."""
    addresses: list[_Address] = []

    def resolve() -> str:
        addresses.extend(_resolved(host, port, timeout))
        return ", ".join(dict.fromkeys(str(address[4][0]) for address in addresses))

    def connect() -> str:
        return f"{_connected(addresses, timeout)} port {port}"

    first = _timed(Hop.NAME, resolve)
    yield first
    if first.failure is None:
        yield _timed(Hop.TCP, connect)


def network_failure(error: OSError) -> Failure:
    """What an exception of the resolver or of a connection that is being established means."""
    match error:
        case TimeoutError():
            return Failure(FailureKind.TIMEOUT)
        case socket.gaierror():
            return Failure(FailureKind.NO_DNS if error.errno == socket.EAI_AGAIN else FailureKind.UNKNOWN)
        case ConnectionRefusedError():
            return Failure(FailureKind.REFUSED)
        case ConnectionResetError():
            return Failure(FailureKind.CLOSED)
    if error.errno in _NO_NETWORK:
        return Failure(FailureKind.OFFLINE)
    return Failure(FailureKind.REFUSED if "refused" in str(error).lower() else FailureKind.UNREACHABLE)


def _timed(hop: Hop, action: Callable[[], str]) -> Step:
    began = time.perf_counter()
    try:
        detail = action()
    except OSError as error:
        return Step(hop, time.perf_counter() - began, failure=network_failure(error))
    return Step(hop, time.perf_counter() - began, detail)


def _resolved(host: str, port: int, timeout: float) -> list[_Address]:
    """In a thread of its own, which the interpreter does not wait for: no signal interrupts the system's resolver."""
    found: list[_Address] = []
    failed: list[OSError] = []
    # As bytes: for a text the resolver imports the tables of internationalized names first.
    name = host.encode() if host.isascii() else host

    def resolve() -> None:
        try:
            found.extend(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failed.append(error)
        except UnicodeError:
            failed.append(socket.gaierror(socket.EAI_NONAME, "a label of the name is empty or too long"))

    thread = threading.Thread(target=resolve, name="resolver", daemon=True)
    thread.start()
    thread.join(timeout)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError
    return found


def _connected(addresses: list[_Address], timeout: float) -> str:
    """The first address that accepts a connection. Each has its share of the time that is left."""
    deadline = time.monotonic() + timeout
    errors: list[OSError] = []
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            with socket.socket(family, kind, protocol) as sock:
                sock.settimeout(max((deadline - time.monotonic()) / (len(addresses) - number), 0.001))
                sock.connect(address)
                return str(sock.getpeername()[0])
        except OSError as error:
            errors.append(error)
    # A machine without IPv6 has an error at the first one that says nothing of the server.
    raise next((error for error in errors if isinstance(error, ConnectionRefusedError)), errors[-1])
