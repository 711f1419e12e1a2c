"""aiohttp as the transport of the `openai` package's client, with the body of a response open to be read directly.

The transport that comes with the package reads the same body through four asynchronous generators, one in the other:
for each piece of an answer they cost as much as its JSON.
"""

import asyncio
import os
import urllib.request
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import aiohttp
import httpx2
import openai

from moorline.backend.read_pace import ReadPace
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.aiohttp_private import ClientConnector

__all__ = ["Reader", "http_client", "reader"]

# For a connection without an answer, where the client's limits name no time.
_KEEPALIVE_SECONDS = 5.0
# The name of a response's extension.
_READER = "moorline.reader"
# Between two releases of connections that are not read: each is followed by a commit of what they all bring, and a
# commit costs 1 ms of CPU beside its text. A wait that is shorter gathers nothing.
_RELEASE_SECONDS = 0.02

Hook = Callable[[httpx2.Response], Awaitable[None]]


def http_client(*, timeout: httpx2.Timeout, limits: httpx2.Limits, on_response: Hook) -> httpx2.AsyncClient:
    """The client for `openai.AsyncOpenAI`. It follows no redirect: that would send the chat to another host.

    Where the environment names a proxy it is the package's own, which knows all kinds of them.

    Raises:
        UsageError: the proxy that the environment names is none, or its file of authorities cannot be read.
    """
    hooks = {"response": [on_response]}
    try:
        if set(urllib.request.getproxies()) - {"no"}:
            return openai.DefaultAioHttpClient(
                timeout=timeout, limits=limits, follow_redirects=False, event_hooks=hooks
            )
        return httpx2.AsyncClient(transport=_Transport(limits), timeout=timeout, event_hooks=hooks)
    except (ValueError, httpx2.InvalidURL) as error:
        # Not the value, which may hold a password.
        names = [name for name, value in os.environ.items() if value and name.lower().endswith("_proxy")]
        raise UsageError(
            f"{', '.join(sorted(names))}: not a proxy that can be used; write http://HOST:PORT or socks5://HOST:PORT"
        ) from error
    except OSError as error:
        name = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        raise UsageError(
            f'{name}: "{os.environ.get(name, "")}" holds no certificates of authorities ({error.strerror or error}); '
            "correct it, or leave it out for those of the system"
        ) from error


class Reader(NamedTuple):
    """Reads the body of a response."""

    read: Callable[[], Awaitable[bytes]]
    """The next bytes as they were sent, and none at the end."""
    gather: Callable[[], None] = lambda: None
    """Called between two reads: what comes next may wait in the kernel, where many bodies are read (`read_pace.py`)."""


def reader(response: httpx2.Response) -> Reader:
    """What reads the body of `response`."""
    found: Reader | None = response.extensions.get(_READER)
    if found is not None:
        return found
    stream = response.aiter_raw()

    async def read_stream() -> bytes:
        return await anext(stream, b"")

    return Reader(read_stream)


class _Held:
    """Connections that are not read until their time; one timer for all."""

    def __init__(self) -> None:
        self._pace = ReadPace()
        self._waiting: deque[tuple[float, asyncio.Transport]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, transport: asyncio.Transport) -> None:
        """Read it when its turn has come."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        turn = self._pace.next_read(now)
        if turn < now + _RELEASE_SECONDS or transport.is_closing():
            return
        transport.pause_reading()
        self._waiting.append((turn, transport))
        if self._timer is None:
            self._timer = loop.call_later(_RELEASE_SECONDS, self._release, loop)

    def close(self) -> None:
        """Release none any more: they are closed."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _release(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._waiting and self._waiting[0][0] <= now:
            _, transport = self._waiting.popleft()
            if not transport.is_closing():
                transport.resume_reading()
        self._timer = loop.call_later(_RELEASE_SECONDS, self._release, loop) if self._waiting else None


class _Body(httpx2.AsyncByteStream):
    """As the client itself reads it: the body of a refusal."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._response.content.readany():
            yield data

    async def aclose(self) -> None:
        # Closed, where it is not at its end: the rest of an answer is not read.
        self._response.close()


class _Transport(httpx2.AsyncBaseTransport):
    """One session of aiohttp's, which begins with the first request. Its errors are in `llm_errors.FAILURES`."""

    def __init__(self, limits: httpx2.Limits) -> None:
        self._limits = limits
        # Reading the system's certificates takes 20 ms, in which no chat goes on.
        self._ssl = httpx2.create_ssl_context()
        self._session: aiohttp.ClientSession | None = None
        self._held = _Held()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._session is None:
            self._session = self._new_session()
        response = await self._session.request(
            request.method,
            str(request.url),
            headers=request.headers.multi_items(),
            data=await request.aread(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(sock_connect=request.extensions.get("timeout", {}).get("connect")),
        )
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response),
            extensions={_READER: self._reader(response)},
        )

    async def aclose(self) -> None:
        self._held.close()
        if self._session is not None:
            await self._session.close()

    def _reader(self, response: aiohttp.ClientResponse) -> Reader:
        content, connection = response.content, response.connection
        if connection is None or connection.transport is None:
            return Reader(content.readany)  # all of it has come
        transport = connection.transport

        def gather() -> None:
            # At its end it is another answer's, or waits for one.
            if not content.is_eof():
                self._held.hold(transport)

        return Reader(content.readany, gather)

    def _new_session(self) -> aiohttp.ClientSession:
        connector = ClientConnector(
            limit=self._limits.max_connections or 0,
            keepalive_timeout=self._limits.keepalive_expiry or _KEEPALIVE_SECONDS,
            ssl=self._ssl,
        )
        return aiohttp.ClientSession(
            connector=connector,
            # The client has its own.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=None),
        )
