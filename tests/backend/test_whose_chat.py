"""The `authorize` hook decides by the patient whose chat it is, also where a request does not name the patient."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from websockets.exceptions import InvalidStatus

from moorline.gateway.common.access.authorize import Principal
from tests.support.backends import Backend, Script, backend, hello, receive_until, say
from tests.support.eventlogs import until

SECRET = "what no other principal may read"
PATIENTS = {"alice": "p1", "bob": "p2"}


def _name(request: web.Request) -> str:
    name = request.headers.get("X-User", "")
    if name not in PATIENTS:
        raise web.HTTPUnauthorized
    return name


async def strict(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    """Each to their own patient."""
    name = _name(request)
    if patient_id != PATIENTS[name]:
        raise web.HTTPForbidden(text=f"{patient_id} is not yours")
    return Principal(name)


async def lenient(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    """As `strict`, but a request without a patient is allowed."""
    return Principal(_name(request)) if patient_id is None else await strict(request, patient_id, session_id)


HOOKS = pytest.mark.parametrize("hook", [strict, lenient])

# Every request of the API that can go without a patient_id.
REQUESTS: tuple[tuple[str, str, dict[str, str] | None], ...] = (
    ("GET", "/messages", None),
    ("GET", "/messages?after=0&epoch=", None),
    ("GET", "/messages?after=0&epoch={epoch}&wait=0.1", None),
    ("DELETE", "", None),
    ("POST", "/retry", {"run_id": "{run_id}", "client_msg_id": "c9"}),
    ("POST", "/cancel", {"run_id": "{run_id}"}),
)


class Asked(NamedTuple):
    """The chat of alice's patient, with an answer under way, and a client to ask about it."""

    server: Backend
    http: aiohttp.ClientSession
    epoch: str
    run_id: str

    async def ask(
        self, name: str, method: str, path: str, body: dict[str, str] | None, session: str = "s1"
    ) -> tuple[int, str]:
        values = {"epoch": self.epoch, "run_id": self.run_id}
        url = f"{self.server.http}/api/chat/{session}{path.format(**values)}"
        filled = body and {key: value.format(**values) for key, value in body.items()}
        async with self.http.request(method, url, json=filled, headers={"X-User": name}) as answer:
            return answer.status, await answer.text()


@pytest.fixture
def audit_path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
async def chat(hook: Any, tmp_path: Path, audit_path: Path) -> AsyncIterator[Asked]:
    script = Script("partial")
    started = backend(tmp_path, script, authorize=hook, audit_log=str(audit_path))
    async with started as server, aiohttp.ClientSession() as http:
        async with server.socket("s1", "p1", additional_headers={"X-User": "alice"}) as socket:
            epoch = (await hello(socket))[0]["epoch"]
            await say(socket, type="send", message=SECRET, client_msg_id="c1")
            run_id = (await receive_until(socket, "delta"))[-1]["run_id"]
        yield Asked(server, http, epoch, run_id)


def outcomes_in(path: Path) -> list[str]:
    return [json.loads(line)["outcome"] for line in path.read_text().splitlines()]


@HOOKS
@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
async def test_a_chat_of_another_principal_is_as_one_that_does_not_exist(
    chat: Asked, method: str, path: str, body: dict[str, str] | None
) -> None:
    refused = await chat.ask("bob", method, path, body)
    assert refused == await chat.ask("bob", method, path, body, session="unknown")
    assert SECRET not in refused[1]
    assert chat.epoch not in refused[1]


@HOOKS
async def test_nothing_of_it_changes(chat: Asked) -> None:
    for method, path, body in REQUESTS:
        await chat.ask("bob", method, path, body)
    info = await chat.server.log.find_session("s1")
    assert info is not None
    assert info.active_run_id == chat.run_id
    assert SECRET in (await chat.ask("alice", "GET", "/messages", None))[1]


@pytest.mark.parametrize("hook", [strict])
async def test_a_message_names_the_principal_that_sent_it_on_sockets_in_rows_and_in_polls(chat: Asked) -> None:
    async with chat.server.socket("s1", "p1", additional_headers={"X-User": "alice"}) as socket:
        (row, *_) = (await hello(socket))[1]["messages"]
    rows = json.loads((await chat.ask("alice", "GET", "/messages", None))[1])
    page = json.loads((await chat.ask("alice", "GET", f"/messages?after=0&epoch={chat.epoch}", None))[1])
    assert [each["author"] for each in (row, rows[0], page["events"][0])] == ["alice"] * 3


@HOOKS
async def test_the_right_principal_needs_no_patient_id(chat: Asked) -> None:
    statuses = [(await chat.ask("alice", *request))[0] for request in (*REQUESTS[:3], REQUESTS[5], REQUESTS[3])]
    assert statuses == [200, 200, 200, 202, 204]
    assert await chat.server.log.find_session("s1") is None


@HOOKS
@pytest.mark.parametrize("session", ["s1", "unknown"])
async def test_a_request_without_credentials_is_401_whether_or_not_the_session_exists(
    chat: Asked, session: str
) -> None:
    assert {(await chat.ask("", *request, session=session))[0] for request in REQUESTS} == {401}


@HOOKS
async def test_a_patient_of_ones_own_does_not_open_the_session_of_another(chat: Asked) -> None:
    assert (await chat.ask("bob", "GET", "/messages?patient_id=p2", None))[0] == 403
    assert (await chat.ask("bob", "DELETE", "?patient_id=p2", None))[0] == 403
    assert (await chat.ask("bob", "POST", "/cancel", {"run_id": chat.run_id, "patient_id": "p2"}))[0] == 403


@HOOKS
@pytest.mark.parametrize("patient", ["p1", "p2"])
async def test_no_socket_opens_to_another_principal(chat: Asked, patient: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await chat.server.socket("s1", patient, additional_headers={"X-User": "bob"})
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("hook", [lenient])
async def test_a_poll_of_a_session_that_begins_meanwhile_gets_none_of_it(chat: Asked) -> None:
    asked = asyncio.create_task(chat.ask("bob", "GET", "/messages?after=0&epoch=&wait=0.5", None, session="s2"))
    await until(lambda: "s2" in chat.server.log.watched())
    message = {"patient_id": "p1", "message": SECRET, "client_msg_id": "c1"}
    assert (await chat.ask("alice", "POST", "/messages", message, session="s2"))[0] == 202
    status, text = await asked
    assert (status, json.loads(text)["events"]) == (200, [])


class Counted:
    """`lenient`, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        self.asked += 1
        return await lenient(request, patient_id, session_id)


@pytest.mark.parametrize("hook", [Counted()])
async def test_a_poll_of_the_chat_of_another_is_asked_about_with_its_patient_and_without(
    chat: Asked, hook: Counted
) -> None:
    before = hook.asked
    assert (await chat.ask("bob", "GET", "/messages?after=0&epoch=", None))[0] == 200
    assert hook.asked - before == 2


@HOOKS
async def test_each_attempt_is_forbidden_in_the_audit_log(chat: Asked, audit_path: Path) -> None:
    for request in REQUESTS:
        await chat.ask("bob", *request)
    outcomes = outcomes_in(audit_path)
    assert outcomes[-len(REQUESTS) :] == ["forbidden"] * len(REQUESTS)
