"""Headers of the responses that the parts make themselves."""

from pathlib import Path

import pytest
from aiohttp import ClientSession

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from tests.support.backends import Script, backend
from tests.support.raw import dial


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/api/chat/s1/messages", "/api/none"])
async def test_no_response_of_the_backend_is_framed_or_sniffed(tmp_path: Path, path: str) -> None:
    async with backend(tmp_path, Script()) as server, ClientSession(server.http) as client, client.get(path) as answer:
        assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
        assert answer.headers.getall("Content-Security-Policy") == ["frame-ancestors 'none'"]


async def test_a_101_has_none_of_these_headers(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server, server.socket("s1", "p1") as socket:
        assert socket.response is not None
        assert not {"X-Content-Type-Options", "Content-Security-Policy"} & set(socket.response.headers)


async def test_no_error_of_the_gateway_is_framed_or_sniffed() -> None:
    settings = Settings(host="127.0.0.1", port=0, upstream=("http://127.0.0.1:9",))
    async with (
        running(create_app(settings), settings) as server,
        ClientSession(server.addresses[0]) as client,
        client.get("/api/x", headers={"Accept": "text/html"}) as answer,
    ):
        assert answer.status == 502
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"


REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /api/chat/../x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /ws/chat/p/s HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"nonsense\r\n\r\n",
)


@pytest.mark.parametrize("request_bytes", REQUESTS)
async def test_no_response_tells_a_version(tmp_path: Path, request_bytes: bytes) -> None:
    async with backend(tmp_path, Script()) as behind:
        settings = Settings(host="127.0.0.1", port=0, upstream=(behind.http,))
        async with running(create_app(settings), settings) as gateway:
            for port in (gateway.port, behind.port):
                async with dial(port) as client:
                    await client.send(request_bytes)
                    head = await client.head()
                assert b"\r\nServer: moorline\r\n" in head
