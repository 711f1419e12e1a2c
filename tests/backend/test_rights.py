"""A right ends when the principal expires, when the hook refuses it, and when the application closes it."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from moorline.backend.app import close_principal
from moorline.backend.principal_limits import PrincipalLimits
from moorline.backend.rights import RIGHTS, Rights
from moorline.backend.settings import Settings
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.access.rights import REVOKED_SECONDS
from moorline.gateway.common.access.rules import AccessRules
from moorline.gateway.common.web.draining import DRAINING
from tests.support.backends import STEP, Backend, Script, backend, hello, say
from tests.support.eventlogs import until

AGAIN = 0.05


class Hook:
    """Answers with `principal`, or raises it."""

    def __init__(self) -> None:
        self.result: Principal | Exception = Principal("alice")
        self.asked = 0
        self.refuses_from: float = math.inf
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        self.asked += 1
        await self.answers.wait()
        if self.asked >= self.refuses_from:
            raise web.HTTPForbidden
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def hook() -> Hook:
    return Hook()


@pytest.fixture
async def server(hook: Hook, tmp_path: Path) -> AsyncIterator[Backend]:
    async with backend(tmp_path, Script(), authorize=hook, authorize_again=AGAIN) as server:
        yield server


async def close_code(socket: ClientConnection) -> int | None:
    """The code that the server closes with."""
    async with asyncio.timeout(STEP):
        await socket.wait_closed()
    return socket.close_code


async def held_poll(server: Backend) -> int:
    """The status of a poll that nothing but its end of the right answers soon."""
    url = f"{server.http}/api/chat/s1/messages?patient_id=p1&after=0&epoch=&wait=30"
    async with aiohttp.ClientSession() as http:
        async with http.get(url) as snapshot:
            if snapshot.status != 200:
                return snapshot.status
            epoch = (await snapshot.json())["epoch"]
        async with asyncio.timeout(STEP), http.get(url.replace("epoch=", f"epoch={epoch}")) as answer:
            return answer.status


async def opened(server: Backend, door: str) -> int | None:
    """The status of a poll that waits 30 s if nothing ends it, or that of a refused handshake, or the close code."""
    if door == "poll":
        return await held_poll(server)
    try:
        async with server.socket("s1", "p1") as socket:
            return await close_code(socket)
    except InvalidStatus as refused:
        return refused.response.status_code


# With 401 the client may come back with new credentials, as after a handshake that gets it.
@pytest.mark.parametrize(("refusal", "code"), [(web.HTTPForbidden, 4503), (web.HTTPUnauthorized, 4401)])
async def test_a_socket_that_is_refused_later_ends_with_the_code_that_says_so(
    server: Backend, hook: Hook, refusal: type[web.HTTPException], code: int
) -> None:
    async with server.socket("s1", "p1") as socket:
        await hello(socket)
        hook.result = refusal()
        assert await close_code(socket) == code


@pytest.mark.parametrize("refusal", [web.HTTPForbidden, web.HTTPUnauthorized])
async def test_a_poll_that_is_refused_later_ends_with_its_status(
    server: Backend, hook: Hook, refusal: type[web.HTTPException]
) -> None:
    poll = asyncio.create_task(held_poll(server))
    await until(lambda: hook.asked >= 3)
    hook.result = refusal()
    assert await poll == refusal.status_code


async def test_a_principal_that_expires_is_not_asked_about_again(
    hook: Hook, tmp_path: Path, go_on: Callable[[float], None]
) -> None:
    async with backend(tmp_path, Script(), authorize=hook, authorize_again=None) as server:
        hook.result = Principal("alice", expires=time.time() + 1000)
        async with server.socket("s1", "p1") as socket:
            go_on(1000)
            assert await close_code(socket) == 4401
        assert hook.asked == 1


async def test_an_expired_principal_opens_nothing(server: Backend, hook: Hook) -> None:
    hook.result = Principal("alice", expires=time.time() - 1)
    with pytest.raises(InvalidStatus) as refused:
        await server.socket("s1", "p1")
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize(("given", "told"), [({}, ["Bearer"]), ({"WWW-Authenticate": "Digest"}, ["Digest"])])
async def test_a_401_names_a_scheme(server: Backend, hook: Hook, given: dict[str, str], told: list[str]) -> None:
    hook.result = web.HTTPUnauthorized(headers=given)
    with pytest.raises(InvalidStatus) as refused:
        await server.socket("s1", "p1")
    url = f"{server.http}/api/chat/s1/messages?patient_id=p1"
    async with aiohttp.request("GET", url) as response:
        assert response.headers.getall("WWW-Authenticate") == told
    assert refused.value.response.headers.get_all("WWW-Authenticate") == told


async def test_a_socket_whose_principal_has_expired_when_the_hook_is_asked_again_may_come_back(
    server: Backend, hook: Hook
) -> None:
    async with server.socket("s1", "p1") as socket:
        await hello(socket)
        hook.result = Principal("alice", expires=time.time() - 1)
        assert await close_code(socket) == 4401


async def test_close_principal_ends_its_sockets_and_polls_and_no_other(hook: Hook, tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=hook, authorize_again=None) as server:
        hook.result = Principal("bob")
        async with server.socket("s2", "p2") as other, server.socket("s1", "p1") as _:
            await hello(other)
            hook.result = Principal("alice")
            poll = asyncio.create_task(held_poll(server))
            async with server.socket("s1", "p1") as socket:
                await hello(socket)
                # The hook's answers are in use only once they are held.
                await until(lambda: hook.asked == 5 and len(server.app[RIGHTS]._held) == 4)
                close_principal(server.app, "alice")
                assert (await close_code(socket), await poll) == (4503, 403)
            await say(other, type="ping")
            assert "pong" in str(await other.recv())


@pytest.mark.parametrize("door", ["socket", "poll"])
async def test_a_principal_closed_while_the_hook_works_is_asked_about_again(
    server: Backend, hook: Hook, door: str
) -> None:
    hook.answers.clear()
    asking = asyncio.create_task(opened(server, door))
    await until(lambda: hook.asked == 1)
    close_principal(server.app, "alice")
    hook.refuses_from = 2
    hook.answers.set()
    assert await asking == 403


async def test_a_handshake_that_the_hook_still_decides_as_a_restart_begins_is_accepted(
    server: Backend, hook: Hook
) -> None:
    hook.answers.clear()
    opening = asyncio.create_task(server.socket("s1", "p1").__aenter__())
    await until(lambda: hook.asked == 1)
    server.app[DRAINING].begin(STEP)
    with pytest.raises(InvalidStatus) as late:
        await server.socket("s2", "p1").__aenter__()
    refusal = late.value.response
    assert (refusal.status_code, refusal.headers["Retry-After"]) == (503, "1")
    assert b'"The backend is restarting."' in refusal.body
    hook.answers.set()
    assert await close_code(await opening) == 1012


@pytest.mark.parametrize(("door", "ends_with"), [("socket", 4503), ("poll", 403)])
async def test_a_principal_closed_before_its_session_is_found_opens_nothing(
    server: Backend, door: str, ends_with: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds = "session_for" if door == "socket" else "find_session"
    found = getattr(server.log, finds)

    async def found_late(*args: str) -> Any:
        close_principal(server.app, "alice")
        return await found(*args)

    monkeypatch.setattr(server.log, finds, found_late)
    assert await opened(server, door) == ends_with


async def test_a_principal_closed_while_a_page_is_read_sees_nothing_of_it(
    server: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.log.start_run("s1", "p1", client_msg_id="c1", content="Hello", now=0.0)
    rows = server.log.rows

    async def read_late(*args: Any, **options: Any) -> Any:
        found = await rows(*args, **options)
        close_principal(server.app, "alice")
        return found

    monkeypatch.setattr(server.log, "rows", read_late)
    async with aiohttp.request("GET", f"{server.http}/api/chat/s1/messages?patient_id=p1") as answer:
        assert answer.status == 403


async def test_what_a_hook_raises_is_logged_without_its_words(
    server: Backend, hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with server.socket("s1", "p1") as socket:
        await hello(socket)
        hook.result, asked = KeyError("token-of-dr-who"), hook.asked
        await until(lambda: hook.asked > asked + 1)
        async with aiohttp.request("GET", f"{server.http}/api/chat/s1/messages?patient_id=p1") as answer:
            assert answer.status == 500
    found = [line for line in caplog.messages if "authorize: KeyError (" in line]
    assert any(line.endswith("; it is asked again") for line in found)
    assert any(line.startswith("a request failed: ") for line in found)
    assert not any(word in caplog.text for word in ("token-of-dr-who", "Traceback"))


@pytest.mark.parametrize("failure", [RuntimeError("no database"), web.HTTPServiceUnavailable()])
async def test_a_hook_that_fails_has_decided_nothing(server: Backend, hook: Hook, failure: Exception) -> None:
    async with server.socket("s1", "p1") as socket:
        await hello(socket)
        hook.result, asked = failure, hook.asked
        await until(lambda: hook.asked > asked + 1)
        await say(socket, type="ping")
        assert "pong" in str(await socket.recv())


async def test_what_was_closed_or_revoked_is_forgotten_once_it_cannot_count() -> None:
    rights = Rights(None, AccessRules.of(Settings()), again=None, closed_within=-1.0, limits=PrincipalLimits())
    rights.close("alice")
    rights.revoke("alice", time.time() - REVOKED_SECONDS - 1)
    rights.revoke("bob", time.time())
    rights.prune()
    assert (list(rights._closed_at), list(rights._revoked)) == ([], ["bob"])


async def test_without_a_hook_nothing_is_asked_again() -> None:
    options: dict[str, Any] = {"again": 60.0, "closed_within": 1.0, "limits": PrincipalLimits()}
    rules = AccessRules.of(Settings())
    assert Rights(None, rules, **options).again is None
    assert Rights(Hook(), rules, **options).again == 60.0


async def test_what_was_allowed_at_the_moment_of_a_closing_was_allowed_before_it() -> None:
    rights = Rights(None, AccessRules.of(Settings()), again=None, closed_within=1.0, limits=PrincipalLimits())
    rights.close("alice")
    at = rights._closed_at["alice"]
    assert (rights.closed_since("alice", at), rights.closed_since("alice", at + 0.1)) == (True, False)
