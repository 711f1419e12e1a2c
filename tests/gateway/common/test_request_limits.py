"""How many requests may be under way, and until when one is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web

from moorline.gateway.common.access.middleware import access_middleware
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.request_limits import RequestLimits, limited
from moorline.gateway.common.web.server import Running, running
from moorline.gateway.settings import Settings
from tests.support.faulty_upstream import STEP, dial

pytestmark = pytest.mark.usefixtures("small_send_buffers")

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: More than the kernel's buffers take here, and less than asyncio would wait for.
RESPONSE = bytes(1 << 20)


class Counted:
    """A server of requests that are counted, and how many are under way."""

    def __init__(self, server: Running, limits: RequestLimits) -> None:
        self.port, self.limits = server.port, limits

    async def left(self, number: int) -> None:
        """Return when so many are under way."""
        async with asyncio.timeout(STEP):
            while len(self.limits) != number:  # noqa: ASYNC110 - the product needs no event for a test's sake
                await asyncio.sleep(0.01)


@asynccontextmanager
async def counted(body: bytes = RESPONSE, **options: Any) -> AsyncIterator[Counted]:
    settings = Settings(host="127.0.0.1", port=0, drain=0.1, **options)
    limits = RequestLimits(settings)

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    app = web.Application(middlewares=[access_middleware(settings)])
    app.router.add_get("/", limited(handle, limits))
    async with running(app, settings) as server:
        yield Counted(server, limits)


async def status(port: int, address: str = "127.0.0.1") -> tuple[int, str | None]:
    async with (
        ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/", headers={"X-Forwarded-For": address}) as response,
    ):
        return response.status, response.headers.get("Retry-After")


async def test_a_response_that_is_not_read_counts_until_it_is() -> None:
    async with counted(max_requests=1) as server, dial(server.port, receive_buffer=4096) as client:
        await client.send(GET)
        await server.left(1)
        assert await status(server.port) == (503, "1")
        await client.head()
        await client.exactly(len(RESPONSE))
        await server.left(0)
        assert (await status(server.port))[0] == 200


async def test_a_client_that_leaves_unread_what_it_asked_for_is_not_counted_any_more() -> None:
    async with counted(max_requests=1) as server:
        async with dial(server.port, receive_buffer=4096) as client:
            await client.send(GET)
            await server.left(1)
        await server.left(0)


async def test_one_address_has_its_share_and_others_have_theirs() -> None:
    async with counted(max_requests_per_address=1) as server, dial(server.port, receive_buffer=4096) as client:
        await client.send(GET)
        await server.left(1)
        assert (await status(server.port, "127.0.0.1"))[0] == 503
        assert (await status(server.port, "192.0.2.1"))[0] == 200


async def test_one_address_never_has_more_than_half() -> None:
    async with (
        counted(max_requests=2, max_requests_per_address=None) as server,
        dial(server.port, receive_buffer=4096) as client,
    ):
        await client.send(GET.replace(b"\r\n\r\n", b"\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"))
        await server.left(1)
        assert (await status(server.port, "192.0.2.1"))[0] == 200


async def test_what_asyncio_would_buffer_in_silence_counts_as_unread() -> None:
    body = bytes(112 << 10)
    async with counted(body) as server, dial(server.port, receive_buffer=4096) as client:
        await client.send(GET)
        await server.left(1)
        await client.head()
        await client.exactly(len(body))
        await server.left(0)


@pytest.mark.parametrize("name", ["max_requests", "max_requests_per_address"])
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    nothing: dict[str, Any] = {name: 0}
    with pytest.raises(UsageError, match=name):
        Settings(**nothing)
