"""Plain HTTP to the backend: a streamed reverse proxy for /api, /docs, /openapi.json and what is no upgrade under /ws.

Nothing is kept between two requests: no cookies, and no connection either. A backend connection that two clients used
one after the other could hand the answer of the first to the second once framing goes wrong anywhere; a new one costs a
loopback handshake, and nginx does the same unless told otherwise.
"""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import HttpVersion11, hdrs, web
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.errors import (
    BackendGarbled,
    BackendSilent,
    BackendUnreachable,
    ClientStalled,
    ConnectTimedOut,
    GatewayError,
    Malformed,
    Refused,
    is_shortage,
)
from moorline.gateway.keys import ACCESS_RULES, REQUEST_ID, SESSION, SETTINGS, UPSTREAMS
from moorline.gateway.proxy import headers
from moorline.gateway.proxy.upstreams import Upstream
from moorline.gateway.proxy.verbatim import VerbatimRequest, VerbatimResponse
from moorline.gateway.settings import Settings
from multidict import CIMultiDict
from yarl import URL

__all__ = ["forward", "session"]

log = logging.getLogger("moorline.gateway.api")

# RFC 9110 section 9.2.2. nginx repeats the same after an error: all but POST, LOCK and PATCH.
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
# Errors of the dial alone.
_BEFORE_SENDING = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
# What aiohttp would add where the client sent none.
_AUTOMATIC = (hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT)
# Bounds of an answer's head: a line, and with aiohttp's limit of 128 fields all of it.
_MAX_HEAD = 32 << 10


async def session(app: web.Application) -> AsyncIterator[None]:
    """The cleanup context that holds the client session."""
    settings = app[SETTINGS]
    async with aiohttp.ClientSession(
        # Streams last for hours: a limit would let a few of them lock out everybody else.
        # A name may have moved to another backend: it is resolved at each dial.
        connector=aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False),
        # The default jar would send one user's cookies along with the next user's request.
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        request_class=VerbatimRequest,
        skip_auto_headers=_AUTOMATIC,
        timeout=aiohttp.ClientTimeout(
            total=None, sock_connect=settings.proxy_connect_timeout, sock_read=settings.proxy_read_timeout
        ),
        max_line_size=_MAX_HEAD,
        max_field_size=_MAX_HEAD,
    ) as client:
        app[SESSION] = client
        yield


async def forward(request: web.Request) -> web.StreamResponse:
    """Pass the request on and its answer back, both as they come."""
    async with _Exchange(request, request.app[SETTINGS]) as exchange:
        return await exchange.relay(await exchange.ask(headers.origin_form(request.raw_path)))


class _Exchange:
    """One request to the backend and its answer. Leaving it, in whatever way, leaves no connection to the backend."""

    def __init__(self, request: web.Request, settings: Settings) -> None:
        self._request = request
        self._settings = settings
        self._upstream: Upstream | None = None
        self._answer: aiohttp.ClientResponse | None = None
        self._sending = asyncio.timeout(None)
        self._sent = False
        self._upload_error: GatewayError | None = None

    async def __aenter__(self) -> "_Exchange":
        return self

    async def __aexit__(self, *_: object) -> None:
        # Not `release`, which may wait for an upload that nobody reads any more.
        if self._answer is not None:
            self._answer.close()
        if self._upstream is not None:
            self._upstream.release()

    # Sending the request ----------------------------------------------------------------------------------------------

    async def ask(self, target: str) -> aiohttp.ClientResponse:
        """The head of a backend's answer, or the error that stands for it. Where one cannot be reached, the next is
        asked, as long as that is asking for the same.
        """
        fields = _request_headers(self._request)
        upstreams, clock = self._request.app[UPSTREAMS], asyncio.get_running_loop().time
        failure: GatewayError | None = None
        tried: list[Upstream] = []
        while (upstream := upstreams.choose(clock(), besides=tried)) is not None:
            tried.append(upstream)
            try:
                answer = await self._ask(upstream, target, fields)
            except (BackendGarbled, BackendSilent, BackendUnreachable, ConnectTimedOut) as error:
                upstreams.failed(upstream, clock())
                if isinstance(error, BackendGarbled) or not self._repeatable:
                    raise
                failure = error
            else:
                upstreams.answered(upstream)
                return answer
        assert failure is not None, "there is at least one"
        raise failure

    @property
    def _repeatable(self) -> bool:
        """Whether another may be asked. What may have been done is not done again, and a body that went is gone."""
        return not self._sent or (self._request.method in _IDEMPOTENT and not self._request.body_exists)

    async def _ask(self, upstream: Upstream, target: str, fields: CIMultiDict[str]) -> aiohttp.ClientResponse:
        # `path` holds the query as well: apart, yarl would drop the question mark of an empty one.
        url = URL.build(scheme="http", authority=upstream.url.removeprefix("http://"), path=target, encoded=True)
        self._enter(upstream)
        client = self._request.app[SESSION]
        upload = self._upload() if self._request.body_exists else None
        # The clock of `proxy_send_timeout`; it runs while a piece of the upload waits for the backend.
        self._sending = asyncio.timeout(None)
        try:
            async with self._sending:
                self._answer = await client.request(
                    self._request.method, url, headers=fields, data=upload, allow_redirects=False
                )
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self._sent = self._sent or not isinstance(error, _BEFORE_SENDING)
            raise self._failure(error) from error
        if self._answer.status == 101:
            raise BackendGarbled("101 to a request that did not ask for it")
        if not 200 <= self._answer.status <= 599:
            raise BackendGarbled(f"status {self._answer.status}")
        return self._answer

    def _enter(self, upstream: Upstream) -> None:
        """Count as one of this upstream's, and no longer as one of another's."""
        if self._upstream is not None:
            self._upstream.release()
        self._upstream = upstream
        upstream.take()

    async def _upload(self) -> AsyncIterator[bytes]:
        """The client's body, piece by piece. aiohttp asks for the next one when the backend has room again."""
        content = self._request.content
        while True:
            try:
                async with asyncio.timeout(self._settings.client_body_timeout):
                    piece = await content.readany()
            except TimeoutError:
                self._upload_error = ClientStalled()
                raise
            except Exception:
                self._upload_error = Malformed("The body of the request is malformed.")
                raise
            if not piece:
                return
            self._backend_has(self._settings.proxy_send_timeout)
            yield piece
            self._backend_has(None)

    def _backend_has(self, seconds: float | None) -> None:
        """Give the backend so long to take what was sent to it; once it answers, its answer's clock rules."""
        # It refuses once it has expired or the head of the answer is here.
        with contextlib.suppress(RuntimeError):
            self._sending.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)

    def _failure(self, error: Exception) -> GatewayError:
        if self._upload_error is not None:
            return self._upload_error
        if self._sending.expired():
            return BackendSilent("proxy_send_timeout while the request's body was sent")
        return _named(error)

    # Passing the answer on --------------------------------------------------------------------------------------------

    async def relay(self, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        """Answer the client with what the backend answers. A broken answer ends in a broken connection."""
        response = VerbatimResponse(status=answer.status, reason=answer.reason, headers=self._answer_headers(answer))
        try:
            async with asyncio.timeout(self._settings.send_timeout) as sending:
                await response.prepare(self._request)
                sending.reschedule(None)
                await self._relay_body(answer, response, sending)
        except (aiohttp.ClientError, TimeoutError) as error:
            log.warning("the answer broke off: %s request_id=%s", type(error).__name__, self._request[REQUEST_ID])
            self._break_off(response)
        return response

    def _break_off(self, response: web.StreamResponse) -> None:
        """End the client's connection in a way that does not pass for the end of the answer."""
        transport = self._request.transport
        if transport is None:
            return
        if response.content_length is None and self._request.version < HttpVersion11:
            # Only the end tells an HTTP/1.0 client the length: it must be a reset. Elsewhere a FIN does, and leaves the
            # client what it has.
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def _relay_body(
        self, answer: aiohttp.ClientResponse, response: web.StreamResponse, sending: asyncio.Timeout
    ) -> None:
        clock = asyncio.get_running_loop().time
        # As they come: a server-sent event must not wait for the next one.
        async for piece in answer.content.iter_any():
            sending.reschedule(clock() + self._settings.send_timeout)
            await response.write(piece)
            sending.reschedule(None)
        sending.reschedule(clock() + self._settings.send_timeout)
        await response.write_eof()

    def _answer_headers(self, answer: aiohttp.ClientResponse) -> CIMultiDict[str]:
        return headers.backward(
            answer.headers,
            request_id=self._request[REQUEST_ID],
            upstream=self._upstream.url if self._upstream is not None else "",
            scheme=_scheme(self._request),
            host=self._request.headers.get(hdrs.HOST, ""),
        )


def _request_headers(request: web.Request) -> CIMultiDict[str]:
    return headers.forward(
        request.headers,
        peer=request.remote or "",
        client=client_address(request),
        scheme=request.scheme,
        request_id=request[REQUEST_ID],
        trusted=_trusted(request),
    )


def _scheme(request: web.Request) -> str:
    """The client's: that of TLS in front of us, where a trusted proxy says so."""
    return request.headers.get(hdrs.X_FORWARDED_PROTO, request.scheme) if _trusted(request) else request.scheme


def _trusted(request: web.Request) -> bool:
    return request.app[ACCESS_RULES].trusts(request.remote or "")


def _named(error: Exception) -> GatewayError:
    """The one map from aiohttp's errors before an answer to ours."""
    # Not the error's own words: some of them quote the URL, and with it a session's id.
    cause = getattr(error, "os_error", None) or getattr(error, "message", "")
    detail = f"{type(error).__name__} {cause}".rstrip()
    match error:
        case OSError() if is_shortage(error):
            return Refused("The gateway has no room for more connections at the moment.")
        case aiohttp.ConnectionTimeoutError():
            return ConnectTimedOut(detail)
        case TimeoutError():
            return BackendSilent(detail)
        case aiohttp.ClientResponseError() | ValueError():
            return BackendGarbled(detail)
        case _:
            return BackendUnreachable(detail)
