"""The chat over plain HTTP, through pytest-aiohttp's client."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.pytest_plugin import AiohttpClient
from aiohttp.test_utils import TestClient

from moorline.backend.app import create_app
from moorline.backend.settings import Settings
from moorline.gateway.common.access.authorize import Principal
from tests.support.backends import STEP, Script

URL = "/api/chat/s1/messages"
Client = TestClient[web.Request, web.Application]
Start = Callable[..., Awaitable[Client]]


@pytest.fixture
def start(aiohttp_client: AiohttpClient, tmp_path: Path) -> Start:
    async def begin(script: Script | None = None, *, authorize: Any = None, **options: Any) -> Client:
        settings = Settings(**{"database": f"sqlite:///{tmp_path}/chat.db", "drain": 0.5, **options})
        return await aiohttp_client(create_app(settings, authorize=authorize, responder=script or Script()))

    return begin


def message(**members: Any) -> dict[str, Any]:
    return {"patient_id": "p1", "message": "Hi", "client_msg_id": "c1", **members}


async def ended(client: Client) -> dict[str, Any]:
    """The snapshot row of the answer, once it is there."""
    epoch, after = "", 0
    async with asyncio.timeout(STEP):
        while True:
            body = await (await client.get(URL, params={"after": after, "epoch": epoch, "wait": 5})).json()
            rows = body["events"] + [row for event in body["events"] for row in event.get("messages", [])]
            for row in rows:
                if "finish" in row:
                    assert isinstance(row, dict)
                    return row
            epoch, after = body["epoch"], body["head"]


async def test_an_unknown_session_has_no_rows(start: Start) -> None:
    answer = await (await start()).get(URL)
    assert (answer.status, await answer.json(), answer.headers["Cache-Control"]) == (200, [], "no-store")


async def test_a_posted_message_is_accepted_and_its_answer_stands_in_the_rows(start: Start) -> None:
    client = await start(Script("Hello", None))
    answer = await client.post(URL, json=message())
    accepted = await answer.json()
    assert (answer.status, accepted["seq"], accepted["duplicate"]) == (202, 1, False)
    await ended(client)
    user, assistant = await (await client.get(URL)).json()
    assert (user["role"], user["content"], user["client_msg_id"]) == ("user", "Hi", "c1")
    assert (assistant["role"], assistant["content"], assistant["finish"]) == ("assistant", "Hello", "stop")
    assert user["run_id"] == assistant["run_id"] == accepted["run_id"]


async def test_a_message_posted_again_is_a_duplicate(start: Start) -> None:
    client = await start(Script("Hello", None))
    first = await (await client.post(URL, json=message())).json()
    again = await (await client.post(URL, json=message())).json()
    assert again == {**first, "duplicate": True}


async def test_older_rows_are_read_with_before_and_limit(start: Start) -> None:
    client = await start(Script("Hello", None))
    await client.post(URL, json=message())
    seq = (await ended(client))["seq"]
    rows = await (await client.get(URL, params={"before": seq, "limit": 1})).json()
    assert [row["content"] for row in rows] == ["Hi"]


async def test_a_long_poll_waits_for_the_next_event(start: Start) -> None:
    client = await start()
    empty = await (await client.get(URL, params={"after": 0, "epoch": ""})).json()
    assert empty == {"epoch": "", "head": 0, "recovered": True, "events": []}
    waiting = asyncio.create_task(client.get(URL, params={"after": 0, "epoch": "", "wait": 20}))
    await client.post(URL, json=message())
    body = await (await asyncio.wait_for(waiting, STEP)).json()
    assert (body["recovered"], body["events"][0]["type"]) == (False, "snapshot")


async def test_a_long_poll_sees_a_session_that_begins_while_the_hook_is_asked(start: Start) -> None:
    asked, begun = asyncio.Event(), asyncio.Event()

    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        if request.method == "GET":
            asked.set()
            await begun.wait()
        return Principal("p")

    client = await start(authorize=authorize)
    waiting = asyncio.create_task(client.get(URL, params={"after": 0, "epoch": "", "wait": 20}))
    await asked.wait()
    assert (await client.post(URL, json=message())).status == 202
    begun.set()
    body = await (await asyncio.wait_for(waiting, STEP)).json()
    assert body["events"][0]["type"] == "snapshot"


@pytest.mark.parametrize("after", ["-1", "99", "x"])
async def test_a_poll_with_a_cursor_that_cannot_be_followed_gets_a_snapshot(start: Start, after: str) -> None:
    client = await start()
    body = await (await client.get(URL, params={"after": after, "epoch": "lost"})).json()
    assert (body["recovered"], body["events"][0]["type"]) == (False, "snapshot")


async def test_cancel_and_retry_over_http(start: Start) -> None:
    script = Script("partial")
    client = await start(script)
    run_id = (await (await client.post(URL, json=message())).json())["run_id"]
    await asyncio.wait_for(script.asked.wait(), STEP)
    assert (await client.post("/api/chat/s1/cancel", json={"run_id": run_id})).status == 202
    assert (await ended(client))["finish"] == "cancelled"
    answer = await client.post("/api/chat/s1/retry", json={"run_id": run_id, "client_msg_id": "c2"})
    body = await answer.json()
    assert (answer.status, body["duplicate"]) == (202, False)
    assert body["run_id"] != run_id


async def test_an_erased_session_is_gone(start: Start) -> None:
    client = await start()
    await client.post(URL, json=message())
    assert (await client.delete("/api/chat/s1")).status == 204
    assert await (await client.get(URL)).json() == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_request"),
        (b'{"patient_id":"p1","message":"Hi"}', 400, "bad_request"),
        (b'{"message":"Hi","client_msg_id":"c"}', 400, "bad_request"),
        (b'{"patient_id":"p1","message":"\\ud800","client_msg_id":"c"}', 400, "bad_request"),
        (b'{"patient_id":"p1","message":"' + b"x" * 101 + b'","client_msg_id":"c"}', 413, "too_large"),
        (b'"' + b"x" * (2 << 20), 413, "too_large"),
    ],
)
async def test_a_bad_body_is_a_problem_with_its_code(start: Start, body: bytes, status: int, code: str) -> None:
    client = await start(max_bytes=100)
    answer = await client.post(URL, data=io.BytesIO(body), headers={"Content-Type": "application/json"})
    assert answer.content_type == "application/problem+json"
    assert (answer.status, (await answer.json())["code"]) == (status, code)


async def test_a_form_is_refused(start: Start) -> None:
    assert (await (await start()).post(URL, data={"message": "Hi"})).status == 415


async def test_a_page_of_another_site_may_not_post(start: Start) -> None:
    answer = await (await start()).post(URL, json=message(), headers={"Origin": "https://evil.example"})
    assert (answer.status, (await answer.json())["code"]) == (403, "forbidden")


async def test_a_name_that_is_not_ours_is_misdirected(start: Start) -> None:
    assert (await (await start()).get(URL, headers={"Host": "evil.example"})).status == 421


async def test_a_listed_origin_gets_cors_answers_also_with_an_error(start: Start) -> None:
    client = await start(allowed_origins=("https://app.example",))
    answer = await client.post(URL, json={}, headers={"Origin": "https://app.example"})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (400, "https://app.example")


async def test_an_id_that_does_not_match_is_a_bad_request(start: Start) -> None:
    answer = await (await start()).get("/api/chat/a%20b/messages")
    assert (answer.status, (await answer.json())["code"]) == (400, "bad_request")


async def test_another_patients_session_is_forbidden(start: Start) -> None:
    client = await start()
    await client.post(URL, json=message())
    assert (await client.get(URL, params={"patient_id": "p2"})).status == 403
    assert (await client.post(URL, json=message(patient_id="p2"))).status == 403
    assert (await client.delete("/api/chat/s1", params={"patient_id": "p2"})).status == 403
    assert (await client.get(URL, params={"patient_id": "p1"})).status == 200


async def test_the_hook_is_asked_and_its_refusal_is_a_problem(start: Start) -> None:
    asked: list[tuple[str | None, str | None]] = []

    async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
        asked.append((patient_id, session_id))
        raise web.HTTPForbidden

    client = await start(authorize=authorize)
    answer = await client.post(URL, json=message())
    assert (answer.status, (await answer.json())["code"], asked) == (403, "forbidden", [("p1", "s1")])
    assert (await client.get("/ws/chat/p1/s1", headers={"Upgrade": "websocket"})).status == 403


async def test_more_runs_than_max_runs_and_its_queue_are_busy(start: Start) -> None:
    client = await start(max_runs=1)
    statuses = [(await client.post(f"/api/chat/s{n}/messages", json=message())).status for n in range(3)]
    assert statuses == [202, 202, 503]
    refused = await client.post("/api/chat/s9/messages", json=message())
    assert ((await refused.json())["code"], refused.headers["Retry-After"]) == ("llm_busy", "5")


async def test_healthz_and_readyz_answer(start: Start) -> None:
    client = await start()
    assert (await (await client.get("/healthz")).json()) == {"status": "ok"}
    ready = await client.get("/readyz")
    model = {"name": "script", "state": "unknown"}
    assert (ready.status, await ready.json()) == (200, {"status": "ready", "database": "ok", "model": model})


async def test_an_address_that_does_not_exist_is_a_problem(start: Start) -> None:
    answer = await (await start()).get("/nothing")
    assert (answer.status, (await answer.json())["code"]) == (404, "not_found")
