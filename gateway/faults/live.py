"""Faults in a gateway that runs: the option `faults`.

The gateway's connections then pass through a pair of sockets within its own process, on both sides, so that a fault
acts on what is open already, at once. Without the option this is not imported, and connections are made as ever. Two
other ways were rejected: a switch in the tunnel would cost each byte of each socket a test, and a network that is put
between at the first fault would spare what is open, which is what one wants to break.
"""

import asyncio
import contextlib
import errno
import functools
import logging
import math
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from moorline.gateway.common.errors import UsageError
from moorline.gateway.faults.armed import Armed
from moorline.gateway.faults.catalogue import CATALOGUE, Fault, Phase, fault_named, parameters_of
from moorline.gateway.faults.control import Faults, Switch
from moorline.gateway.faults.end import End
from moorline.gateway.faults.network import FaultyNetwork
from moorline.gateway.tunnel.endings import Side

__all__ = ["Accepted", "LiveFaults", "catalogue"]

log = logging.getLogger("moorline.faults")

_HOST = "127.0.0.1"
# Sockets of chats; a fault of all paths would meet the front end's hot reload, and the inspector's own requests.
_PATH = "/ws/"
# The gateway's own addresses, by which a fault is ended.
_OWN = "/-/"
_MOST_ARMED = 50
_OPTIONS = ("fault", "id", "parameters", "path", "resets_after", "side", "times")


class Accepted(Protocol):
    """What a protocol of an accepted connection has beside asyncio's methods."""

    def stand_for(self, transport: asyncio.BaseTransport) -> None:
        """Take this transport's peer and TLS for its own."""


class LiveFaults:
    """What is armed, and the two networks that it acts on."""

    def __init__(self) -> None:
        self.upstream = _Upstreams(log.info)
        self.client = _Clients(log.info)
        targets = {Side.CLIENT: self.client, Side.UPSTREAM: self.upstream}
        self._faults = Faults(targets, asyncio.get_running_loop(), provider=False)
        self._armed: dict[str, tuple[dict[str, Any], Switch]] = {}

    async def aclose(self) -> None:
        for network in (self.client, self.upstream):
            await network.aclose()

    def arm(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Arm `{"fault": "reset", "parameters": {}, "side": "client", "path": "/ws/", "times": 1}`; what is armed now.
        One whose `id` is armed already is that one: a worker that starts may be told of it twice, as it asks the others
        what they have armed while one of them is told to arm it.

        Raises:
            UsageError: there is no such fault, it cannot have these parameters, or too many are armed.
        """
        fault, wanted = _checked(wanted)
        if (known := self._armed.get(wanted["id"])) is not None:
            return {**known[0], "met": known[1].met}
        if len(self._armed) >= _MOST_ARMED:
            raise UsageError(f"{_MOST_ARMED} faults are armed; disarm one first")
        options = {name: wanted[name] for name in ("side", "path", "times", "resets_after")}
        switch = self._faults.arm(fault.name, **options, **wanted["parameters"])
        wanted["parameters"] = dict(switch.armed.parameters)
        self._armed[wanted["id"]] = (wanted, switch)
        switch.__enter__()
        log.warning("fault armed: %s", switch.armed)
        return {**wanted, "met": switch.met}

    def disarm(self, identity: str) -> bool:
        """End one; whether it was armed."""
        found = self._armed.pop(identity, None)
        if found is None:
            return False
        found[1].__exit__()
        log.warning("fault disarmed: %s", found[1].armed)
        return True

    def armed(self) -> Sequence[dict[str, Any]]:
        """Each with how many connections have met it."""
        return [{**wanted, "met": switch.met} for wanted, switch in self._armed.values()]

    def lasting(self) -> Sequence[dict[str, Any]]:
        """What the process that takes this one's place is to arm: nothing that was met as often as it may be, and no
        outage of some seconds that has begun.
        """
        lasting = []
        for wanted, switch in self._armed.values():
            times = wanted["times"] and wanted["times"] - switch.met
            is_over = switch.met and _has_an_end(switch.armed)
            if times != 0 and not is_over:
                lasting.append({**wanted, "times": times})
        return lasting


def _has_an_end(armed: Armed) -> bool:
    return armed.fault.phase is Phase.OUTAGE and armed.parameters["seconds"] is not None


class _Upstreams(FaultyNetwork):
    """Between the gateway and its upstreams."""

    async def connect(self, protocol: asyncio.BaseProtocol, host: str, port: int) -> None:
        """Establish the connection of a protocol.

        Raises:
            OSError: the upstream cannot be reached, or a fault says so.
        """
        if self._outages:
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        loop, dial = asyncio.get_running_loop(), functools.partial(_dial, host, port)
        with contextlib.ExitStack() as undo:
            near, far = _connected_pair()
            undo.callback(near.close)
            undo.callback(far.close)
            if self._hold_if_armed(far, dial):
                undo.callback(self._unhold, far)
            else:
                link = self._link(dial)
                undo.callback(self.discard, link)
                # First, so that what keeps it from being established is the gateway's to see.
                await link.dial()
                link.begin(far)
            await loop.create_connection(lambda: protocol, sock=near)
            undo.pop_all()


class _Clients(FaultyNetwork):
    """Between the clients and the gateway."""

    def accepting(self, connection: Callable[[], Accepted]) -> Callable[[], asyncio.Protocol]:
        """What accepts connections in place of `connection`."""

        async def dial(end: End) -> None:
            accepted = connection()
            client = end.other.transport
            if client is None:
                raise ConnectionResetError
            accepted.stand_for(client)
            near, far = _connected_pair()
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: cast("asyncio.Protocol", accepted), far)
            await loop.create_connection(lambda: end, sock=near)

        def accept() -> asyncio.Protocol:
            link = self._link(dial)
            # At once, so that the gateway's own timers end a connection without a request.
            asyncio.get_running_loop().call_soon(link.dial_now)
            return link.client

        return accept


async def _dial(host: str, port: int, end: End) -> None:
    await asyncio.get_running_loop().create_connection(lambda: end, host, port)


def _connected_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection over loopback. `socket.socketpair` has no reset."""
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        while True:
            far, peer = listener.accept()
            if peer == near.getsockname():
                break
            # Another program has connected to this port meanwhile.
            far.close()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


# What may be asked for ------------------------------------------------------------------------------------------------


def catalogue() -> Sequence[Mapping[str, Any]]:
    """The faults that a gateway can be told to have."""
    return [
        {
            "fault": fault.name,
            "does": fault.does,
            "side": fault.side.value,
            "sides": [side.value for side in Side if _acts_on(fault, side)],
            "parameters": fault.parameters,
        }
        for fault in CATALOGUE.values()
        if fault.phase is not Phase.PROVIDER
    ]


def _acts_on(fault: Fault, side: Side) -> bool:
    """At the clients' side, what takes connections before their request would take those of the inspector."""
    return side is Side.UPSTREAM or fault.phase not in (Phase.CONNECT, Phase.OUTAGE)


def _checked(wanted: Mapping[str, Any]) -> tuple[Fault, dict[str, Any]]:
    for name in wanted:
        if name not in _OPTIONS:
            raise UsageError(f"there is no option {name}; there are {', '.join(_OPTIONS)}")
    fault = fault_named(str(wanted.get("fault", "")))
    side, path, times = wanted.get("side") or fault.side.value, wanted.get("path", _PATH), wanted.get("times")
    parameters, resets_after = wanted.get("parameters") or {}, wanted.get("resets_after")
    if side not in [each.value for each in Side]:
        raise UsageError(f'{fault.name}: side="{side}" is neither "client" nor "upstream"')
    if not _acts_on(fault, Side(side)):
        raise UsageError(f"{fault.name}: a gateway that runs has it on the side of the upstream alone")
    if not isinstance(path, str) or (side == Side.CLIENT.value and (path in _OWN or path.startswith(_OWN))):
        raise UsageError(f"{fault.name}: path={path!r} would take the requests that end the fault; write {_PATH}")
    if not (times is None or (isinstance(times, int) and times > 0)):
        raise UsageError(f"{fault.name}: times={times!r} is not a number from 1 up")
    if not (resets_after is None or (isinstance(resets_after, int | float) and 0 <= resets_after < math.inf)):
        raise UsageError(f"{fault.name}: resets_after={resets_after!r} is not a number of seconds")
    if not isinstance(parameters, dict):
        raise UsageError(f"{fault.name}: parameters is no object")
    # Before they are arguments beside the options, which have names, too.
    parameters_of(fault, parameters)
    if math.inf in parameters.values():
        raise UsageError(f"{fault.name}: JSON, which lists what is armed, has no number without end")
    return fault, {
        "id": wanted.get("id") or secrets.token_hex(4),
        "fault": fault.name,
        "side": side,
        "path": path,
        "times": times,
        "resets_after": resets_after,
        "parameters": parameters,
    }
