"""The whole application: what is served where, to whom, and what the log says of it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from moorline.gateway.app import create_app
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web import server
from moorline.gateway.common.web.draining import DRAINING
from moorline.gateway.proxy.routes import Route
from moorline.gateway.proxy.tunnels import TUNNELS
from moorline.gateway.settings import Settings
from tests.gateway.conftest import StartGateway
from tests.support.raw import Connection, answering, dial, listening

StartServer = Callable[..., Awaitable[TestServer]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


# What is served where -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/chat/s/messages", "/docs", "/openapi.json", "/ws/chat/p/s"])
async def test_the_backends_paths_reach_the_backend(start_gateway: StartGateway, path: str) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend)
        assert await (await gateway.get(path)).text() == "ok"
    assert heads[0].startswith(f"GET {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize("path", ["/", "/chat/patient:demo"])
async def test_the_page_loads_without_a_backend(start_gateway: StartGateway, path: str) -> None:
    gateway = await start_gateway(9)
    assert await (await gateway.get(path)).text() == "<title>page</title>"


async def test_the_built_in_page_may_load_from_and_talk_to_its_own_host_alone(
    start_gateway: StartGateway, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.gateway.site.static.BUILT_IN", Path(page))
    gateway = await start_gateway(9, frontend="")
    async with gateway.get("/chat/p", headers={"Host": "localhost:4321"}) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'; connect-src 'self' ws://localhost:4321 wss://localhost:4321;" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_the_page_takes_no_post(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(9)
    async with gateway.post("/chat/p", json={}) as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
        assert answer.content_type == "application/problem+json"


async def test_a_missing_asset_is_told_as_a_problem_that_is_not_kept(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(9)
    async with gateway.get("/assets/gone.js") as answer:
        assert (answer.status, answer.headers["Cache-Control"]) == (404, "no-store")
        assert (await answer.json(content_type=None))["code"] == "not_found"


@pytest.mark.parametrize("target", ["/api/a b", "/api/\xe4", "/api/\xff", "nonsense", "http:///x"])
async def test_a_malformed_address_is_a_400(start_gateway: StartGateway, target: str) -> None:
    gateway = await start_gateway(9)
    async with dial(gateway.server.port or 0) as connection:
        await connection.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
        assert (await connection.head()).split(b" ")[1] == b"400"


def test_a_missing_frontend_is_told_at_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^frontend: "):
        create_app(Settings(frontend=str(tmp_path / "gone")))


# Health ---------------------------------------------------------------------------------------------------------------


async def test_healthz_needs_no_backend_and_readyz_does(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(9)
    assert (await gateway.get("/healthz")).status == 200
    assert (await gateway.get("/readyz")).status == 503


async def test_many_that_ask_readyz_at_once_cost_one_connection_to_the_backend(start_gateway: StartGateway) -> None:
    asked, release = 0, asyncio.Event()

    async def serve(connection: Connection) -> None:
        nonlocal asked
        await connection.head()
        asked += 1
        await release.wait()
        await connection.send(OK)

    async with listening(serve) as backend:
        gateway = await start_gateway(backend)
        asking = [asyncio.create_task(gateway.get("/readyz")) for _ in range(10)]
        while not asked:  # noqa: ASYNC110 - the product needs no event for a test's sake
            await asyncio.sleep(0.01)
        # Behind all of them.
        await gateway.get("/healthz")
        release.set()
        assert {(await each).status for each in asking} == {200}
    assert asked == 1


async def test_readyz_is_the_backends_until_the_gateway_drains(start_gateway: StartGateway) -> None:
    async with listening(answering(OK, [])) as backend:
        gateway = await start_gateway(backend)
        assert (await gateway.get("/readyz")).status == 200
        gateway.app[DRAINING].begin(1)
        assert (await gateway.get("/readyz")).status == 503


# Access control -------------------------------------------------------------------------------------------------------


async def test_a_page_of_another_site_reaches_no_backend(start_gateway: StartGateway) -> None:
    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend)
        async with gateway.post("/api/x", json={}, headers={"Origin": "https://evil.example"}) as answer:
            assert (answer.status, answer.content_type) == (403, "application/problem+json")
            assert (await answer.json(content_type=None))["code"] == "forbidden"
    assert heads == []


async def test_the_hook_is_asked_before_the_backend_and_its_refusal_is_the_answer(start_gateway: StartGateway) -> None:
    asked: list[tuple[str | None, str | None]] = []

    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        asked.append((patient_id, session_id))
        if session_id != "mine":
            raise web.HTTPForbidden(text="This chat is not yours.")
        return Principal("me")

    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend, authorize=authorize)
        assert (await gateway.get("/api/chat/mine/messages?patient_id=p1")).status == 200
        assert (await gateway.get("/api/chat/theirs/messages")).status == 403
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert (await gateway.get("/ws/chat/p2/theirs", headers=upgrade)).status == 403
    assert asked == [("p1", "mine"), (None, "theirs"), ("p2", "theirs")]
    assert len(heads) == 1


async def test_a_query_that_names_two_patients_is_refused(start_gateway: StartGateway) -> None:
    """The hook would be asked about the one, and another backend might take the other."""
    asked: list[str | None] = []

    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        asked.append(patient_id)
        return Principal("me")

    async with listening(answering(OK, [])) as backend:
        gateway = await start_gateway(backend, authorize=authorize)
        for query, status in (("p1&patient_id=p2", 400), ("p1&patient%5Fid=p2", 400), ("p1&patient_id=p1", 200)):
            assert (await gateway.get(f"/api/chat/s1/messages?patient_id={query}")).status == status
    assert asked == ["p1"]


@pytest.mark.parametrize(
    "target",
    [
        "/api/%63hat/theirs",
        "/api//chat/theirs",
        "/api/x/../chat/theirs",
        "/api/chat%2Ftheirs",
        "/api/CHAT/theirs",
        "/ws//chat/p/theirs",
    ],
)
async def test_no_spelling_of_a_path_goes_past_the_hook(start_gateway: StartGateway, target: str) -> None:
    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        raise web.HTTPForbidden

    heads: list[bytes] = []
    async with listening(answering(OK, heads)) as backend:
        gateway = await start_gateway(backend, authorize=authorize)
        async with dial(gateway.server.port or 0) as connection:
            await connection.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert (await connection.head()).split(b" ")[1] in (b"400", b"403")
    assert heads == []


async def test_an_open_gateway_says_so_at_start(page: str, caplog: pytest.LogCaptureFixture) -> None:
    create_app(Settings(frontend=page, host="0.0.0.0"))
    assert "every chat is open to any client that reaches 0.0.0.0" in caplog.text


# The log --------------------------------------------------------------------------------------------------------------


async def test_a_line_names_the_route_and_the_client_and_no_ids(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    async with listening(answering(OK, [])) as backend:
        gateway = await start_gateway(backend)
        behind_nginx = {"X-Forwarded-For": "9.9.9.9", "X-Request-ID": "abc"}
        await gateway.get("/api/chat/secret-session/messages?patient_id=secret-patient", headers=behind_nginx)
        await gateway.get("/chat/secret-patient")
        # The line comes when the answer is complete.
        await gateway.close()
    lines = [record.getMessage() for record in caplog.records if record.name == "moorline.gateway.access"]
    assert lines[0].startswith("GET /api/chat/{session_id}/messages 200 ")
    assert lines[0].endswith(" client=9.9.9.9 request_id=abc")
    assert lines[1].startswith("GET /chat/{patient_id} 200 ")
    assert "secret" not in caplog.text


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[logging.LogRecord]]:
    """The lines of requests so far."""
    caplog.set_level(logging.INFO, "moorline")
    return lambda: [record for record in caplog.records if record.name == "moorline.gateway.access"]


Lines = Callable[[], list[logging.LogRecord]]


@pytest.mark.parametrize(
    ("sent", "status", "refused"),
    [
        ({"Origin": "http://evil.example"}, 403, "Origin http://evil.example is none of allowed_origins"),
        ({"Host": "evil.example"}, 421, "Host evil.example is none of allowed_hosts"),
        ({"Content-Type": "text/plain"}, 415, "Content-Type text/plain"),
        ({"Content-Type": 'a" cause="UR-idle'}, 415, r"Content-Type a\x22 cause=\x22UR-idle"),
        ({"Host": "a\u202eb"}, 400, r"Host a\u202eb is not one host"),
    ],
)
async def test_a_refusal_of_the_gateway_says_why(
    start_gateway: StartGateway, lines: Lines, sent: dict[str, str], status: int, refused: str
) -> None:
    gateway = await start_gateway(9)
    await gateway.post("/api/chat/s1/messages", data=b"x", headers=sent)
    await gateway.close()
    (line,) = lines()
    assert vars(line)["status"] == status
    assert vars(line)["refused"] == refused
    assert f'refused="{refused}"' in line.getMessage()


async def test_the_limit_of_sockets_is_named(start_gateway: StartGateway, lines: Lines) -> None:
    gateway = await start_gateway(9, max_connections=1, connect_retry=None)
    gateway.app[TUNNELS]._socket_limits.add("127.0.0.1")
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        await gateway.ws_connect("/ws/chat/p/s")
    await gateway.close()
    assert "max_connections" in vars(lines()[0])["refused"]


async def test_an_upstream_that_fails_is_named(start_gateway: StartGateway, lines: Lines) -> None:
    gateway = await start_gateway(9)
    await gateway.get("/api/chat/s1")
    await gateway.close()
    facts = vars(lines()[-1])
    assert (facts["status"], facts["upstream"]) == (502, "http://127.0.0.1:9")
    assert "cannot be reached" in facts["refused"]


async def test_a_refusal_of_the_backend_is_told_apart(start_gateway: StartGateway, lines: Lines) -> None:
    async with listening(answering(OK.replace(b"200 OK", b"403 Forbidden"), [])) as backend:
        gateway = await start_gateway(backend)
        await gateway.get("/api/chat/s1")
        await gateway.close()
    (line,) = lines()
    assert (vars(line)["status"], "refused" in vars(line)) == (403, False)


async def test_the_words_of_the_hook_are_not_logged(start_gateway: StartGateway, lines: Lines) -> None:
    async def authorize(*_: object) -> Principal:
        raise web.HTTPForbidden(text="John Doe may not read about Jane Doe")

    gateway = await start_gateway(9, authorize=authorize)
    await gateway.get("/api/chat/s1")
    await gateway.close()
    (line,) = lines()
    assert vars(line)["refused"] == "authorize"
    assert "Doe" not in line.getMessage()


async def test_a_browser_on_this_machine_shows_the_pages_of_a_dev_server(
    start_gateway: StartGateway, lines: Lines
) -> None:
    async with listening(answering(OK, [])) as port:
        gateway = await start_gateway(9, frontend=f"http://127.0.0.1:{port}", upstream_keepalive=None)
        await gateway.get("/orders/7?t=1")
        await gateway.get("/orders/7", headers={"X-Forwarded-For": "9.9.9.9"})
        await gateway.get("/chat/secret-patient")
        await gateway.close()
    assert [vars(line)["path"] for line in lines()] == ["/orders/7", "/{path}", "/chat/{patient_id}"]


async def test_an_error_in_the_gateway_is_a_500_that_says_nothing(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(request: web.Request) -> web.Response:
        raise RuntimeError("the directory of users is gone")

    settings = Settings(port=0, upstream=("http://127.0.0.1:9",))
    app = create_app(settings)
    app.router.add_get("/api/broken", broken)
    async with (
        server.running(app, settings) as started,
        aiohttp.request("GET", f"{started.addresses[0]}/api/broken") as answer,
    ):
        assert answer.status == 500
        assert "directory" not in await answer.text()
    assert "the directory of users is gone" in caplog.text


# A connection of the hook's that is refused is no client that has left.
@pytest.mark.parametrize("failure", [KeyError, ConnectionRefusedError])
async def test_a_hook_that_fails_is_a_500_and_one_line_without_its_words(
    failure: type[Exception], start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        raise failure("patient:4711")

    gateway = await start_gateway(9, authorize=authorize)
    async with gateway.get("/api/chat/s") as answer:
        assert answer.status == 500
        assert "4711" not in await answer.text()
    assert f"failed: authorize: {failure.__name__} (authorize in tests/gateway/test_app.py, line" in caplog.text
    assert "4711" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_route_that_a_program_has_added_counts_before_a_shorter_one_of_the_gateway(page: str) -> None:
    async def mine(_: web.Request) -> web.Response:
        return web.Response(text="mine")

    settings = Settings(port=0, upstream=("http://127.0.0.1:9",), frontend=page)
    app = create_app(settings)
    app.router.add_get("/api/mine", mine)
    async with server.running(app, settings) as started, aiohttp.ClientSession(started.addresses[0]) as session:
        assert await (await session.get("/api/mine")).text() == "mine"


async def test_a_file_of_another_server_is_named_by_its_route(start_gateway: StartGateway, lines: Lines) -> None:
    async with listening(answering(OK, [])) as port:
        route = Route(path="/scans", upstream=(f"http://127.0.0.1:{port}",))
        gateway = await start_gateway(9, route=(route,), upstream_keepalive=None)
        await gateway.get("/scans/secret-patient.png")
        await gateway.close()
    assert [vars(line)["path"] for line in lines()] == ["/scans/{path}"]
