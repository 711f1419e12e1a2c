"""aiohttp as the transport of the `openai` package's client, with the body of a response open to be read directly.

The transport that comes with the package reads the same body through four asynchronous generators, one in the other:
for each piece of an answer they cost as much as its JSON.
"""

import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import httpx2
import openai

from moorline.gateway.common.web.aiohttp_private import ClientConnector

__all__ = ["http_client", "reader"]

# For a connection without an answer, where the client's limits name no time.
_KEEPALIVE_SECONDS = 5.0
# The name of a response's extension.
_READ = "moorline.read"

Hook = Callable[[httpx2.Response], Awaitable[None]]


def http_client(*, timeout: httpx2.Timeout, limits: httpx2.Limits, on_response: Hook) -> httpx2.AsyncClient:
    """The client for `openai.AsyncOpenAI`. It follows no redirect: that would send the chat to another host.

    Where the environment names a proxy it is the package's own, which knows all kinds of them.
    """
    hooks = {"response": [on_response]}
    if set(urllib.request.getproxies()) - {"no"}:
        return openai.DefaultAioHttpClient(timeout=timeout, limits=limits, follow_redirects=False, event_hooks=hooks)
    return httpx2.AsyncClient(transport=_Transport(limits), timeout=timeout, event_hooks=hooks)


def reader(response: httpx2.Response) -> Callable[[], Awaitable[bytes]]:
    """What returns the next bytes of the body as they were sent, and none at its end."""
    read: Callable[[], Awaitable[bytes]] | None = response.extensions.get(_READ)
    if read is not None:
        return read
    stream = response.aiter_raw()

    async def read_stream() -> bytes:
        return await anext(stream, b"")

    return read_stream


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
            extensions={_READ: response.content.readany},
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

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
