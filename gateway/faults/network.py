"""The connections between two sides, and the faults that they meet."""

import asyncio
import dataclasses
import socket
from collections.abc import Callable

from moorline.gateway.faults.armed import Armed
from moorline.gateway.faults.catalogue import Phase
from moorline.gateway.faults.link import Dial, Link

__all__ = ["FaultyNetwork"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    """A connection of which nothing is read."""

    armed: Armed
    timer: asyncio.TimerHandle | None
    dial: Dial


class FaultyNetwork:
    """Everything that is open through it ends with it. Where connections come from is its subclasses'."""

    def __init__(self, note: Callable[[str], None] = lambda _: None) -> None:
        self.note = note
        self.armed: list[Armed] = []
        self._links: set[Link] = set()
        self._held: dict[socket.socket, _Held] = {}
        self._outages: dict[Armed, asyncio.TimerHandle | None] = {}

    async def aclose(self) -> None:
        """Reset what is open."""
        self.armed.clear()
        for timer in self._outages.values():
            if timer is not None:
                timer.cancel()
        for link in list(self._links):
            await link.aclose()
        for sock in list(self._held):
            self._unhold(sock)
            sock.close()

    # Faults -----------------------------------------------------------------------------------------------------------

    def arm(self, armed: Armed) -> None:
        """From now on connections meet this fault, open ones as well where it acts on open ones."""
        self.armed.append(armed)
        if armed.fault.phase is Phase.OUTAGE and armed.after_bytes is None:
            self.outage(armed)
        else:
            for link in list(self._links):
                link.meet(armed)

    def disarm(self, armed: Armed) -> None:
        """The fault is over; an application that still runs meets it no more."""
        self.armed.remove(armed)
        self._end_outage(armed)
        for link in list(self._links):
            link.disarm(armed)
        for sock in [sock for sock, held in self._held.items() if held.armed is armed]:
            self._begin(sock, self._unhold(sock).dial)

    def outage(self, armed: Armed) -> None:
        """Refuse new connections, and do to the open ones what the fault does."""
        if armed.met or not armed.claims():
            return
        self.note(f"{armed}")
        self._outage_begins()
        for link in list(self._links):
            link.play_outage(armed.make())
        seconds = armed.parameters["seconds"]
        loop = asyncio.get_running_loop()
        self._outages[armed] = None if seconds is None else loop.call_later(seconds, self._end_outage, armed)

    def _end_outage(self, armed: Armed) -> None:
        if armed not in self._outages:
            return
        timer = self._outages.pop(armed)
        if timer is not None:
            timer.cancel()
        if not self._outages:
            self._outage_ends()

    def _outage_begins(self) -> None:
        """New connections are to be refused."""

    def _outage_ends(self) -> None:
        """New connections are to be accepted."""

    # Connections ------------------------------------------------------------------------------------------------------

    def _hold_if_armed(self, sock: socket.socket, dial: Dial) -> bool:
        """Whether a fault of new connections takes this one."""
        for armed in self.armed:
            if armed.fault.phase is Phase.CONNECT and armed.claims():
                self._hold(armed, sock, dial)
                return True
        return False

    def _hold(self, armed: Armed, sock: socket.socket, dial: Dial) -> None:
        self.note(f"{armed} met a connection")

        def expire() -> None:
            self._unhold(sock)
            sock.close()

        seconds = armed.resets_after
        timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, expire)
        self._held[sock] = _Held(armed, timer, dial)

    def _unhold(self, sock: socket.socket) -> _Held:
        held = self._held.pop(sock)
        if held.timer is not None:
            held.timer.cancel()
        return held

    def _begin(self, sock: socket.socket, dial: Dial) -> None:
        self._link(dial).begin(sock)

    def _link(self, dial: Dial) -> Link:
        link = Link(self, dial)
        self._links.add(link)
        return link

    def discard(self, link: Link) -> None:
        self._links.discard(link)
