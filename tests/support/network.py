"""A network between a browser and a server: it passes everything on until a test breaks it.

async with network(gateway.url) as between:
    await page.goto(between.url)
    between.silence()
    between.heal()
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from moorline.gateway.faults.armed import Armed
from moorline.gateway.faults.catalogue import fault_named
from moorline.gateway.faults.link import SERVER_ENDED
from moorline.gateway.faults.proxy import FaultProxy

__all__ = ["Network", "network"]


class Network:
    """The faults of the catalogue that last until `heal`."""

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        assert address.hostname is not None
        self.proxy = FaultProxy(address.hostname, address.port or 80, self._note)
        self.server_left = asyncio.Event()
        """The server has ended a WebSocket."""

    @property
    def url(self) -> str:
        return self.proxy.url

    def cut(self) -> None:
        """All connections end with RST, and new ones are refused."""
        self._arm("gone", seconds=3600.0)

    def silence(self) -> None:
        """Nothing passes any more and neither end is told, as when the network behind an access point is gone."""
        self._arm("hold")
        self._arm("vanish")

    def mute(self) -> None:
        """What clients send still arrives; what the server sends does not."""
        self._arm("stall_client")

    def block_sockets(self) -> None:
        """WebSockets are refused, as some companies' proxies do."""
        self._arm("fin_handshake", path="/ws/")

    def heal(self) -> None:
        """Everything passes again; a connection that was silent goes on."""
        for armed in list(self.proxy.armed):
            self.proxy.disarm(armed)

    def _arm(self, name: str, *, path: str = "", **parameters: Any) -> None:
        self.proxy.arm(Armed(fault_named(name), parameters, path=path))

    def _note(self, text: str) -> None:
        if text == SERVER_ENDED:
            self.server_left.set()


@contextlib.asynccontextmanager
async def network(server: str) -> AsyncIterator[Network]:
    """A network on a port of its own, before the server at this URL."""
    between = Network(server)
    async with between.proxy:
        yield between
