"""Each address of both parts has a decision about access, in a table of the page on security, and it is the one made.

A new route without a row fails the first test; a row that is not true fails one of the others.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from moorline.backend.app import create_app as create_backend
from moorline.backend.settings import Settings as BackendSettings
from moorline.gateway.app import create_app as create_gateway
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from moorline.gateway.site.docs import DOCS
from tests.support.backends import Backend, Script, backend

STEP = 10.0
ROW = re.compile(r"^\| (backend|gateway) \| `(\S+) (\S+)` \| (\w+) \|", re.MULTILINE)
PAGE = (DOCS / "security.md").read_text(encoding="utf-8").partition("### Every address\n")[2]
TABLE = {(part, method, path): decision for part, method, path, decision in ROW.findall(PAGE)}
VALUES = {
    "patient_id": "p1",
    "session_id": "s1",
    "path": "x",
    "page": "security",
    "file": "x.js",
    "request_id": "x",
    "id": "x",
}
BODIES = {
    "/api/chat/{session_id}/messages": {"patient_id": "p1", "message": "x", "client_msg_id": "c1"},
    "/api/chat/{session_id}/retry": {"run_id": "r1", "client_msg_id": "c1"},
    "/api/chat/{session_id}/cancel": {"run_id": "r1"},
    "/api/ticket": {"patient_id": "p1"},
}


class Refusing:
    """A hook that notes what it is asked, and refuses it with a status that nothing else answers with."""

    STATUS = 402

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str | None]] = []

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        self.asked.append((patient_id, session_id))
        raise web.HTTPPaymentRequired


def addresses(part: str, *decisions: str) -> list[tuple[str, str]]:
    """Method and path of each row."""
    rows = TABLE.items()
    return [(method, path) for (of, method, path), decision in rows if of == part and decision in decisions]


def routes(app: web.Application) -> set[tuple[str, str]]:
    found = {(route.method, getattr(route.resource, "canonical", "")) for route in app.router.routes()}
    # aiohttp adds a HEAD to each GET, with the same handler.
    return {(method, path) for method, path in found if method != "HEAD" or ("GET", path) not in found}


async def status(url: str, method: str, path: str, **headers: str) -> int:
    """What the address answers, the path's names filled in."""
    body = BODIES.get(path) if method == "POST" else None
    if path.startswith("/ws"):
        headers |= {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
    method = "GET" if method == "*" else method
    request = aiohttp.request(method, url + path.format(**VALUES), json=body, headers=headers)
    async with asyncio.timeout(STEP), request as answer:
        return answer.status


@pytest.fixture
def hook() -> Refusing:
    return Refusing()


@pytest.fixture
async def server(hook: Refusing, tmp_path: Path) -> AsyncIterator[Backend]:
    """A backend with the session s1 of the patient p1."""
    async with backend(tmp_path, Script(), authorize=hook) as server:
        await server.log.start_run("s1", "p1", client_msg_id="c0", content="x", now=0.0)
        yield server


@pytest.fixture
async def gateway(hook: Refusing) -> AsyncIterator[str]:
    # Port 9, "discard", has no server: what is refused is so before it is dialled.
    settings = Settings(port=0, upstream=("http://127.0.0.1:9",), connect_retry=None)
    async with running(create_gateway(settings, authorize=hook), settings) as server:
        yield f"http://127.0.0.1:{server.port}"


async def test_each_route_has_a_row_and_each_row_a_route(tmp_path: Path) -> None:
    apps = {
        "backend": create_backend(BackendSettings(database=f"sqlite:///{tmp_path}/x.db"), responder=Script()),
        "gateway": create_gateway(Settings()),
    }
    assert {(part, *route) for part, app in apps.items() for route in routes(app)} == TABLE.keys()


async def test_the_backend_asks_with_the_patient(server: Backend, hook: Refusing) -> None:
    for method, path in addresses("backend", "patient"):
        hook.asked.clear()
        assert await status(server.http, method, path) == hook.STATUS, path
        assert hook.asked[0] == ("p1", "s1" if "{session_id}" in path else None), path


async def test_the_gateway_asks_before_it_dials(gateway: str, hook: Refusing) -> None:
    for method, path in addresses("gateway", "asked"):
        assert await status(gateway, method, path) == hook.STATUS, path
        assert hook.asked[-1][0] == ("p1" if "{patient_id}" in path else None), path


async def test_the_inspector_is_for_this_machine(gateway: str) -> None:
    for method, path in addresses("gateway", "machine"):
        assert await status(gateway, method, path, **{"X-Forwarded-For": "203.0.113.9"}) == 403, path


async def test_what_is_public_is_not_asked_about(server: Backend, gateway: str, hook: Refusing) -> None:
    hook.asked.clear()
    for part, url in (("backend", server.http), ("gateway", gateway)):
        for method, path in addresses(part, "public"):
            assert await status(url, method, path) not in (401, hook.STATUS, 403), path
    assert not hook.asked
