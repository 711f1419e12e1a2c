"""Live tunnels on their way from the old process of a gateway to the new one.

    new   greeting: it knows this version of the state
    old   counts, first and now and then: what was counted since the last of these messages
    old   a tunnel: its state, and the descriptors of both connections            many at a time
    new   taken, before it touches the tunnel; or not taken
    old   all that could go has been given, once; later tunnels follow
    ...   until the old process ends

Which of the two has a tunnel is always decided: it is the old process's until `taken` has been sent, and the new one's
from then on. The old process stops a tunnel as it sends it, forgets it when it is taken, and goes on with it where the
new one refuses it or dies before. What the new process had taken ends with it, and nothing else does.

Who counts: a number is in the scrapes of one process alone. The old one answers no scrape any more once it has been
told of its successor, which answers them from the first counts on. Of a tunnel the new one counts what came after
these.

A drain of either process ends the hand-over: each has the tunnels that are its own then, and ends them.
"""

import asyncio
import collections
import contextlib
import dataclasses
import errno
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence

from moorline.gateway.common.config.units import counted
from moorline.gateway.common.descriptors import DescriptorChannel
from moorline.gateway.counts import Counts, Traffic
from moorline.gateway.proxy.tunnels import SocketState, Tunnels
from moorline.gateway.tunnel.relay import Relay
from moorline.gateway.tunnel.state import VERSION, TunnelState, Unreadable, decode, encode

__all__ = ["HandOverFailed", "begin_hand_over", "hand_over", "take_over"]

log = logging.getLogger("moorline.gateway.handover")

_GREETING = b"moorline tunnels %d" % VERSION
_COUNTS = b"c"
_TUNNEL = b"t"
_ALL_GIVEN = b"e"
_TAKEN = b"y"
_NOT_TAKEN = b"n"
# Tunnels that neither process serves at one moment: what a tunnel's pause consists of.
_UNDER_WAY = 8
# Of them, without a turn for the sockets that are served.
_BURST = 2
# Handshakes that were under way become tunnels of the old process, and tunnels that could not go yet may later.
_AGAIN_SECONDS = 0.1
_COUNTS_SECONDS = 1.0
_GREETING_SECONDS = 10.0
# For answers about tunnels that are under way when the old process gives no more. A process that works needs none.
_ANSWER_SECONDS = 2.0


class HandOverFailed(Exception):
    """The new process takes no tunnels, or ended before it had all."""


def _connection(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


async def begin_hand_over(
    tunnels: Tunnels,
    sock: socket.socket,
    connection: Callable[[int], socket.socket] = _connection,
    *,
    only_counts: bool = False,
) -> "asyncio.Task[None] | None":
    """Return once each tunnel that can go has been taken: the task that gives later ones, until it is cancelled; None
    where it failed, which the log says. `only_counts`: all tunnels stay."""
    done = asyncio.Event()
    giving = asyncio.create_task(hand_over(tunnels, sock, done, connection, only_counts=only_counts))
    finished = asyncio.create_task(done.wait())
    try:
        await asyncio.wait([giving, finished], return_when=asyncio.FIRST_COMPLETED)
        if not giving.done():
            return giving
        giving.result()
    except HandOverFailed as error:
        log.error("the sockets stay in the old process: %s", error)
    except asyncio.CancelledError:
        giving.cancel()
        await asyncio.gather(giving, return_exceptions=True)
        raise
    finally:
        finished.cancel()
    return None


async def hand_over(
    tunnels: Tunnels,
    sock: socket.socket,
    done: asyncio.Event,
    connection: Callable[[int], socket.socket] = _connection,
    *,
    only_counts: bool = False,
) -> None:
    """Give all tunnels to the process behind `sock`, and later ones, until this is cancelled; with `only_counts` none.
    `done` is set once each that can go has been taken.

    Raises:
        HandOverFailed: it knows another version of the state or has ended, or this process drains. What it had not
            taken is served here on.
    """
    with DescriptorChannel(sock) as channel:
        handing = _HandOver(tunnels, channel, connection, only_counts=only_counts)
        try:
            if not await _until_drain(tunnels, handing.give_all()):
                raise HandOverFailed("this process drains")
            done.set()
            await handing.follow()
        finally:
            await handing.settle()


async def _until_drain(tunnels: Tunnels, work: Coroutine[object, object, None]) -> bool:
    """Do it until this process drains; whether it was completed."""
    working = asyncio.create_task(work)
    draining = asyncio.create_task(tunnels.draining())
    try:
        await asyncio.wait([working, draining], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, draining):
            task.cancel()
        await asyncio.gather(working, draining, return_exceptions=True)
    if working.cancelled():
        return False
    working.result()
    return True


class _HandOver:
    """The old process's side."""

    def __init__(
        self,
        tunnels: Tunnels,
        channel: DescriptorChannel,
        connection: Callable[[int], socket.socket],
        *,
        only_counts: bool,
    ) -> None:
        self._tunnels = tunnels
        self._channel = channel
        self._connection = connection
        self._only_counts = only_counts
        self._untaken: collections.deque[tuple[SocketState, int, int]] = collections.deque()
        self._answered = asyncio.Event()
        # By request id: they stay.
        self._refused: set[str] = set()
        self._taken = 0
        self._has_counted = False
        self._answers: asyncio.Task[None] | None = None

    async def give_all(self) -> None:
        """Return when each tunnel that can go has been taken."""
        clock = asyncio.get_running_loop().time
        began = clock()
        await self._greeted()
        self._answers = asyncio.create_task(self._receive_answers())
        self._answers.add_done_callback(lambda _: self._answered.set())
        with _translated():
            await self._send_counts()
            await self._send_all(self._answers)
            await self._channel.send(_ALL_GIVEN)
        sockets = counted(self._taken, "socket")
        log.info("handed over %s in %.2fs; %d stay", sockets, clock() - began, len(self._tunnels))

    async def follow(self) -> None:
        """Give what can go later, and what is counted here, until this is cancelled."""
        assert self._answers is not None, "all has been given"
        clock = asyncio.get_running_loop().time
        with _translated():
            counts_at = clock() + _COUNTS_SECONDS
            while True:
                try:
                    await asyncio.wait([self._answers], timeout=_AGAIN_SECONDS)
                except asyncio.CancelledError:
                    # What this process has finished since.
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        await self._send_counts()
                    raise
                _check(self._answers)
                if not self._tunnels.is_draining:
                    await self._send_all(self._answers)
                if clock() >= counts_at:
                    counts_at = clock() + _COUNTS_SECONDS
                    await self._send_counts()

    async def settle(self) -> None:
        """Decide about what is under way: the new process answers for what it has whole, and closes the connection."""
        if (answers := self._answers) is None:
            return
        try:
            if self._untaken and not answers.done():
                self._channel.finish()
                await asyncio.wait([answers], timeout=_ANSWER_SECONDS)
        finally:
            is_decided = answers.done()
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            while self._untaken:
                state, *descriptors = self._untaken.popleft()
                if is_decided:
                    await self._go_on(state, *descriptors)
                    continue
                # It is stopped or hangs, and would take them when it goes on: two processes must not relay one stream.
                log.error("a socket has ended: the new process does not answer request_id=%s", state.request_id)
                _close(descriptors)

    async def _send_counts(self) -> None:
        if (counts := self._tunnels.take_counts()) != Counts() or not self._has_counted:
            self._has_counted = True
            await self._channel.send(_COUNTS + encode(counts))

    async def _greeted(self) -> None:
        try:
            async with asyncio.timeout(_GREETING_SECONDS):
                message = await self._channel.receive()
        except (OSError, TimeoutError) as error:
            raise HandOverFailed("the new process does not ask for the sockets") from error
        if message is None or message[0] != _GREETING:
            raise HandOverFailed("the new process knows another form of the sockets' state")

    async def _send_all(self, answers: "asyncio.Task[None]") -> None:
        """Return when each that can go has been taken or refused."""
        relays = [] if self._only_counts else self._tunnels.relays(besides=self._refused)
        for number, relay in enumerate(relays):
            if number % _BURST == 0:
                await asyncio.sleep(0)
            while len(self._untaken) >= _UNDER_WAY:
                await self._answer(answers)
                _check(answers)
            await self._send(relay)
        while self._untaken:
            await self._answer(answers)
            _check(answers)

    async def _send(self, relay: Relay) -> None:
        if (detached := self._tunnels.detach(relay)) is None:
            return
        state, client, upstream = detached
        self._untaken.append(detached)
        try:
            await self._channel.send(_TUNNEL + encode(state), (client, upstream))
        except OSError as error:
            # The other end cannot have all of the message, and answers nothing.
            self._untaken.pop()
            await self._go_on(*detached)
            if error.errno != errno.ETOOMANYREFS:
                raise
            # The system's limit on descriptors under way: it goes later.

    async def _answer(self, answers: "asyncio.Task[None]") -> None:
        """Return at the next answer, or when there will be none."""
        if not answers.done():
            self._answered.clear()
            await self._answered.wait()

    async def _receive_answers(self) -> None:
        while (message := await self._channel.receive()) is not None:
            state, client, upstream = self._untaken.popleft()
            if message[0] == _TAKEN:
                self._taken += 1
                _close((client, upstream))
            else:
                self._refused.add(state.request_id)
                await self._go_on(state, client, upstream)
            self._answered.set()

    async def _go_on(self, state: SocketState, client: int, upstream: int) -> None:
        await _adopt(self._tunnels, self._connection, state, client, upstream)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HandOverFailed(f"the new process has ended: {error}") from error


def _check(answers: "asyncio.Task[None]") -> None:
    if answers.done():
        answers.result()
        raise ConnectionResetError("it closed the connection")


async def take_over(
    tunnels: Tunnels,
    sock: socket.socket,
    connection: Callable[[int], socket.socket] = _connection,
    *,
    on_counts: Callable[[], None] = lambda: None,
    on_all: Callable[[], None] = lambda: None,
    is_same_place: bool = True,
) -> None:
    """Take what the process behind `sock` gives, until that has ended or this one drains. `connection` makes a client's
    connection of its descriptor. `on_counts` is called once its counts are here, or do not come, and `on_all` when all
    has come that could at once. Another place's counts are left out: they are in series of their own.
    """
    with DescriptorChannel(sock) as channel:
        try:
            taking = _TakeOver(tunnels, channel, connection, on_counts, on_all, is_same_place=is_same_place)
            await _until_drain(tunnels, taking.run())
        finally:
            on_counts()


class _TakeOver:
    """The new process's side."""

    def __init__(
        self,
        tunnels: Tunnels,
        channel: DescriptorChannel,
        connection: Callable[[int], socket.socket],
        on_counts: Callable[[], None],
        on_all: Callable[[], None],
        *,
        is_same_place: bool,
    ) -> None:
        self._tunnels = tunnels
        self._channel = channel
        self._connection = connection
        self._on_counts = on_counts
        self._on_all = on_all
        self._is_same_place = is_same_place
        self._adopting: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        taken = 0
        try:
            # What is no count ends the connection as its end does.
            with contextlib.suppress(OSError, Unreadable):
                await self._channel.send(_GREETING)
                while (message := await self._channel.receive()) is not None:
                    taken += await self._take(*message)
                    while len(self._adopting) >= _UNDER_WAY:
                        await asyncio.wait(self._adopting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A tunnel that was taken is this process's, whatever ends the hand-over.
            if self._adopting:
                await asyncio.wait(self._adopting)
            log.info("took over %s", counted(taken, "socket"))

    async def _take(self, payload: bytes, descriptors: list[int]) -> bool:
        """Whether it is a tunnel, and this process's from now on."""
        if payload[:1] == _COUNTS:
            if self._is_same_place:
                self._tunnels.add_counts(decode(Counts, payload[1:]))
            self._on_counts()
            return False
        if payload == _ALL_GIVEN:
            self._on_all()
            return False
        try:
            state = decode(SocketState, payload[1:])
            client, upstream = descriptors
            if (reason := self._tunnels.refusal(state)) is not None:
                raise ValueError(reason)
        except ValueError as error:
            # Also where this process has no descriptor left.
            log.warning("a socket was not taken over: %s", error)
            _close(descriptors)
            await self._channel.send(_NOT_TAKEN)
            return False
        try:
            with contextlib.suppress(OSError):
                # Where the old process has ended, the tunnel is here all the same.
                await self._channel.send(_TAKEN)
        except asyncio.CancelledError:
            # An answer is sent whole or not at all.
            _close(descriptors)
            raise
        if not self._is_same_place:
            state = dataclasses.replace(state, counted=_counted(state.tunnel))
        task = asyncio.create_task(_adopt(self._tunnels, self._connection, state, client, upstream))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)
        return True


def _counted(tunnel: TunnelState) -> Traffic:
    client, upstream = tunnel.client, tunnel.upstream
    return Traffic(client.size, upstream.size, client.frames, upstream.frames)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


async def _adopt(
    tunnels: Tunnels, connection: Callable[[int], socket.socket], state: SocketState, client: int, upstream: int
) -> None:
    """Go on with a tunnel. One that cannot ends alone."""
    try:
        await tunnels.adopt(state, connection(client), socket.socket(fileno=upstream))
    except OSError as error:
        log.error("a socket that was taken over has ended: %s request_id=%s", error, state.request_id)
    except Exception:
        log.exception("a socket that was taken over has ended: request_id=%s", state.request_id)
