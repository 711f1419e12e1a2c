"""What systemd and a service of it tell each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).

The variables are taken out of the environment: no process that this one starts may answer for it.
"""

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping, Sequence
from ipaddress import ip_address

from moorline.gateway.common.errors import UsageError

__all__ = ["Systemd"]

_FIRST_DESCRIPTOR = 3
#: The FileDescriptorName= of a socket for the metrics; all others are the server's.
_METRICS = "metrics"
# A start that goes on says so in time for the next of these, beyond TimeoutStartSec=.
_START_SECONDS = 60.0


class Systemd:
    """The manager that started this process; where there is none, all of it does nothing."""

    def __init__(self, notify: str = "", watchdog: float | None = None) -> None:
        self._notify = "\0" + notify[1:] if notify.startswith("@") else notify
        self._watchdog = watchdog
        self._is_ready = False
        self.sockets: Sequence[socket.socket] = ()
        """Those that it listens at for this service (LISTEN_FDS). It keeps them while the service restarts."""
        self.metrics: socket.socket | None = None

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> "Systemd":
        """What `environ` says, and says no longer.

        Raises:
            UsageError: a descriptor is none of a socket that listens.
        """
        names = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
        found = {name: environ.pop(name, "") for name in names}
        watchdog = None
        if found["WATCHDOG_USEC"].isdigit() and found["WATCHDOG_PID"] in ("", str(os.getpid())):
            watchdog = int(found["WATCHDOG_USEC"]) / 1e6
        systemd = cls(found["NOTIFY_SOCKET"], watchdog)
        if found["LISTEN_PID"] == str(os.getpid()) and found["LISTEN_FDS"].isdigit():
            systemd._take(int(found["LISTEN_FDS"]), found["LISTEN_FDNAMES"].split(":"))
        return systemd

    def ready(self) -> None:
        """The service has started, or its reload is over."""
        self._is_ready = True
        self._send(f"READY=1\nMAINPID={os.getpid()}")

    def reloading(self) -> None:
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    async def extend_start(self) -> None:
        """Have the manager wait for as long as the event loop runs, until the service is ready or this is cancelled: a
        migration that it ended at TimeoutStartSec= would begin again and again."""
        import asyncio

        while self._notify and not self._is_ready:
            self._send(f"EXTEND_TIMEOUT_USEC={_START_SECONDS * 1e6:.0f}")
            await asyncio.sleep(_START_SECONDS / 4)

    async def beat(self) -> None:
        """Tell twice within WatchdogSec= that the event loop runs, until this is cancelled."""
        # Help and mistakes are answered without an event loop, and this module is read before them.
        import asyncio

        while self._watchdog is not None:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog / 2)

    def _take(self, count: int, names: Sequence[str]) -> None:
        sockets = [_listening(_FIRST_DESCRIPTOR + number) for number in range(count)]
        named = dict(zip(sockets, names, strict=False))
        self.metrics = next((sock for sock in sockets if named.get(sock) == _METRICS), None)
        if self.metrics is not None and not ip_address(host := self.metrics.getsockname()[0]).is_loopback:
            for sock in sockets:
                sock.close()
            raise UsageError(
                f'LISTEN_FDS: the socket "{_METRICS}" listens on {host}, and metrics are for this machine alone; '
                "write for example ListenStream=127.0.0.1:9100"
            )
        self.sockets = [sock for sock in sockets if sock is not self.metrics]

    def _send(self, state: str) -> None:
        if not self._notify:
            return
        # A manager that does not read, or is gone, is no reason to wait or to end.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), self._notify)


def _listening(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        sock = socket.socket(fileno=descriptor)
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise OSError("it does not listen")
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise OSError("it is no TCP socket")
    except OSError as error:
        raise UsageError(
            f"LISTEN_FDS: descriptor {descriptor} is no socket to serve ({error}); see ListenStream= of the unit"
        ) from None
    sock.setblocking(False)
    return sock
