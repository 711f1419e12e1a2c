"""The access rules before a handler that counts the requests it gets."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, make_mocked_request
from multidict import CIMultiDict

from moorline.gateway.common.access.middleware import access_middleware, add_cors_headers, client_address
from moorline.gateway.common.config.settings import CommonSettings
from tests.support.raw import dial

Client = TestClient[web.Request, web.Application]
Guarded = Callable[..., Awaitable[Client]]

PATH = "/api/chat/s/messages"
ELSEWHERE = {"Origin": "https://evil.example"}
LISTED = {"Origin": "https://app.example"}


@pytest.fixture
def guarded(aiohttp_client: Callable[..., Awaitable[Client]]) -> Guarded:
    async def start(**options: Any) -> Client:
        async def handle(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"X-Client": client_address(request), "Vary": "Accept"})
            await response.prepare(request)
            await response.write(b"handled")
            return response

        settings = CommonSettings(**options)
        app = web.Application(middlewares=[access_middleware(settings)])
        app.on_response_prepare.append(add_cors_headers(settings))
        app.router.add_route("*", "/{path:.*}", handle)
        return await aiohttp_client(app)

    return start


# Origin ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_a_page_of_another_site_may_change_nothing(guarded: Guarded, method: str, origin: str) -> None:
    client = await guarded()
    assert (await client.request(method, PATH, headers={"Origin": origin})).status == 403


async def test_a_page_of_another_site_may_open_no_socket(guarded: Guarded) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    client = await guarded()
    assert (await client.get("/ws/chat/p/s", headers=upgrade | ELSEWHERE)).status == 403


async def test_the_origin_is_refused_before_anything_else_is_looked_at(guarded: Guarded) -> None:
    client = await guarded()
    wrong_in_all = {**ELSEWHERE, "Host": "other.example", "Content-Type": "text/plain"}
    assert (await client.post(PATH, data=b"x", headers=wrong_in_all)).status == 403


async def test_reading_is_left_to_the_browsers_own_rule(guarded: Guarded) -> None:
    async with (await guarded()).get(PATH, headers=ELSEWHERE) as answer:
        assert answer.status == 200
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_no_origin_is_no_browser(guarded: Guarded) -> None:
    assert (await (await guarded()).post(PATH, json={})).status == 200


async def test_the_own_page_passes_behind_tls(guarded: Guarded) -> None:
    client = await guarded(allowed_hosts=("chat.example.com",))
    behind_tls = {"Origin": "https://chat.example.com", "Host": "chat.example.com"}
    assert (await client.post(PATH, json={}, headers=behind_tls)).status == 200


async def test_two_origins_are_refused(guarded: Guarded) -> None:
    client = await guarded()
    async with dial(client.server.port or 0) as connection:
        await connection.send(
            b"POST /api/x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n"
            b"Origin: http://evil.example\r\nContent-Length: 0\r\n\r\n"
        )
        assert b" 403 " in await connection.head()


# Host -----------------------------------------------------------------------------------------------------------------


async def test_dns_rebinding_meets_421(guarded: Guarded) -> None:
    rebound = {"Origin": "http://evil.example", "Host": "evil.example"}
    client = await guarded()
    assert (await client.post(PATH, json={}, headers=rebound)).status == 421
    assert (await client.get(PATH, headers=rebound)).status == 421


@pytest.mark.parametrize("head", [b"", b"Host: a b\r\n"])
async def test_a_request_without_a_host_is_malformed(guarded: Guarded, head: bytes) -> None:
    client = await guarded()
    async with dial(client.server.port or 0) as connection:
        await connection.send(b"GET / HTTP/1.1\r\n" + head + b"\r\n")
        assert b" 400 " in await connection.head()


async def test_a_repeated_or_missing_host_is_malformed_whatever_the_parser_makes_of_it() -> None:
    async def handle(request: web.Request) -> web.Response:
        raise AssertionError("it reached the handler")

    check = access_middleware(CommonSettings())
    for hosts in ((), ("localhost", "evil.example"), ("localhost", "localhost")):
        headers = CIMultiDict([("Host", host) for host in hosts])
        with pytest.raises(web.HTTPBadRequest):
            await check(make_mocked_request("GET", "/", headers=headers), handle)


async def test_a_repeated_host_gets_400(guarded: Guarded) -> None:
    client = await guarded()
    async with dial(client.server.port or 0) as connection:
        await connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n")
        assert b" 400 " in await connection.head()


# CORS -----------------------------------------------------------------------------------------------------------------


async def test_a_listed_origin_may_read_also_a_stream(guarded: Guarded) -> None:
    client = await guarded(allowed_origins=("https://app.example",))
    async with client.post(PATH, json={}, headers=LISTED) as answer:
        assert answer.status == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert answer.headers["Vary"] == "Accept, Origin"


async def test_a_listed_origin_may_read_why_it_was_refused(guarded: Guarded) -> None:
    client = await guarded(allowed_origins=("https://app.example",))
    async with client.post(PATH, data=b"x", headers={**LISTED, "Content-Type": "text/plain"}) as answer:
        assert answer.status == 415
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_a_preflight_is_answered_here(guarded: Guarded) -> None:
    client = await guarded(allowed_origins=("https://app.example",))
    asked = {**LISTED, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    async with client.options(PATH, headers=asked) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, DELETE"
        assert answer.headers["Access-Control-Allow-Headers"] == "content-type"


async def test_a_preflight_of_another_site_is_refused(guarded: Guarded) -> None:
    client = await guarded(allowed_origins=("https://app.example",))
    async with client.options(PATH, headers={**ELSEWHERE, "Access-Control-Request-Method": "POST"}) as answer:
        assert answer.status == 403
        assert not [name for name in answer.headers if name.startswith("Access-Control-")]


async def test_a_cache_is_told_that_a_response_without_an_origin_is_not_for_all(guarded: Guarded) -> None:
    client = await guarded(allowed_origins=("https://app.example",))
    async with client.get(PATH) as answer:
        assert answer.headers["Vary"] == "Accept, Origin"


async def test_cors_is_for_the_api_alone(guarded: Guarded) -> None:
    client = await guarded(allowed_origins=("https://app.example",))
    async with client.get("/index.html", headers=LISTED) as answer:
        assert "Access-Control-Allow-Origin" not in answer.headers


# Bodies and addresses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_body_that_any_site_could_post_is_a_415(guarded: Guarded, content_type: str) -> None:
    client = await guarded()
    assert (await client.post(PATH, data=b"{}", headers={"Content-Type": content_type})).status == 415


async def test_a_request_without_body_needs_no_type(guarded: Guarded) -> None:
    assert (await (await guarded()).delete("/api/chat/s")).status == 200


async def test_behind_a_trusted_proxy_the_client_is_whom_it_names(guarded: Guarded) -> None:
    named = {"X-Forwarded-For": "9.9.9.9"}
    assert (await (await guarded()).get(PATH, headers=named)).headers["X-Client"] == "9.9.9.9"
    stranger = await guarded(trusted_proxies=())
    assert (await stranger.get(PATH, headers=named)).headers["X-Client"] == "127.0.0.1"


@pytest.mark.parametrize(("method", "target"), [("CONNECT", "localhost:80"), ("TRACE", "/api/x")])
async def test_tunnels_and_echoes_are_not_offered(guarded: Guarded, method: str, target: str) -> None:
    client = await guarded()
    async with dial(client.server.port or 0) as connection:
        await connection.send(f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await connection.head()
    assert head.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: " in head
