"""`frontend` as the address of a dev server: it has every path that no route takes, as at its own address."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from moorline.gateway.keys import UPSTREAMS
from tests.gateway.conftest import Client, StartGateway
from tests.support import needs
from tests.support.faulty_upstream import Fault, faulty_upstream
from tests.support.raw import answering, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
StartServer = Callable[..., Awaitable[TestServer]]


def fields(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:-2]
    return {name: value for name, _, value in (line.partition(": ") for line in lines)}


@contextlib.asynccontextmanager
async def dev_server(
    start_gateway: StartGateway, heads: list[bytes], **options: Any
) -> AsyncIterator[tuple[Client, str]]:
    """A gateway before a dev server that notes each request's head, and before no backend; the dev server's address."""
    async with listening(answering(OK, heads)) as port, faulty_upstream(Fault.REFUSE) as nothing:
        url = f"http://127.0.0.1:{port}"
        yield await start_gateway(nothing, frontend=url, upstream_keepalive=None, **options), url


@pytest.mark.parametrize(
    "path", ["/", "/chat/patient:demo", "/src/main.tsx?t=1", "/@fs/a//b", "/ws", "/ng-cli-ws", "/-x"]
)
async def test_a_path_that_no_route_takes_is_the_dev_servers(start_gateway: StartGateway, path: str) -> None:
    heads: list[bytes] = []
    async with dev_server(start_gateway, heads) as (gateway, _), gateway.get(path) as answer:
        assert await answer.text() == "ok"
    assert heads[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs.ipv6)])
async def test_one_at_localhost_is_found_on_either_loopback_address(start_gateway: StartGateway, host: str) -> None:
    async with listening(answering(OK, []), host=host) as port:
        gateway = await start_gateway(0, frontend=f"http://localhost:{port}")
        async with gateway.get("/") as answer:
            assert await answer.text() == "ok"


async def test_a_form_may_be_posted_to_it(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with dev_server(start_gateway, heads) as (gateway, _), gateway.post("/login", data={"a": "b"}) as answer:
        assert answer.status == 200
    assert heads[0].startswith(b"POST /login ")


async def test_it_gets_host_and_origin_as_at_its_own_address(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    sent = {"Host": "localhost:4321", "Origin": "http://localhost:4321"}
    async with dev_server(start_gateway, heads) as (gateway, url), gateway.get("/", headers=sent) as answer:
        assert answer.status == 200
    got = fields(heads[0])
    assert (got["Host"], got["Origin"]) == (url.removeprefix("http://"), url)
    assert got["X-Forwarded-Host"] == "localhost:4321"


async def test_the_origin_of_another_site_reaches_it_unchanged(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    sent = {"Origin": "http://evil.example"}
    async with dev_server(start_gateway, heads) as (gateway, _), gateway.get("/", headers=sent) as answer:
        assert answer.status == 200
    assert fields(heads[0])["Origin"] == "http://evil.example"


async def test_another_site_opens_no_socket_at_it(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with dev_server(start_gateway, heads) as (gateway, _):
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await gateway.ws_connect("/", origin="http://evil.example")
    assert heads == []


async def test_a_redirect_to_its_own_address_becomes_one_to_the_gateways(start_gateway: StartGateway) -> None:
    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"http://{request.host}/there"})

    async with TestServer(_app(redirect)) as server:
        gateway = await start_gateway(0, frontend=str(server.make_url("")).rstrip("/"))
        async with gateway.get("/here", headers={"Host": "localhost:4321"}, allow_redirects=False) as answer:
            assert answer.headers["Location"] == "http://localhost:4321/there"


@pytest.mark.parametrize("path", ["/", "/ws", "/ng-cli-ws", "/_next/webpack-hmr"])
async def test_its_sockets_pass_with_subprotocol_and_token(start_gateway: StartGateway, path: str) -> None:
    async def hot(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("vite-hmr",))
        await socket.prepare(request)
        await socket.send_str(f"{request.path_qs} {request.headers['Origin']}")
        return socket

    async with TestServer(_app(hot)) as server:
        url = str(server.make_url("")).rstrip("/")
        gateway = await start_gateway(0, frontend=url)
        origin = str(gateway.make_url("")).rstrip("/")
        async with gateway.ws_connect(f"{path}?token=x", protocols=("vite-hmr",), origin=origin) as socket:
            assert socket.protocol == "vite-hmr"
            assert await socket.receive_str() == f"{path}?token=x {url}"


async def test_an_upgrade_to_another_protocol_is_served_without(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    sent = {"Connection": "Upgrade", "Upgrade": "h2c"}
    async with dev_server(start_gateway, heads) as (gateway, _), gateway.get("/", headers=sent) as answer:
        assert answer.status == 200


async def test_the_gateways_own_paths_stay_its_own(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with dev_server(start_gateway, heads) as (gateway, _):
        assert [(await gateway.get(path)).status for path in ("/healthz", "/-/docs", "/-/none")] == [200, 200, 404]
        assert (await gateway.post("/healthz")).status == 404
    assert heads == []


async def test_readyz_is_about_the_backend_alone(start_gateway: StartGateway) -> None:
    async with listening(answering(OK, [])) as backend, faulty_upstream(Fault.REFUSE) as away:
        gateway = await start_gateway(backend, frontend=f"http://127.0.0.1:{away}")
        async with gateway.get("/readyz") as answer:
            assert answer.status == 200


async def test_the_authorize_hook_is_not_asked_about_the_page(start_gateway: StartGateway) -> None:
    async def refuse(*_: object) -> Any:
        raise web.HTTPForbidden

    heads: list[bytes] = []
    async with dev_server(start_gateway, heads, authorize=refuse) as (gateway, _):
        assert [(await gateway.get(path)).status for path in ("/", "/ws", "/api/x", "/ws/x")] == [200, 200, 403, 403]


async def test_an_unreachable_backend_does_not_concern_it(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with dev_server(start_gateway, heads) as (gateway, _):
        assert [(await gateway.get(path)).status for path in ("/api/x", "/")] == [502, 200]
        assert [upstream.connections for upstream in gateway.app[UPSTREAMS]] == [0]


def _app(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    return app
