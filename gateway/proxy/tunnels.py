"""The open tunnels of one gateway: their limits, their hand-over, and their end when the gateway drains."""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import math
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Container, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from aiohttp import hdrs, web

from moorline.gateway.common import tracing
from moorline.gateway.common.access.places import count_down
from moorline.gateway.common.access.rights import Rights
from moorline.gateway.common.access.rules import AccessRules
from moorline.gateway.common.web.draining import Draining
from moorline.gateway.common.web.idle import Descriptors
from moorline.gateway.common.web.reconnect_window import Measured, ReconnectWindow
from moorline.gateway.common.web.tls import SERVER_TLS
from moorline.gateway.common.web.turns import Turns
from moorline.gateway.counts import Counts, Gauges, Traffic
from moorline.gateway.errors import BadUpstreamResponse, ShuttingDown
from moorline.gateway.keys import (
    ACCESS_RULES,
    DRAINING,
    HELD_RIGHT,
    METRICS,
    REQUEST_ID,
    RIGHTS,
    ROUTES,
    SETTINGS,
)
from moorline.gateway.proxy.exchange import Exchange
from moorline.gateway.proxy.held_right import HeldRight, RightState
from moorline.gateway.proxy.retry_queue import RETRY_QUEUES
from moorline.gateway.proxy.routes import Destination, Owner, Routes
from moorline.gateway.proxy.socket_limits import SocketLimits
from moorline.gateway.proxy.socket_log import end_span, log_closed, log_opened
from moorline.gateway.proxy.sockets import Ends, Socket
from moorline.gateway.proxy.upgrade import switch
from moorline.gateway.proxy.upstreams import Upstream
from moorline.gateway.settings import Settings
from moorline.gateway.tunnel.buffered import Buffered
from moorline.gateway.tunnel.endings import Reconnect, Side
from moorline.gateway.tunnel.machine import Limits, Tunnel
from moorline.gateway.tunnel.relay import Ended, Relay, Shared
from moorline.gateway.tunnel.resume import resume
from moorline.gateway.tunnel.state import TunnelState
from moorline.gateway.tunnel.timers import Timers

if TYPE_CHECKING:
    from moorline.gateway.metrics import Metrics

__all__ = ["TUNNELS", "SocketState", "Tunnels", "tunnels"]

T = TypeVar("T")

log = logging.getLogger("moorline.gateway.ws")

# So many tunnels are ended at once when the gateway drains; more are ended in steps over this part of the drain.
_AT_ONCE = 100
_SPREAD = 0.8
_STEP_SECONDS = 0.05
# Until the next gateway is ready for clients that were told when to come back.
_RESTART_SECONDS = 2.0
# Of so many handshakes one is measured: the clock is read twice for each step.
_MEASURED = 16
# See ReconnectWindow: the parsing and the end of the request, and the backend's part.
_WHOLE_RECONNECT = 10.0
_MEAN_OF = 16
# For tunnels that are left at the end of the drain: their last bytes are sent within this time or discarded.
_FLUSH_SECONDS = 0.25
_OF_A_ROUTE = ("proxy_read_timeout", "proxy_send_timeout", "send_timeout")
# Of max_connections.
_NOTEWORTHY = 0.95


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SocketState:
    """All that a process needs to go on with a socket of another one, beside its two connections."""

    request_id: str
    route: str
    client: str
    upstream: str
    opened: float
    tunnel: TunnelState
    origin: str | None
    host: str
    guarded: bool
    """Whether there was an authorize hook."""
    right: RightState | None
    """What the hook decided, where it was asked."""
    counted: Traffic
    """What of it was in `Counts` already."""


class _Open(NamedTuple):
    """What an open socket uses until it ends."""

    socket: Socket
    upstream: Upstream | None
    """None where the socket was taken over and this configuration does not name its upstream."""
    right: HeldRight | None
    origin: str | None
    """The handshake's, which the next configuration may not allow any more."""
    host: str
    answers_key: bool = True
    """Whether the upstream's 101 was the answer to the client's key. Not handed over: such a socket ends at once."""


class Tunnels:
    """The open tunnels, and the handshakes under way."""

    def __init__(
        self,
        settings: Settings,
        rules: AccessRules,
        draining: Draining,
        metrics: "Metrics | None",
        routes: Routes,
        rights: Rights | None,
        restored: Callable[[Rights, RightState, str], Awaitable[HeldRight]],
    ) -> None:
        most = _most_sockets(settings.max_connections)
        self._socket_limits = SocketLimits(
            most,
            settings.max_connections_per_address,
            rules.trusts,
            handshakes_per_address=settings.handshakes_per_address,
        )
        self._limits = Limits.of(settings)
        self._limits_by_destination: dict[Destination, Limits] = {}
        self._stay_here = settings.faults
        self._routes = routes
        self._rights = rights
        self._restored = restored
        self._rules = rules
        self._names_upstream = len(list(routes.each_upstream())) > 1
        self._draining = draining
        self._metrics = metrics
        self._ended_traffic = Traffic()
        # Of open tunnels: what was counted elsewhere.
        self._told: dict[Relay, Traffic] = {}
        self._sockets: dict[Relay, _Open] = {}
        # How many have each id, which is a proxy's where that is trusted. A Counter looks up in Python what it lacks.
        self._ids: dict[str, int] = {}
        # Only with traces.
        self._spans: dict[Relay, tracing.Span] = {}
        self.ends = Ends()
        self._reconnect_window = ReconnectWindow(whole=_WHOLE_RECONNECT, weight=_MEAN_OF)
        self._handshakes = 0
        self._loop = asyncio.get_running_loop()
        self._shared = Shared(
            Turns(self._loop),
            Timers(self._loop),
            Buffered(settings.max_buffered),
            self._ended,
            None if metrics is None else metrics.round_trip,
        )
        self._none_left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._sockets)

    def open_sockets(self) -> Iterable[tuple[Socket, Tunnel]]:
        """Each open socket with its state."""
        return ((each.socket, relay.tunnel) for relay, each in self._sockets.items())

    def holds(self, request_id: str) -> bool:
        """Whether the socket with this id is open."""
        return request_id in self._ids

    def admit(self, address: str) -> None:
        """Count a handshake of this client, which may become a tunnel; `dismiss` it where it does not.

        Raises:
            GatewayError: the gateway drains, there are `max_connections` already, or this is one too many.
        """
        if self._draining.is_set():
            raise ShuttingDown
        self._socket_limits.admit(address, self._loop.time())

    def dismiss(self, address: str) -> None:
        """A handshake of this client has ended."""
        self._socket_limits.remove(address)

    def open(self, exchange: Exchange, head: bytes, *, answers_key: bool) -> None:
        """Answer the client with `head` and relay from now on. The exchange's upstream is released at the end.

        `answers_key`: the 101 has the Sec-WebSocket-Accept of the client's key.
        """
        if self._draining.is_set():
            raise ShuttingDown
        destination, upstream, items = exchange.destination, exchange.upstream, exchange.items
        address, request_id, headers = exchange.client, items[REQUEST_ID], exchange.request.headers
        socket = Socket(request_id, destination.route.path, address, upstream.url, self._loop.time())
        limits = self._limits_for(destination)
        relay = switch(exchange.request, exchange.connection.hand_over, head, limits, self._shared)
        # Many sockets have one page.
        host = sys.intern(headers.get(hdrs.HOST, ""))
        origin = sys.intern(", ".join(headers.getall(hdrs.ORIGIN))) if hdrs.ORIGIN in headers else None
        each = _Open(socket, upstream, items.get(HELD_RIGHT), origin, host, answers_key)
        exchange.detach()
        self._add(relay, each)
        if each.right is not None:
            self._keep(relay, each.right)
        if tracing.is_on():
            name = f"WebSocket {destination.route.path}"
            self._spans[relay] = tracing.begin(name, network__protocol__name="websocket")
        log_opened(socket, names_upstream=self._names_upstream, answers_key=answers_key)

    def measured(self, handshake: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """The handshake to await: as it is, or one that notes what it costs."""
        self._handshakes += 1
        return handshake if self._handshakes % _MEASURED else self._measure(handshake)

    async def _measure(self, handshake: Coroutine[Any, Any, T]) -> T:
        work = Measured(handshake)
        result = await work
        self._reconnect_window.add(work.seconds)
        return result

    # From one process to another --------------------------------------------------------------------------------------

    def relays(self, *, besides: Container[str] = ()) -> list[Relay]:
        """All that are open now, but those of these requests."""
        return [relay for relay, each in self._sockets.items() if each.socket.request_id not in besides]

    def detach(self, relay: Relay) -> tuple[SocketState, int, int] | None:
        """Take a tunnel out of this process; see `Relay.detach`. None also where its right cannot go, and with
        `faults`, whose networks are within this process."""
        each = self._sockets.get(relay)
        if self._stay_here or each is None:
            return None
        right = None if each.right is None else each.right.state()
        if (each.right is not None and right is None) or (detached := relay.detach()) is None:
            return None
        self._remove(relay)
        self._spans.pop(relay, tracing.NO_SPAN).end()
        tunnel, client, upstream = detached
        state = SocketState(
            request_id=each.socket.request_id,
            route=each.socket.route,
            client=each.socket.client,
            upstream=each.socket.upstream,
            opened=each.socket.opened,
            tunnel=tunnel,
            origin=each.origin,
            host=each.host,
            guarded=self._rights is not None,
            right=right,
            counted=self._told.pop(relay, Traffic()),
        )
        return state, client, upstream

    def refusal(self, state: SocketState) -> str | None:
        """Why this configuration would have refused the socket's handshake, so that it must not be adopted; None where
        it would not, or a hook decides that was asked before."""
        if self._rights is not None and not state.guarded:
            return "the authorize hook is new, and asked first"
        if not self._rules.allows_origin(state.origin, state.host):
            return "its Origin is none of allowed_origins any more"
        if state.host and not self._rules.allows_host(state.host):
            return "its Host is none of allowed_hosts any more"
        return None

    async def adopt(self, state: SocketState, client: socket.socket, upstream: socket.socket) -> None:
        """Go on with a tunnel that was detached, here or elsewhere. It counts as a socket, whatever the limits.

        Raises:
            OSError: a connection is none.
        """
        known = next((each for each in self._routes.each_upstream() if each.url == state.upstream), None)
        destination = self._routes.match(state.route.rstrip("/") + "/")
        try:
            right = await self._restored_right(state)
        except BaseException:
            client.close()
            upstream.close()
            raise
        opened = _Open(
            Socket(state.request_id, state.route, state.client, state.upstream, state.opened),
            known,
            right,
            state.origin,
            state.host,
        )

        def add(relay: Relay) -> None:
            if known is not None:
                known.connections += 1
            self._socket_limits.add(opened.socket.client)
            self._add(relay, opened)
            self._told[relay] = state.counted

        try:
            relay = await resume(
                state.tunnel,
                client,
                upstream,
                self._limits if destination is None else self._limits_for(destination),
                self._shared,
                on_start=add,
            )
        except BaseException:
            if right is not None:
                right.release()
            raise
        # Not before: what was unsent goes first, and a Close frame behind it.
        if right is not None:
            self._keep(relay, right)
        if self._draining.is_set() and relay in self._sockets:
            relay.shut_down()

    async def _restored_right(self, state: SocketState) -> HeldRight | None:
        if self._rights is None or state.right is None:
            return None
        return await self._restored(self._rights, state.right, state.client)

    @property
    def is_draining(self) -> bool:
        return self._draining.is_set()

    async def draining(self) -> None:
        """Wait until the drain begins, which ends all tunnels."""
        await self._draining.wait()

    def take_counts(self) -> Counts:
        """What was counted here since the last call, of open tunnels as well, for the process that counts it from now
        on."""
        told = {relay: _carried(relay) for relay in self._sockets}
        traffic = self._ended_traffic + _total(told.values()) - _total(self._told.values())
        self._ended_traffic, self._told = Traffic(), told
        return Counts(traffic, () if self._metrics is None else self._metrics.take())

    def add_counts(self, counts: Counts) -> None:
        """Go on with what another process has counted."""
        self._ended_traffic += counts.traffic
        if self._metrics is not None:
            self._metrics.add(counts.samples)

    # ------------------------------------------------------------------------------------------------------------------

    def _limits_for(self, destination: Destination) -> Limits:
        """The settings' limits, with those of its route."""
        if (known := self._limits_by_destination.get(destination)) is None:
            own = {name: getattr(destination.timeouts, name) for name in _OF_A_ROUTE}
            if destination.route.owner is Owner.FRONTEND:
                # A dev server that compiles, or stands at a breakpoint, answers no Ping; its page reloads when the
                # socket ends.
                own |= {"client_heartbeat": None, "upstream_heartbeat": None}
            known = self._limits_by_destination[destination] = dataclasses.replace(self._limits, **own)
        return known

    @property
    def buffered(self) -> int:
        """Bytes that one side of a tunnel does not take, of all tunnels."""
        return self._shared.buffered.size

    def traffic(self) -> Traffic:
        """What all tunnels have carried since the start, or since `take_counts`."""
        return self._ended_traffic + _total([_carried(each) for each in self._sockets]) - _total(self._told.values())

    async def drain(self) -> None:
        """End all of them with a Close frame to both sides. Many are ended over most of the drain: clients that read no
        more of a Close frame than its code reconnect at once, and to a gateway that has others to serve. The others
        come back over a time that their number asks for, from when this gateway has ended all.
        """
        relays = list(self._sockets)
        seconds = self._draining.remaining() * _SPREAD if len(relays) > _AT_ONCE else 0.0
        within, over = self._reconnect_window.seconds(len(relays)), asyncio.get_running_loop().time() + seconds
        size = math.ceil(len(relays) / (1 + int(seconds / _STEP_SECONDS)))
        for start in range(0, len(relays), max(1, size)):
            left = max(0.0, over - asyncio.get_running_loop().time())
            reconnect = None if within is None else Reconnect(left + _RESTART_SECONDS, within)
            for relay in relays[start : start + size]:
                if relay in self._sockets:
                    relay.shut_down(reconnect)
            await asyncio.sleep(_STEP_SECONDS)

    async def close(self) -> None:
        """End all of them; bytes that are buffered get `_FLUSH_SECONDS` to be sent."""
        for relay in list(self._sockets):
            relay.shut_down()
        await self._emptied()
        for relay in list(self._sockets):
            relay.abort()
        await self._emptied()

    async def _emptied(self) -> None:
        self._none_left.clear()
        if self._sockets:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), _FLUSH_SECONDS)

    def _add(self, relay: Relay, each: _Open) -> None:
        self._sockets[relay] = each
        request_id = each.socket.request_id
        self._ids[request_id] = self._ids.get(request_id, 0) + 1
        # The drain waits for requests, and that of the handshake is about to end.
        self._draining.hold()

    def _keep(self, relay: Relay, right: HeldRight) -> None:
        """End the tunnel with the right to it, at once where that has ended already."""
        if relay in self._sockets:
            right.keep(lambda: relay.withdraw(expired=right.expired))

    def _remove(self, relay: Relay) -> _Open:
        each = self._sockets.pop(relay)
        count_down(self._ids, each.socket.request_id)
        if each.right is not None:
            each.right.release()
        self._socket_limits.remove(each.socket.client)
        self._draining.release()
        if each.upstream is not None:
            each.upstream.connections -= 1
        if not self._sockets:
            self._none_left.set()
        return each

    def _ended(self, relay: Relay, ended: Ended) -> None:
        each = self._remove(relay)
        if not each.answers_key and ended.outcome.side is Side.CLIENT and not ended.frames_from_client:
            # The client refused the handshake, as RFC 6455 section 4.1 has it.
            ended = ended._replace(cause=BadUpstreamResponse.cause)
        self.ends.add(each.socket, ended, self._loop.time())
        self._ended_traffic = self._ended_traffic.grown(
            ended.from_client, ended.from_upstream, ended.frames_from_client, ended.frames_from_upstream
        )
        if (told := self._told.pop(relay, None)) is not None:
            self._ended_traffic -= told
        if self._metrics is not None:
            self._metrics.ended(ended.outcome.ended_by, ended.cause, ended.code, ended.seconds)
        if (span := self._spans.pop(relay, None)) is not None:
            end_span(span, ended)
        log_closed(each.socket, ended)


def _most_sockets(wanted: int) -> int:
    """`max_connections`, or as many as this process has descriptors for."""
    descriptors = Descriptors.of_process()
    # Limits are round numbers as the option is: a few sockets less are not worth a line.
    if wanted * _NOTEWORTHY > descriptors.sockets:
        log.warning(
            "max_connections: %d is more than a limit of %d open files carries; %d sockets are accepted, see ulimit -n",
            wanted,
            descriptors.limit,
            descriptors.sockets,
        )
    return min(wanted, descriptors.sockets)


def _carried(relay: Relay) -> Traffic:
    client, upstream = relay.tunnel.client, relay.tunnel.upstream
    return Traffic(client.size, upstream.size, client.frames, upstream.frames)


def _total(each: Collection[Traffic]) -> Traffic:
    """Their sum. To add one by one makes an object for each."""
    return Traffic(
        sum(one.from_client for one in each),
        sum(one.from_upstream for one in each),
        sum(one.frames_from_client for one in each),
        sum(one.frames_from_upstream for one in each),
    )


TUNNELS = web.AppKey("tunnels", Tunnels)


async def tunnels(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that holds the tunnels and ends those that are left."""
    app[TUNNELS] = Tunnels(
        app[SETTINGS],
        app[ACCESS_RULES],
        app[DRAINING],
        app.get(METRICS),
        app[ROUTES],
        app.get(RIGHTS),
        functools.partial(HeldRight.restored, app),
    )
    if METRICS in app:
        app[METRICS].set_gauges(functools.partial(_gauges, app))
    draining = asyncio.create_task(_drain(app))
    yield
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    await app[TUNNELS].close()


def _gauges(app: web.Application) -> Gauges:
    now = asyncio.get_running_loop().time()
    return Gauges(
        open=len(app[TUNNELS]),
        buffered=app[TUNNELS].buffered,
        held=sum(map(len, app[RETRY_QUEUES].values())),
        traffic=app[TUNNELS].traffic(),
        upstreams=[
            (each.url, each.connections, group.is_down(each, now)) for group in app[ROUTES].upstreams for each in group
        ],
        certificate_expiry=None if (tls := app.get(SERVER_TLS)) is None else tls.expiry(now),
    )


async def _drain(app: web.Application) -> None:
    await app[DRAINING].wait()
    for queue in app[RETRY_QUEUES].values():
        queue.wake_all()
    await app[TUNNELS].drain()
