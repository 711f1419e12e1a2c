"""A ticket opens one socket, of the patient that it names, for half a minute, at any backend of the database."""

import asyncio
import contextlib
import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.exceptions import InvalidStatus

from moorline.backend import retention, tickets
from moorline.backend.app import TICKETS, close_principal
from moorline.backend.eventlog.base import Ticket
from moorline.backend.eventlog.log import EventLog
from moorline.backend.rights import RIGHTS
from moorline.gateway.app import create_app as create_gateway
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.access.rights import Right
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings as GatewaySettings
from tests.support import needs
from tests.support.backends import STEP, Backend, Script, backend, hello, receive_until, say
from tests.support.eventlogs import until
from tests.support.faulty_upstream import dial, handshake

ALICE = {"X-User": "alice"}


async def by_header(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    """A principal whose sockets cannot send what its requests do, and who has the patients p1 and p2."""
    if "X-User" not in request.headers:
        raise web.HTTPUnauthorized
    if patient_id not in ("p1", "p2"):
        raise web.HTTPForbidden
    return Principal(request.headers["X-User"], metadata={"role": "nurse"})


async def issue(server: Backend, headers: dict[str, str] = ALICE, **body: Any) -> tuple[int, dict[str, Any], str]:
    """Status, body and Retry-After of a request for a ticket."""
    url = f"{server.http}/api/ticket"
    async with aiohttp.request("POST", url, json={"patient_id": "p1", **body}, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers.get("Retry-After", "")


async def ticket(server: Backend, **body: Any) -> str:
    status, issued, _ = await issue(server, **body)
    assert (status, issued["expires_in"]) == (200, 30)
    return str(issued["ticket"])


def socket(server: Backend, text: str, session: str = "s1", patient: str = "p1") -> Any:
    return server.socket(session, patient, subprotocols=["moorline", f"moorline.ticket.{text}"])


async def opens(server: Backend, text: str) -> bool:
    try:
        async with socket(server, text):
            return True
    except InvalidStatus:
        return False


async def refused(server: Backend, text: str, session: str = "s1", patient: str = "p1") -> int:
    with pytest.raises(InvalidStatus) as refusal:
        await socket(server, text, session, patient)
    return refusal.value.response.status_code


async def test_a_ticket_opens_a_socket_for_the_principal_that_asked_for_it(database: str, tmp_path: Path) -> None:
    script = Script("Good day", None)
    started = backend(tmp_path, script, authorize=by_header, database=database)
    async with started as server, socket(server, await ticket(server)) as opened:
        assert opened.subprotocol == "moorline"
        await hello(opened)
        await say(opened, type="send", message="Hello", client_msg_id="c1")
        user = next(frame for frame in await receive_until(opened, "message") if frame["type"] == "user")
    assert user["author"] == "alice"


async def test_a_ticket_from_before_its_principal_was_closed_opens_nothing(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        text = await ticket(server)
        close_principal(server.app, "bob")
        async with socket(server, await ticket(server)):
            pass
        close_principal(server.app, "alice")
        assert await refused(server, text) == 401
        # One of the first moment after it may be refused as well, and the client takes another.
        async with asyncio.timeout(10):
            while not await opens(server, await ticket(server)):
                pass


async def test_a_principal_that_is_closed_while_its_ticket_is_issued_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_ticket, issued = EventLog.add_ticket, list[str]()

    async def closing(log: EventLog, digest: str, *args: Any, **options: Any) -> None:
        issued.append(digest)
        close_principal(server.app, "alice")
        await add_ticket(log, digest, *args, **options)

    monkeypatch.setattr(EventLog, "add_ticket", closing)
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        assert (await issue(server))[0] == 403
    assert len(issued) == 1


async def test_a_ticket_is_as_old_as_the_decision_about_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_ticket = EventLog.add_ticket

    async def revoking(log: EventLog, *args: Any, **options: Any) -> None:
        await log.revoke("alice")
        # The right of this process has ended, and in another one it would not have.
        monkeypatch.setattr(Right, "check", lambda right: None)
        await add_ticket(log, *args, **options)

    monkeypatch.setattr(EventLog, "add_ticket", revoking)
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        text = await ticket(server)
        assert await refused(server, text) == 401


async def test_a_ticket_opens_one_socket(database: str, tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header, database=database) as server:
        text = await ticket(server)
        async with socket(server, text):
            assert await refused(server, text) == 401
        assert await refused(server, "never-issued") == 401
        offer = handshake("/ws/chat/p1/s1", "Sec-WebSocket-Protocol: moorline.ticket.?")
        async with dial(server.port) as peer:
            await peer.send(offer.replace(b"?", b"\xff"))
            assert (await peer.head()).startswith(b"HTTP/1.1 401 ")


@needs.postgres
async def test_a_backend_with_another_clock_redeems_it(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.time
    async with backend(tmp_path, Script(), authorize=by_header, database=postgres_database) as server:
        with monkeypatch.context() as behind:
            behind.setattr(time, "time", lambda: clock() - 3600)
            texts = [await ticket(server) for _ in range(2)]
        async with socket(server, texts[0]):
            pass
        await server.log.revoke("alice")
        assert await refused(server, texts[1]) == 401


@needs.postgres
async def test_another_backend_of_the_database_redeems_it(postgres_database: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"authorize": by_header, "database": postgres_database}
    async with (
        backend(tmp_path, Script(), **options) as one,
        backend(tmp_path, Script(), **options) as other,
        socket(other, await ticket(one)) as opened,
    ):
        assert (await hello(opened))[0]["v"] == 2


async def opened_at(url: str, text: str) -> int:
    """The status of a handshake with the ticket at this address."""
    async with aiohttp.ClientSession() as http:
        try:
            async with http.ws_connect(f"{url}/ws/chat/p1/s1", protocols=["moorline", f"moorline.ticket.{text}"]):
                return 101
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status


@needs.postgres
async def test_of_many_handshakes_at_several_gateways_and_backends_a_ticket_opens_one(
    postgres_database: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"authorize": by_header, "database": postgres_database}
    async with backend(tmp_path, Script(), **options) as one, backend(tmp_path, Script(), **options) as other:
        passing = [GatewaySettings(port=0, upstream=(server.http,)) for server in (one, one, other)]
        async with contextlib.AsyncExitStack() as running_gateways:
            gateways = [
                await running_gateways.enter_async_context(running(create_gateway(each), each)) for each in passing
            ]
            urls = [one.http, other.http, *(f"http://127.0.0.1:{gateway.port}" for gateway in gateways)]
            for _ in range(3):
                text = await ticket(one)
                statuses = await asyncio.gather(*(opened_at(url, text) for url in urls * 2))
                assert sorted(statuses) == [101] + [401] * (2 * len(urls) - 1)


async def test_a_ticket_is_for_its_patient_and_its_session(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        assert await refused(server, await ticket(server), patient="p2") == 403
        assert await refused(server, await ticket(server, session_id="s1"), session="s2") == 403
        assert (await issue(server, patient_id="p3"))[0] == 403
        assert (await issue(server, headers={}))[0] == 401


async def test_a_handshake_that_is_refused_leaves_its_ticket(database: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"database": database, "max_connections_per_principal": 1}
    async with backend(tmp_path, Script(), authorize=by_header, **options) as server:
        text = await ticket(server)
        async with socket(server, await ticket(server)):
            assert await refused(server, text) == 429
        await until(lambda: not server.app[RIGHTS]._held)
        assert await refused(server, text, patient="p2") == 403
        async with socket(server, text):
            pass


async def test_a_handshake_for_the_session_of_another_patient_holds_nothing(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        await server.log.start_run("s1", "p2", client_msg_id="c1", content="Hello", now=0.0)
        assert await refused(server, await ticket(server)) == 403
        assert not server.app[RIGHTS]._held


@pytest.mark.parametrize("value", [object(), math.nan])
async def test_a_principal_whose_metadata_have_no_form_as_json_gets_no_ticket(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    async def odd(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        return Principal("alice", metadata={"role": value})

    async with backend(tmp_path, Script(), authorize=odd) as server:
        assert (await issue(server))[0] == 500
    assert "the metadata of a principal with a ticket must be JSON" in caplog.text


async def test_a_handshake_beyond_the_rate_leaves_its_ticket(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header, handshakes_per_principal=1) as server:
        text = await ticket(server)
        async with socket(server, await ticket(server)):
            pass
        assert await refused(server, text) == 429
        server.app[RIGHTS]._limits._rate = None
        async with socket(server, text):
            pass


async def test_a_ticket_that_is_too_old_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "LIFE_SECONDS", -1.0)
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        assert await refused(server, str((await issue(server))[1]["ticket"])) == 401


async def test_a_ticket_that_is_not_used_is_removed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "LIFE_SECONDS", -1.0)
    monkeypatch.setattr(retention, "_PRUNE_SECONDS", 0.01)
    prune, pruned = EventLog.prune, asyncio.Queue[None]()

    async def noted(log: EventLog, **options: float) -> None:
        await prune(log, **options)
        pruned.put_nowait(None)

    monkeypatch.setattr(EventLog, "prune", noted)
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        await issue(server)
        for _ in range(pruned.qsize() + 2):
            await pruned.get()
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db, db:
        assert db.execute("SELECT * FROM tickets").fetchall() == []


async def test_the_database_holds_no_ticket_but_its_hash(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        text = await ticket(server)
    with contextlib.closing(sqlite3.connect(tmp_path / "chat.db")) as db, db:
        (row,) = db.execute("SELECT * FROM tickets").fetchall()
    assert tickets._digest(text) in row
    assert text not in str(row)


#: When a principal expires, and when the hook would be asked again: in so many seconds.
@pytest.mark.parametrize(("expires", "again"), [(None, 1000.0), (1000.0, None), (1000.0, 2000.0), (2000.0, 1000.0)])
async def test_a_socket_by_ticket_ends_with_its_principal_and_when_the_hook_would_be_asked_again(
    tmp_path: Path, go_on: Callable[[float], None], expires: float | None, again: float | None
) -> None:
    async def expiring(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        return Principal("alice", expires=None if expires is None else time.time() + expires)

    async with backend(tmp_path, Script(), authorize=expiring, authorize_again=again) as server:
        async with asyncio.timeout(STEP), socket(server, await ticket(server)) as opened:
            go_on(900)
            await hello(opened)
            go_on(1000)
            await opened.wait_closed()
        assert opened.close_code == 4401


async def test_the_time_until_the_hook_would_be_asked_again_begins_with_the_ticket(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header, authorize_again=1000.0) as server:
        given = Ticket("p1", None, "alice", "{}", None, None)
        expires = server.app[TICKETS]._expires(given, 20.0)
    assert expires == pytest.approx(time.time() + 980, abs=STEP)


async def test_a_principal_that_is_closed_loses_its_socket_by_ticket(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        async with asyncio.timeout(STEP), socket(server, await ticket(server)) as opened:
            await until(lambda: server.app[RIGHTS]._held)
            close_principal(server.app, "alice")
            await opened.wait_closed()
        assert opened.close_code == 4503


async def test_too_many_tickets_are_429_with_the_time_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "PER_MINUTE", 2)
    async with backend(tmp_path, Script(), authorize=by_header) as server:
        statuses = [(await issue(server))[0] for _ in range(2)]
        status, problem, retry_after = await issue(server)
        assert [*statuses, status] == [200, 200, 429]
        assert (problem["code"], 25 < int(retry_after) <= 30) == ("rate_limited", True)
        assert (await issue(server, headers={"X-User": "bob"}))[0] == 200
