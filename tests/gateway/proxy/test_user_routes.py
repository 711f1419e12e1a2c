"""`route`: paths that other servers have, as people configure them."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer
from yarl import URL

from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.proxy.routes import Host, Route
from tests.gateway.conftest import Client, StartGateway
from tests.support.faulty_upstream import Fault, faulty_upstream
from tests.support.raw import dial

ORIGIN = "http://app.example.com"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH", "Host": "localhost"}
StartRoute = Callable[..., Awaitable[Client]]


async def echo(request: web.Request) -> web.StreamResponse:
    """What was asked for; a redirect and a cookie where the query names them."""
    if request.headers.get("Upgrade") == "websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(request.path_qs)
        await socket.receive()
        return socket
    said = {"path": request.path_qs, "host": request.host, "body": await request.text(), "method": request.method}
    response = web.json_response(said | {"forwarded_host": request.headers.get("X-Forwarded-Host")})
    if "location" in request.query:
        response.set_status(302)
        response.headers["Location"] = request.query["location"]
    if "cookie" in request.query:
        response.headers["Set-Cookie"] = request.query["cookie"]
    if "allow" in request.query:
        response.headers["Access-Control-Allow-Origin"] = request.query["allow"]
    return response


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    server = TestServer(app)
    async with server:
        yield server


@pytest.fixture
def start(start_gateway: StartGateway, server: TestServer) -> StartRoute:
    """`await start("/auth", rewrite=…, host=…, option=value, …)`: a gateway with one route to a server that echoes."""

    async def start_route(path: str, *, rewrite: str | None = None, host: Host = Host.CLIENT, **options: Any) -> Client:
        route = Route(path=path, upstream=(url(server),), rewrite=rewrite, host=host)
        async with faulty_upstream(Fault.REFUSE) as nothing:
            return await start_gateway(nothing, route=(route,), **options)

    return start_route


def url(server: TestServer) -> str:
    return str(server.make_url("")).rstrip("/")


async def said(gateway: Client, path: str, **options: Any) -> dict[str, Any]:
    async with gateway.get(path, **options) as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def test_a_route_has_its_path_and_what_is_below(start: StartRoute) -> None:
    gateway = await start("/auth")
    assert (await said(gateway, "/auth"))["path"] == "/auth"
    assert (await said(gateway, "/auth/a%2Fb?c=d"))["path"] == "/auth/a%2Fb?c=d"
    async with gateway.get("/authors") as answer:
        assert "<title>page</title>" in await answer.text()


async def test_a_route_below_api_takes_its_part_of_it(start: StartRoute) -> None:
    gateway = await start("/api/files")
    assert (await said(gateway, "/api/files/x"))["path"] == "/api/files/x"
    assert (await gateway.get("/api/x")).status == 502


async def test_any_body_passes(start: StartRoute) -> None:
    gateway = await start("/api/files")
    async with gateway.put("/api/files/x", data=b"\x00\x01", headers={"Content-Type": "image/png"}) as answer:
        assert (await answer.json())["body"] == "\x00\x01"


@pytest.mark.parametrize(
    ("rewrite", "path", "sent"),
    [
        ("/v2", "/auth/x?y", "/v2/x?y"),
        ("/v2", "/auth", "/v2"),
        ("/v2/", "/auth/x", "/v2/x"),
        ("/", "/auth/x", "/x"),
        ("/", "/auth?y", "/?y"),
        ("/v2", "/auth//x", "/v2//x"),
    ],
)
async def test_rewrite_replaces_the_prefix(start: StartRoute, rewrite: str, path: str, sent: str) -> None:
    gateway = await start("/auth", rewrite=rewrite)
    assert (await said(gateway, path))["path"] == sent


@pytest.mark.parametrize(
    ("location", "mapped"),
    [
        ("/v2/login?next=/v2", "/auth/login?next=/v2"),
        ("{upstream}/v2/login", "http://localhost:4321/auth/login"),
        ("http://localhost:4321/v2", "http://localhost:4321/auth"),
        ("/other", "/other"),
        ("/v22", "/v22"),
        ("login", "login"),
        ("https://example.com/v2", "https://example.com/v2"),
    ],
)
async def test_a_redirect_is_mapped_back(start: StartRoute, server: TestServer, location: str, mapped: str) -> None:
    gateway = await start("/auth", rewrite="/v2")
    query = {"location": location.format(upstream=url(server))}
    async with gateway.get(
        "/auth/x", params=query, headers={"Host": "localhost:4321"}, allow_redirects=False
    ) as answer:
        assert answer.headers["Location"] == mapped


@pytest.mark.parametrize(
    ("cookie", "mapped"),
    [
        ("a=1; Path=/v2; HttpOnly", "a=1; Path=/auth; HttpOnly"),
        ("a=1; path=/v2/x; Domain=127.0.0.1", "a=1; Path=/auth/x"),
        ("a=1; Path=/; Domain=example.com", "a=1; Path=/; Domain=example.com"),
        ("a=1", "a=1"),
    ],
)
async def test_a_cookie_is_mapped_back(start: StartRoute, cookie: str, mapped: str) -> None:
    gateway = await start("/auth", rewrite="/v2")
    async with gateway.get("/auth/x", params={"cookie": cookie}) as answer:
        assert answer.headers["Set-Cookie"] == mapped


async def test_the_upstream_gets_the_clients_host_or_its_own(start: StartRoute, server: TestServer) -> None:
    sent = {"headers": {"Host": "localhost:4321"}}
    assert (await said(await start("/auth"), "/auth", **sent))["host"] == "localhost:4321"
    got = await said(await start("/auth", host=Host.UPSTREAM), "/auth", **sent)
    assert (got["host"], got["forwarded_host"]) == (url(server).removeprefix("http://"), "localhost:4321")


async def test_a_socket_passes_on_any_route(start: StartRoute) -> None:
    gateway = await start("/live", rewrite="/cable")
    async with gateway.ws_connect("/live/x?y=1") as socket:
        assert await socket.receive_str() == "/cable/x?y=1"


async def test_one_upstream_of_several_takes_what_another_refuses(
    start_gateway: StartGateway, server: TestServer
) -> None:
    async with faulty_upstream(Fault.REFUSE) as away:
        route = Route(path="/auth", upstream=(f"http://127.0.0.1:{away}", url(server)))
        gateway = await start_gateway(away, route=(route,))
        assert (await said(gateway, "/auth"))["path"] == "/auth"


async def test_routes_know_nothing_of_each_others_failures(start: StartRoute) -> None:
    gateway = await start("/auth")
    assert [(await gateway.get(path)).status for path in ("/api/x", "/auth", "/api/x")] == [502, 200, 502]


async def test_a_time_limit_of_a_route_counts_there_alone(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.SILENT) as silent:
        limits = {"proxy_read_timeout": 0.2}
        routes = [Route(path=f"/{name}", upstream=(f"http://127.0.0.1:{silent}",)) for name in ("short", "long")]
        gateway = await start_gateway(0, route=(dataclasses.replace(routes[0], time_limits=limits), routes[1]))
        waiting = asyncio.ensure_future(gateway.get("/long"))
        async with gateway.get("/short") as answer:
            assert answer.status == 504
            said = (await answer.json())["detail"]
            assert said == "The server of /short did not answer in time (proxy_read_timeout)."
        assert not waiting.done()
        waiting.cancel()


async def test_a_silent_socket_ends_by_the_time_limit_of_its_route(
    start_gateway: StartGateway, server: TestServer
) -> None:
    route = Route(path="/live", upstream=(url(server),), time_limits={"proxy_read_timeout": 0.6})
    gateway = await start_gateway(0, route=(route,), close_frames=True)
    async with gateway.ws_connect("/live") as socket:
        assert await socket.receive_str() == "/live"
        assert (await socket.receive()).type is WSMsgType.CLOSE


# Access control -------------------------------------------------------------------------------------------------------


async def test_the_authorize_hook_is_asked_on_every_route(start: StartRoute) -> None:
    asked: list[tuple[str, str | None, str | None]] = []

    async def authorize(request: web.Request, patient: str | None, session: str | None) -> Principal:
        asked.append((request.path, patient, session))
        raise web.HTTPUnauthorized

    gateway = await start("/auth", authorize=authorize)
    assert (await gateway.get("/auth/x")).status == 401
    assert asked == [("/auth/x", None, None)]
    assert (await gateway.get("/healthz")).status == 200


@pytest.mark.parametrize(
    ("rewrite", "path", "ids"),
    [
        ("/api", "/v1/chat/s1/messages?patient_id=p1", ("p1", "s1")),
        ("/ws", "/v1/chat/p1/s1", ("p1", "s1")),
        ("/", "/v1/api/chat/s1/messages", (None, "s1")),
        ("/other", "/v1/chat/s1/messages", (None, None)),
    ],
)
async def test_the_hook_is_asked_about_the_chat_that_the_server_is_sent(
    start: StartRoute, rewrite: str, path: str, ids: tuple[str | None, str | None]
) -> None:
    asked: list[tuple[str | None, str | None]] = []

    async def authorize(_: web.Request, patient: str | None, session: str | None) -> Principal:
        asked.append((patient, session))
        return Principal("someone")

    gateway = await start("/v1", rewrite=rewrite, authorize=authorize)
    assert (await gateway.get(path)).status == 200
    assert asked == [ids]


async def test_a_rewritten_path_with_two_readings_is_refused(start: StartRoute) -> None:
    gateway = await start("/v1", rewrite="/api")
    assert (await gateway.get(URL("/v1/chat/s1%253Bx/messages", encoded=True))).status == 400


@pytest.mark.parametrize("path", ["/auth/../admin", "/auth/%2e%2e/admin", "/auth/..%2fadmin", "/auth/%252e%252e/admin"])
async def test_no_path_leaves_its_route(start: StartRoute, path: str) -> None:
    gateway = await start("/auth")
    async with dial(gateway.server.port or 0) as client:
        await client.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert (await client.head()).startswith(b"HTTP/1.1 400 ")


async def test_a_page_of_another_site_changes_nothing_there(start: StartRoute) -> None:
    gateway = await start("/auth")
    async with gateway.post("/auth", data="x", headers={"Origin": "http://evil.example"}) as answer:
        assert answer.status == 403


@pytest.mark.parametrize("path", ["/auth", "/api/auth"])
async def test_a_preflight_is_the_servers_to_answer(start: StartRoute, path: str) -> None:
    gateway = await start(path, allowed_origins=(ORIGIN,))
    async with gateway.options(path, params={"allow": "http://own.example"}, headers=PREFLIGHT) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == "http://own.example"
        assert (await answer.json())["method"] == "OPTIONS"


@pytest.mark.parametrize("path", ["/auth", "/api/auth"])
async def test_a_preflight_that_the_server_does_not_know_is_answered_for_listed_origins(
    start: StartRoute, path: str
) -> None:
    gateway = await start(path, allowed_origins=(ORIGIN,))
    async with gateway.options(path, headers=PREFLIGHT) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, ORIGIN)
        assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
    async with gateway.get(path, headers={"Origin": ORIGIN, "Host": "localhost"}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_a_listed_origin_may_use_every_method_of_the_api(start_gateway: StartGateway, method: str) -> None:
    gateway = await start_gateway(0, allowed_origins=(ORIGIN,))
    async with gateway.options("/api/x", headers=PREFLIGHT | {"Access-Control-Request-Method": method}) as answer:
        assert method in answer.headers["Access-Control-Allow-Methods"].split(", ")


# Loops ----------------------------------------------------------------------------------------------------------------


async def test_a_request_that_comes_back_is_508_with_its_route(
    start_gateway: StartGateway, unused_tcp_port: int
) -> None:
    route = Route(path="/auth", upstream=(f"http://127.0.0.1:{unused_tcp_port}",))
    gateway = await start_gateway(0, route=(route,), listen_at=unused_tcp_port)
    async with gateway.get("/auth/x") as answer:
        assert (answer.status, (await answer.json())["detail"]) == (508, "The route /auth leads back to this gateway.")


async def test_two_gateways_in_a_row_are_no_loop(start: StartRoute, start_gateway: StartGateway) -> None:
    second = await start("/auth")
    first = await start_gateway(0, route=(Route(path="/auth", upstream=(str(second.make_url("")).rstrip("/"),)),))
    assert (await said(first, "/auth/x"))["path"] == "/auth/x"
