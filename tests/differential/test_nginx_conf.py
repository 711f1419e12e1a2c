"""`nginx_conf` beside the real nginx: both read one file, and what upstreams and clients get is the same."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.gateway.conftest import StartGateway, page, start_gateway
from tests.support import needs
from tests.support.faulty_upstream import HANDSHAKE, STEP, dial, handshake
from tests.support.nginx import configuration, listener, running

__all__ = ["page", "start_gateway"]

pytestmark = needs.nginx

HTTP = r"""
    access_log off;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream first {{ server 127.0.0.1:{first}; }}
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://first; }}
        location /auth/ {{ proxy_pass http://127.0.0.1:{second}/v2/; }}
        location /text {{ proxy_pass http://127.0.0.1:{second}/other; }}
        location = /exact {{ proxy_pass http://127.0.0.1:{second}; }}
        location ~ \.php$ {{ proxy_pass http://127.0.0.1:{second}; }}
        location ^~ /static/ {{ proxy_pass http://first; }}
        location /short/ {{ proxy_pass http://first; proxy_read_timeout 1s; }}
        location /plain/ {{ proxy_pass http://127.0.0.1:{first}; proxy_set_header Host $proxy_host; }}
    }}
"""


async def answer(name: str, request: web.Request) -> web.StreamResponse:
    """What reached the upstream; nothing for paths that end with `silent`."""
    if request.path.endswith("silent"):
        await asyncio.Event().wait()
    if request.headers.get("Upgrade", "").lower() == "websocket":
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        await connection.receive()
        return connection
    said = {"name": name, "method": request.method, "target": request.raw_path, "host": request.host}
    return web.json_response(said | {"body": await request.text()})


@contextlib.asynccontextmanager
async def upstream(name: str) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", functools.partial(answer, name))
    server = TestServer(app)
    async with server:
        yield server.port or 0


class Pair:
    """The same configuration in nginx and in the gateway, by their ports."""

    def __init__(self, nginx: int, gateway: int) -> None:
        self.ports = (nginx, gateway)

    async def get(self, target: str, *, method: str = "GET", body: bytes = b"") -> list[tuple[int, Any]]:
        """Status, and what the upstream got or where the client is sent, from each of the two."""
        found = []
        for port in self.ports:
            head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
            async with dial(port) as client:
                await client.send(f"{head}\r\n\r\n".encode() + body)
                head_of_answer, _, text = (await client.rest()).partition(b"\r\n\r\n")
            lines = head_of_answer.decode().split("\r\n")
            location = [line.partition(": ")[2] for line in lines if line.lower().startswith("location:")]
            seen = [each.removeprefix("http://localhost").partition("/")[2] for each in location] or text.decode()
            found.append((int(lines[0].split(" ")[1]), seen if lines[0].split(" ")[1] in ("200", "301") else None))
        return found


@pytest.fixture
async def pair(tmp_path: Path, start_gateway: StartGateway) -> AsyncIterator[Pair]:
    async with upstream("first") as first, upstream("second") as second:
        with listener() as socket:
            port = socket.getsockname()[1]
            file = tmp_path / "nginx.conf"
            text = configuration(tmp_path, HTTP.format(first=first, second=second, port=port))
            file.write_text(text, encoding="utf-8")
            async with running(tmp_path, [socket]):
                gateway = await start_gateway(
                    0, nginx_conf=str(file), close_frames=False, client_heartbeat=None, upstream_heartbeat=None
                )
                yield Pair(port, gateway.server.port or 0)


@pytest.mark.parametrize(
    "target",
    [
        "/", "/x?y=1", "/x%20y", "/a%2Fb", "/auth/", "/auth", "/auth?x", "/auth/x%20y?z=%2F", "/auth/a%2Fb", "/authors",
        "/%61uth/x", "//auth//x", "/text", "/texts", "/text/x", "/exact", "/exact/", "/exact?x", "/a.php", "/auth/a",
        "/auth/a.php", "/a.php/x", "/static/a.php", "/static", "/plain/x", "/short/x", "/chat/patient:demo", "/ws",
        "/docs", "/api/x",
    ],
)  # fmt: skip
async def test_a_request_goes_where_nginx_sends_it(pair: Pair, target: str) -> None:
    by_nginx, by_gateway = await pair.get(target)
    assert by_gateway == by_nginx


async def test_a_body_passes_with_any_method(pair: Pair) -> None:
    by_nginx, by_gateway = await pair.get("/auth/x", method="PUT", body=b"\x00 any")
    assert by_gateway == by_nginx


async def test_a_silent_upstream_is_given_up_after_the_locations_proxy_read_timeout(pair: Pair) -> None:
    async with asyncio.timeout(STEP):
        assert await pair.get("/short/silent") == [(504, None)] * 2


async def test_an_idle_socket_ends_after_the_locations_proxy_read_timeout(pair: Pair) -> None:
    clock = asyncio.get_running_loop().time
    for port in pair.ports:
        async with dial(port) as client:
            began = clock()
            await client.send(handshake("/short/x"))
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            assert await client.rest() == b""
            assert 0.9 < clock() - began < STEP / 2


async def test_a_socket_passes_where_the_location_passes_upgrade(pair: Pair) -> None:
    for port in pair.ports:
        async with dial(port) as client:
            await client.send(HANDSHAKE)
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")


async def test_a_handshake_is_plain_http_where_the_location_passes_no_upgrade(pair: Pair) -> None:
    async with aiohttp.ClientSession() as http:
        for port in pair.ports:
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await http.ws_connect(f"http://127.0.0.1:{port}/plain/x")
            assert error.value.status == 200
