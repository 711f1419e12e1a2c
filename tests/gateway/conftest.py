"""A gateway on a real port, before any backend."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient

from moorline.gateway.app import create_app
from moorline.gateway.common.access.authorize import Authorize
from moorline.gateway.settings import Settings

Client = TestClient[web.Request, web.Application]
StartGateway = Callable[..., Awaitable[Client]]


@pytest.fixture
def page(tmp_path: Path) -> str:
    """The smallest frontend."""
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "index.html").write_text("<title>page</title>", encoding="utf-8")
    return str(tmp_path / "dist")


@pytest.fixture
def start_gateway(page: str, aiohttp_client: Callable[..., Awaitable[Client]]) -> StartGateway:
    """`await start_gateway(port_of_the_backend, option=value, …)` gives a client of a gateway, at a port if named."""

    async def start(
        backend: int,
        *,
        authorize: Authorize | None = None,
        listen_at: int | None = None,
        **options: Any,
    ) -> Client:
        settings = Settings(**{"upstream": (f"http://127.0.0.1:{backend}",), "frontend": page, **options})
        app = create_app(settings, authorize=authorize)
        server = {} if listen_at is None else {"server_kwargs": {"port": listen_at}}
        return await aiohttp_client(app, **server)

    return start
