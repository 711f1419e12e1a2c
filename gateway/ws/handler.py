"""One WebSocket, top to bottom: check, dial, switch, relay, log.

The backend is dialled first and the client answered second, so that the backend's refusal and its choices pass. After
the switch the handler returns and leaves nothing behind: the tunnel lives on two transports and a timer.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

from aiohttp import StreamReader, web
from multidict import CIMultiDict

from gateway import api, headers
from gateway.common.draining import Draining
from gateway.common.guard import client_address
from gateway.errors import (
    BackendSilent,
    BackendUnreachable,
    ClientStalled,
    ConnectTimedOut,
    GatewayError,
    HandshakeTimedOut,
    Malformed,
    Refused,
)
from gateway.keys import ADMISSION, DRAINING, REQUEST_ID, SETTINGS
from gateway.settings import Settings
from gateway.ws import handshake, refusal
from gateway.ws.limits import Limits
from gateway.ws.relay import Ended, Relay
from gateway.ws.upgrade import BackendConnection, Switched, switch

__all__ = ["TUNNELS", "Tunnels", "tunnels", "websocket"]

log = logging.getLogger("moorline.gateway.ws")

# For tunnels that are cut when the gateway ends: their last bytes leave in this time or never.
_CUT_SECONDS = 0.25


async def websocket(request: web.Request) -> web.StreamResponse:
    """The handler of everything under /ws; what is no handshake is plain HTTP."""
    fields = handshake.fields(request.raw_headers)
    if not handshake.asks_for_upgrade(fields):
        return await api.forward(request)
    handshake.check_request(fields, request.version)
    settings, open_tunnels = request.app[SETTINGS], request.app[TUNNELS]
    with open_tunnels.handshake():
        backend = BackendConnection(asyncio.get_running_loop())
        try:
            async with _bounded(settings.handshake_timeout, HandshakeTimedOut):
                answer, body = await _ask(request, fields, backend, settings)
            if not handshake.is_switch(answer):
                return await refusal.pass_on(request, _refusal(request, answer, settings), body, settings)
            open_tunnels.open(request, backend, handshake.switch_head(answer, request_id=request[REQUEST_ID]))
            return Switched()
        finally:
            backend.abort()


class Tunnels:
    """The open tunnels of one gateway, and the handshakes under way."""

    def __init__(self, settings: Settings, draining: Draining) -> None:
        self._max = settings.max_connections
        self._limits = Limits.of(settings)
        self._draining = draining
        self._handshakes = 0
        self._relays: set[Relay] = set()
        self._none_left = asyncio.Event()

    def __len__(self) -> int:
        return len(self._relays)

    @contextlib.contextmanager
    def handshake(self) -> Iterator[None]:
        """A place for one more.

        Raises:
            Refused: there is none.
        """
        if self._draining.is_set():
            raise Refused("The gateway is shutting down.")
        if len(self._relays) + self._handshakes >= self._max:
            raise Refused("There are too many sockets at the moment (max_connections).")
        self._handshakes += 1
        try:
            yield
        finally:
            self._handshakes -= 1

    def open(self, request: web.Request, backend: BackendConnection, head: bytes) -> None:
        """Switch both connections and relay from now on."""
        request_id = request[REQUEST_ID]
        self._relays.add(switch(request, backend, head, self._limits, functools.partial(self._ended, request_id)))
        # The drain waits for requests, and this one is about to be over.
        self._draining.hold()
        log.info("a socket opened: request_id=%s", request_id, extra={"request_id": request_id})

    async def close(self) -> None:
        """End all of them; what they still hold for their peers gets a moment to leave."""
        for relay in list(self._relays):
            relay.shut_down()
        await self._emptied()
        for relay in list(self._relays):
            relay.abort()
        await self._emptied()

    async def _emptied(self) -> None:
        self._none_left.clear()
        if self._relays:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), _CUT_SECONDS)

    def _ended(self, request_id: str, relay: Relay, ended: Ended) -> None:
        self._relays.remove(relay)
        self._draining.release()
        if not self._relays:
            self._none_left.set()
        facts = {
            "by": ended.outcome.who,
            "reason": ended.outcome.reason.value,
            "code": ended.code,
            "seconds": round(ended.seconds, 3),
            "from_client": ended.from_client,
            "from_backend": ended.from_backend,
            "frames_from_client": ended.frames_from_client,
            "frames_from_backend": ended.frames_from_backend,
            "client_rtt_ms": _milliseconds(ended.client_rtt),
            "backend_rtt_ms": _milliseconds(ended.backend_rtt),
            "request_id": request_id,
        }
        facts = {name: fact for name, fact in facts.items() if fact is not None}
        log.info("a socket ended: %s", " ".join(f"{name}={fact}" for name, fact in facts.items()), extra=facts)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 2)


TUNNELS = web.AppKey("tunnels", Tunnels)


async def tunnels(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that holds the tunnels, and ends what is left of them."""
    app[TUNNELS] = Tunnels(app[SETTINGS], app[DRAINING])
    yield
    await app[TUNNELS].close()


# The backend's answer -------------------------------------------------------------------------------------------------


async def _ask(
    request: web.Request, fields: CIMultiDict[str], backend: BackendConnection, settings: Settings
) -> tuple[handshake.Answer, StreamReader]:
    """Dial the backend, pass the handshake on, and wait for the head of its answer."""
    head = _request_head(request, fields)
    async with _bounded(settings.proxy_connect_timeout, ConnectTimedOut):
        await _connect(backend, settings.upstream[0])
    backend.send(head)
    if request.body_exists:
        await _upload(request, backend, settings)
    async with _bounded(settings.proxy_read_timeout, BackendSilent):
        return await backend.answer()


async def _connect(backend: BackendConnection, upstream: str) -> None:
    address = urlsplit(upstream)
    try:
        await asyncio.get_running_loop().create_connection(lambda: backend, str(address.hostname), address.port or 80)
    except TimeoutError as error:
        raise ConnectTimedOut("by the operating system") from error
    except OSError as error:
        raise BackendUnreachable(f"{type(error).__name__} {error.strerror or ''}".rstrip()) from error


async def _upload(request: web.Request, backend: BackendConnection, settings: Settings) -> None:
    """A handshake may have a body, which comes before the socket's first byte."""
    chunked = "chunked" in request.headers.get("Transfer-Encoding", "").lower()
    while True:
        async with _bounded(settings.client_body_timeout, ClientStalled):
            try:
                piece = await request.content.readany()
            except web.RequestPayloadError as error:
                raise Malformed("The body of the request is malformed.") from error
        backend.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if not piece:
            return
        async with _bounded(settings.proxy_send_timeout, BackendSilent):
            await backend.drain()


@contextlib.asynccontextmanager
async def _bounded(seconds: float | None, error: type[GatewayError]) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds) as clock:
            yield
    except TimeoutError:
        if clock.expired():
            raise error from None
        raise


def _request_head(request: web.Request, fields: CIMultiDict[str]) -> bytes:
    return handshake.request_head(
        request.method,
        headers.origin_form(request.raw_path),
        fields,
        peer=request.remote or "",
        client=client_address(request),
        scheme=request.scheme,
        request_id=request[REQUEST_ID],
        trusted=_trusted(request),
        chunked="Transfer-Encoding" in fields,
    )


def _refusal(request: web.Request, answer: handshake.Answer, settings: Settings) -> web.StreamResponse:
    passed = headers.backward(
        answer.fields,
        request_id=request[REQUEST_ID],
        upstream=settings.upstream[0],
        scheme=request.headers.get("X-Forwarded-Proto", request.scheme) if _trusted(request) else request.scheme,
        host=request.headers.get("Host", ""),
    )
    return web.StreamResponse(status=answer.status, reason=answer.reason, headers=passed)


def _trusted(request: web.Request) -> bool:
    return request.app[ADMISSION].trusts(request.remote or "")
