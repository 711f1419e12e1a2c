"""One connection through a proxy, and the faults that it meets."""

import asyncio
import dataclasses
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from moorline.gateway.faults.armed import Armed
from moorline.gateway.faults.catalogue import Phase, Script, Step
from moorline.gateway.faults.dialogue import Dialogue, Follower, Head
from moorline.gateway.faults.end import End
from moorline.gateway.faults.shaping import Shaper

__all__ = ["SERVER_ENDED", "Dial", "Link", "Network"]

#: Establishes a connection for an end, or raises OSError.
Dial = Callable[[End], Awaitable[None]]

#: Noted where no fault did it.
SERVER_ENDED = "a WebSocket was ended by its server"


class Network(Protocol):
    """What a link asks of its network."""

    armed: list[Armed]

    def note(self, text: str) -> None: ...
    def outage(self, armed: Armed) -> None: ...
    def discard(self, link: "Link") -> None: ...


@dataclasses.dataclass(slots=True)
class _Trigger:
    """A fault that waits for a number of bytes or for silence."""

    armed: Armed
    left: int
    timer: asyncio.TimerHandle | None = None


class Link:
    """A client's connection, and the one to the server, which is made with the first request, or by `dial` before."""

    def __init__(self, network: Network, dial: Dial) -> None:
        self._network = network
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        self.client, self.server = End(self), End(self)
        self.client.other, self.server.other = self.server, self.client
        self._dialogue = Dialogue()
        self._up, self._down = Follower(), Follower()
        self._path, self._upgrades = "", False
        self._triggers: list[_Trigger] = []
        self._shapers: dict[Armed, dict[End, Shaper]] = {}
        self._drops_pongs: set[Armed] = set()
        self._last = self._loop.time()
        self._timers: list[asyncio.TimerHandle] = []
        self._accepting: asyncio.Task[None] | None = None
        self._has_dialed = False
        self._dialing: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._discards = False
        """Nothing is passed on any more."""

    def begin(self, sock: socket.socket) -> None:
        """Serve this connection of a client's."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepting = self._loop.create_task(self._accept(sock))

    async def dial(self) -> None:
        """Establish the server's connection.

        Raises:
            OSError
        """
        self._has_dialed = True
        await self._dial(self.server)

    def dial_now(self) -> None:
        """Establish it without waiting for it; where that fails, the client's connection is reset."""
        if not self._has_dialed:
            self._has_dialed = True
            self._dialing = self._loop.create_task(self._dial_or_abort())

    def abort(self) -> None:
        """End both connections with a reset, now."""
        self._stop()
        for end in (self.client, self.server):
            end.reset()

    async def aclose(self) -> None:
        """`abort`, and wait for what is under way."""
        if self._accepting is not None:
            await self._accepting
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.gather(self._dialing, return_exceptions=True)
        self.abort()
        await self._over.wait()

    # Events of the two ends -------------------------------------------------------------------------------------------

    def received(self, end: End, data: bytes) -> None:
        self._last = self._loop.time()
        if self._discards:
            return
        parts = self._dialogue.from_client(data) if end is self.client else self._dialogue.from_server(data)
        for part in parts:
            self._pass_on(end, part)

    def _pass_on(self, end: End, part: Head | bytes) -> None:
        if self._discards:
            return
        if end is self.client:
            self._request(part) if isinstance(part, Head) else self._to_server(part)
        else:
            self._response(part) if isinstance(part, Head) else self._to_client(part)

    def ended(self, end: End) -> None:
        if self._discards:
            end.close()
            return
        if end is self.server:
            self._note_end()
            self._send(self.client, self._down.flush() + self._dialogue.flush())
        self._flush_shapers(end.other)
        if end.other.eof:
            for each in (end, end.other):
                each.then(each.close)
        elif end is self.client and not self._has_dialed:
            end.close()
        else:
            end.other.then(end.other.write_eof)

    def lost(self, end: End, *, reset: bool) -> None:
        if end is self.server and reset and not self._discards:
            self._note_end()
        self._stop()
        end.other.then(end.other.reset if reset else end.other.close)
        if self.client.is_lost and (self.server.is_lost or self.server.transport is None):
            self._end()

    def _note_end(self) -> None:
        if self._dialogue.websocket:
            self._network.note(SERVER_ENDED)

    def _end(self) -> None:
        self._over.set()
        self._network.discard(self)

    # HTTP -------------------------------------------------------------------------------------------------------------

    def _request(self, head: Head) -> None:
        self._path, self._upgrades = head.target, head.upgrades
        self._cancel_triggers()
        data = head.data
        for armed in self._meets(Phase.REQUEST):
            made = armed.make()
            if not callable(made):
                self._play(armed, made)
                self._discards = True
                return
            data = made(data)
        self._to_server(data)

    def _response(self, head: Head) -> None:
        data = head.data
        for armed in self._meets(Phase.RESPONSE) if head.is_final else ():
            data = armed.make()(data)
        self.client.send(data)
        if head.is_final:
            for armed in list(self._network.armed):
                self.meet(armed)

    def _meets(self, phase: Phase) -> Sequence[Armed]:
        return [armed for armed in self._network.armed if armed.fault.phase is phase and self._claims(armed)]

    def _claims(self, armed: Armed) -> bool:
        claims = armed.claims(self._path, upgrades=self._upgrades)
        if claims:
            self._network.note(f"{armed} met {'a WebSocket' if self._upgrades else 'a request'}")
        return claims

    # Behind the headers -----------------------------------------------------------------------------------------------

    def meet(self, armed: Armed) -> None:
        """Meet a fault of an open connection, if this is one that does."""
        phase = armed.fault.phase
        if self._discards or not self._dialogue.in_response or armed in self._shapers:
            return
        if phase is Phase.OUTAGE and armed.after_bytes is not None and armed.met == 0:
            self._wait_for(armed)
        elif phase is Phase.CARRY and self._claims(armed):
            if armed.fault.name == "drop_pong":
                self._drops_pongs.add(armed)
            else:
                ends = (self.client,) if armed.fault.only_responses else (self.client, self.server)
                self._shapers[armed] = {end: armed.make() for end in ends}
        elif phase is Phase.OPEN and self._claims(armed):
            self._wait_for(armed)

    def _wait_for(self, armed: Armed) -> None:
        trigger = _Trigger(armed, armed.after_bytes or 0)
        self._triggers.append(trigger)
        if armed.idle is not None:
            self._check_idle(trigger, armed.idle)
        elif trigger.left == 0 and self._may_act(trigger, b"") == 0:
            self._act(trigger)

    def _check_idle(self, trigger: _Trigger, idle: float) -> None:
        wait = self._last + idle - self._loop.time()
        if wait > 0:
            trigger.timer = self._loop.call_later(wait, self._check_idle, trigger, idle)
        else:
            self._act(trigger)

    def _may_act(self, trigger: _Trigger, data: bytes) -> int | None:
        """Behind how many of these bytes of the server's; None: not yet."""
        if trigger.armed.idle is not None:
            return None
        return self._down.to_boundary(data) if trigger.armed.fault.at_boundary else 0

    def _act(self, trigger: _Trigger) -> None:
        self._triggers.remove(trigger)
        if trigger.armed.fault.phase is Phase.OUTAGE:
            self._network.outage(trigger.armed)
        else:
            self._play(trigger.armed, trigger.armed.make())

    def _to_client(self, data: bytes) -> None:
        for trigger in self._triggers:
            if trigger.left > len(data) or trigger.armed.idle is not None:
                continue
            before, data = data[: trigger.left], data[trigger.left :]
            self._count(len(before))
            self._pass_down(before)
            size = self._may_act(trigger, data)
            if size is not None:
                self._pass_down(data[:size])
                self._act(trigger)
                if not self._discards:
                    self._to_client(data[size:])
                return
            break
        self._count(len(data))
        self._pass_down(data)

    def _count(self, size: int) -> None:
        for trigger in self._triggers:
            trigger.left = max(0, trigger.left - size)

    def _pass_down(self, data: bytes) -> None:
        if self._dialogue.websocket:
            data = self._down.receive(data, drop_pongs=bool(self._drops_pongs))
        self._send(self.client, data)
        if not self._dialogue.in_response:
            self._flush_shapers(self.client)

    def _to_server(self, data: bytes) -> None:
        self.dial_now()
        if self._dialogue.websocket:
            data = self._up.receive(data, drop_pongs=bool(self._drops_pongs))
        self._send(self.server, data)

    def _send(self, end: End, data: bytes) -> None:
        """Through all shapers."""
        parts: Sequence[tuple[float, bytes]] = [(self._loop.time(), data)] if data else []
        for shaper in self._shapers_of(end):
            parts = [planned for due, part in parts for planned in shaper.plan(part, due)]
        for due, part in parts:
            end.send(part, due if self._shapers else 0.0)

    def _flush_shapers(self, end: End) -> None:
        for shaper in self._shapers_of(end):
            end.send(shaper.flush())

    def _shapers_of(self, end: End) -> Sequence[Shaper]:
        return [shapers[end] for shapers in self._shapers.values() if end in shapers]

    async def _dial_or_abort(self) -> None:
        try:
            await self._dial(self.server)
        except OSError:
            self.abort()
            return
        if self.client.is_lost:
            self.server.reset()

    async def _accept(self, sock: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: self.client, sock)
        except OSError:
            # It ended before it was served.
            sock.close()
            self.server.reset()
            self._end()

    # Faults -----------------------------------------------------------------------------------------------------------

    def play_outage(self, script: Script) -> None:
        """The listening port goes, and this connection with it."""
        if not self._discards:
            at_boundary = self._dialogue.websocket and self._down.to_boundary(b"") == 0
            # A Close frame goes only where one may stand.
            self._run(None, (action for action in script if at_boundary or not isinstance(action, bytes)))

    def _play(self, armed: Armed, script: Script) -> None:
        if armed.resets_after is not None:
            self._timers.append(self._loop.call_later(armed.resets_after, self.abort))
        self._run(armed, script)

    def _run(self, armed: Armed | None, script: Script) -> None:
        for action in script:
            if isinstance(action, Step):
                self._do(action, armed)
            elif isinstance(action, bytes):
                self._send(self.client, action)
            else:
                self._timers.append(self._loop.call_later(action, self._run, armed, script))
                return

    def _do(self, step: Step, reason: object) -> None:
        if step in (Step.FIN, Step.RESET, Step.SILENCE):
            self._discards = True
        if step is Step.FIN:
            for end in (self.client, self.server):
                end.then(end.finish)
        elif step is Step.RESET:
            self.client.then(self.abort)
        elif step is Step.VANISH:
            for end in (self.client, self.server):
                end.hold(reason)
        if step in (Step.STALL_CLIENT, Step.VANISH):
            self.server.pause(reason)
        if step in (Step.STALL_SERVER, Step.VANISH):
            self.client.pause(reason)

    def disarm(self, armed: Armed) -> None:
        """The fault is over: what it held back is passed on."""
        self._cancel_triggers(lambda trigger: trigger.armed is armed)
        self._drops_pongs.discard(armed)
        for end, shaper in self._shapers.pop(armed, {}).items():
            end.send(shaper.flush())
        for end in (self.client, self.server):
            end.resume(armed)
            end.release(armed)

    def _cancel_triggers(self, of: Callable[[_Trigger], bool] = lambda _: True) -> None:
        for trigger in [each for each in self._triggers if of(each)]:
            self._triggers.remove(trigger)
            if trigger.timer is not None:
                trigger.timer.cancel()

    def _stop(self) -> None:
        self._discards = True
        self._cancel_triggers()
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
