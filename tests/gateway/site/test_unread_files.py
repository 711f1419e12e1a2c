"""Files whose clients do not read them: how many there are at once, and what each holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import Running, running
from moorline.gateway.settings import Settings
from tests.support.faulty_upstream import STEP, dial

pytestmark = pytest.mark.usefixtures("small_send_buffers")

#: The largest file that is kept in memory.
SIZE = 1 << 20
PIECE = 256 << 10
GET = b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n"
RANGE = GET.replace(b"\r\n\r\n", b"\r\nRange: bytes=1-\r\n\r\n")


@asynccontextmanager
async def serving(folder: Path, requests: list[web.Request], size: int = SIZE) -> AsyncIterator[Running]:
    """A gateway with one large file and no backend, and at most two unread ones."""
    (folder / "index.html").write_text("page", encoding="utf-8")
    (folder / "large.bin").write_bytes(bytes(range(256)) * (size // 256))

    @web.middleware
    async def note(request: web.Request, handler: object) -> web.StreamResponse:
        requests.append(request)
        return await handler(request)  # type: ignore[operator, no-any-return]

    upstream = ("http://127.0.0.1:9",)
    settings = Settings(host="127.0.0.1", port=0, upstream=upstream, frontend=str(folder), max_requests=2, drain=0.1)
    app = create_app(settings)
    app.middlewares.append(note)
    async with running(app, settings) as server:
        yield server


async def stalls(requests: list[web.Request]) -> int:
    """The bytes that wait for the client that asked last, once it takes no more."""
    async with asyncio.timeout(STEP):
        while not requests or not requests[-1].protocol.writing_paused:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
    transport = requests[-1].transport
    assert transport is not None
    return transport.get_write_buffer_size()


async def status(server: Running, path: str, address: str = "192.0.2.1") -> int:
    url = f"http://127.0.0.1:{server.port}{path}"
    async with ClientSession() as http, http.get(url, headers={"X-Forwarded-For": address}) as answer:
        return answer.status


@pytest.mark.parametrize("request_of_it", [GET, RANGE], ids=["whole", "range"])
@pytest.mark.parametrize("size", [SIZE, 2 * SIZE], ids=["from memory", "from disk"])
async def test_of_a_file_that_is_not_read_one_piece_is_held(tmp_path: Path, size: int, request_of_it: bytes) -> None:
    requests: list[web.Request] = []
    async with (
        serving(tmp_path, requests, size) as server,
        dial(server.port, receive_buffer=4096) as client,
    ):
        await client.send(request_of_it)
        assert await stalls(requests) <= PIECE
        await client.head()
        whole = (bytes(range(256)) * (size // 256))[request_of_it == RANGE :]
        assert await client.exactly(len(whole)) == whole


@asynccontextmanager
async def unread_file(tmp_path: Path) -> AsyncIterator[Running]:
    """A server one of whose files is not read by the client that asked for it."""
    requests: list[web.Request] = []
    async with serving(tmp_path, requests) as server, dial(server.port, receive_buffer=4096) as client:
        await client.send(GET)
        await stalls(requests)
        yield server


async def test_a_file_that_is_not_read_counts_and_another_address_is_served(tmp_path: Path) -> None:
    async with unread_file(tmp_path) as server:
        assert await status(server, "/", "127.0.0.1") == 503
        assert await status(server, "/") == 200
        assert await status(server, "/healthz", "127.0.0.1") == 200


async def test_unread_files_leave_requests_to_the_backend_their_places(tmp_path: Path) -> None:
    async with unread_file(tmp_path) as server:
        # There is no backend.
        assert await status(server, "/api/chat/s1/messages", "127.0.0.1") == 502
