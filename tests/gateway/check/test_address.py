"""`moorline check` at an address where moorline is not."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from moorline.gateway.check.report import check
from moorline.gateway.common.errors import UsageError


async def not_found(request: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


async def page(request: web.Request) -> web.Response:
    return web.Response(text="<title>A shop</title>", content_type="text/html")


async def other_health(request: web.Request) -> web.Response:
    return web.json_response({"healthy": True})


async def moved(request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("/login")


async def healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


@pytest.mark.parametrize("answer", [not_found, page, other_health, moved])
@pytest.mark.parametrize("path", ["", "/wrong/path"])
async def test_another_server_and_a_wrong_path_are_named(
    answer: Handler, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    app = web.Application()
    if path:
        app.router.add_get("/healthz", healthy)
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server, asyncio.timeout(10):
        assert (
            await asyncio.to_thread(check, f"{server.make_url('/')}".rstrip("/") + path, None, backend_is_named=True)
            == 1
        )
    out = capsys.readouterr().out
    assert "Broken: HTTP, through the gateway: what answers is not moorline (/healthz: HTTP " in out
    assert "usual cause: wrong path or another server" in out


async def test_a_proxy_whose_gateway_is_down_is_not_another_server(capsys: pytest.CaptureFixture[str]) -> None:
    async def bad_gateway(request: web.Request) -> web.StreamResponse:
        raise web.HTTPBadGateway

    app = web.Application()
    app.router.add_get("/{path:.*}", bad_gateway)
    async with TestServer(app) as server, asyncio.timeout(10):
        assert await asyncio.to_thread(check, str(server.make_url("/")), None, backend_is_named=True) == 1
    assert "HTTP 502" in capsys.readouterr().out


@pytest.mark.parametrize("url", ["http://a:99999", "http://[::1", "ftp://a", "http://", ""])
def test_a_malformed_address(url: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        check(url, None, backend_is_named=True)


async def test_a_gateway_is_known_without_its_healthz_which_a_proxy_may_hide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def unauthorized(request: web.Request) -> web.Response:
        return web.Response(
            status=401, text="{}", content_type="application/problem+json", headers={"X-Request-ID": "1"}
        )

    app = web.Application()
    app.router.add_get("/api/{path:.*}", unauthorized)
    async with TestServer(app) as server, asyncio.timeout(10):
        assert await asyncio.to_thread(check, str(server.make_url("/")), None, backend_is_named=True) == 1
    assert "Broken: upgrade, through the gateway: HTTP 404" in capsys.readouterr().out
