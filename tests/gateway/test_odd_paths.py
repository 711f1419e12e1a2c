"""Odd paths through the gateway, before a foreign backend that records what reaches it."""

from aiohttp import web

from moorline.gateway.common.access.authorize import Principal
from tests.gateway.conftest import StartGateway
from tests.support.odd_paths import AMBIGUOUS, ODD, OUT_OF_API
from tests.support.raw import answering, dial, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


async def status(port: int, target: str, fields: str = "") -> int:
    async with dial(port) as client:
        await client.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
        return int((await client.head()).split()[1])


async def test_no_path_reaches_the_backend_unless_the_hook_allows_it(start_gateway: StartGateway) -> None:
    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        raise web.HTTPForbidden

    assert len(ODD) >= 74
    reached: list[bytes] = []
    async with listening(answering(OK, reached)) as backend:
        gateway = await start_gateway(backend, authorize=authorize)
        for target in ODD:
            for fields in ("", UPGRADE * ("ws" in target)):
                # The page answers a path that only looks like one of the backend's.
                assert await status(gateway.server.port or 0, target, fields) in (400, 403, 404), target
    assert reached == []


async def test_without_a_hook_no_spelling_leaves_the_api_at_a_backend_that_normalises(
    start_gateway: StartGateway,
) -> None:
    reached: list[bytes] = []
    async with listening(answering(OK, reached)) as backend:
        gateway = await start_gateway(backend)
        for target in (*OUT_OF_API, *AMBIGUOUS):
            for fields in ("", UPGRADE * ("ws" in target)):
                assert await status(gateway.server.port or 0, target, fields) in (400, 404), target
    assert reached == []


async def test_the_hook_is_asked_also_where_no_session_is_named(start_gateway: StartGateway) -> None:
    asked: list[tuple[str | None, str | None]] = []

    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        asked.append((patient_id, session_id))
        return Principal("me")

    async with listening(answering(OK, [])) as backend:
        gateway = await start_gateway(backend, authorize=authorize)
        for target in ("/api/export", "/ws/chat/p", "/ws"):
            assert await status(gateway.server.port or 0, target) == 200
    assert asked == [(None, None)] * 3
