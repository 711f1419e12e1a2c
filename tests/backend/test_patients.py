"""GET /api/patients/{patient_id}/sessions: what is listed, in which pages, and to whom."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.logs import hashed
from tests.support import needs
from tests.support.backends import Backend, Script, backend
from tests.support.eventlogs import NOW, exchange
from tests.support.proxies import nginx_location

ELSEWHERE = {"X-Forwarded-For": "203.0.113.9"}


async def own_patient(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    """Each principal has the patient of its name."""
    name = request.headers.get("X-User", "")
    if patient_id != name:
        raise web.HTTPForbidden
    return Principal(name)


async def listed(server: Backend, query: str = "", **headers: str) -> tuple[int, Any]:
    """Status and body of a GET for the patient p."""
    url = f"{server.http}/api/patients/p/sessions{query}"
    async with aiohttp.request("GET", url, headers=headers) as answer:
        return answer.status, await answer.json()


async def test_the_pages_lead_from_one_to_the_next(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        for number in range(3):
            await exchange(server.log, f"s{number}", patient_id="p", at=NOW + number / 7)
        _, first = await listed(server, "?limit=2")
        assert first["sessions"][0] == {"session_id": "s2", "at": "2023-11-14T22:13:20.285Z", "first_words": "Hi"}
        _, second = await listed(server, f"?limit=2&before={first['next']}")
    assert [each["session_id"] for each in first["sessions"] + second["sessions"]] == ["s2", "s1", "s0"]
    assert "next" not in second


async def test_a_page_has_fifty_sessions_at_most(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        for number in range(51):
            await exchange(server.log, f"s{number}", patient_id="p")
        status, page = await listed(server, "?limit=1000")
    assert (status, len(page["sessions"])) == (200, 50)


async def test_a_cursor_that_no_page_has_given_is_refused(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        for cursor in ("s1", "1.5~", "nan~s1", "1e9~s1", "1~s/1"):
            status, problem = await listed(server, f"?before={cursor}")
            assert (status, problem["code"]) == (400, "bad_request"), cursor


async def test_only_who_may_open_the_patients_chats_may_list_them(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=own_patient) as server:
        await exchange(server.log, "s1", patient_id="p")
        assert (await listed(server, **{"X-User": "q"}))[0] == 403
        status, page = await listed(server, **{"X-User": "p"}, **ELSEWHERE)
    assert (status, len(page["sessions"])) == (200, 1)


async def test_without_a_hook_the_list_is_for_this_machine(tmp_path: Path) -> None:
    async with backend(tmp_path, Script()) as server:
        assert (await listed(server, **ELSEWHERE))[0] == 403
        assert (await listed(server, **{"X-Forwarded-For": "127.0.0.1"}))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Via": "1.1 proxy"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "203.0.113.9"},
        {"X-Forwarded-For": "127.0.0.1, 10.0.0.7"},
        {"X-Forwarded-Host": "chat.example.com"},
        {"Host": "192.0.2.1:8000"},
        {"Referer": "http://192.0.2.1:5173/chat/p"},
    ],
    ids=lambda headers: next(iter(headers)),
)
async def test_without_a_hook_what_a_proxy_passes_on_is_not_this_machines(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with backend(tmp_path, Script()) as server:
        assert (await listed(server, **headers))[0] == 403


async def test_without_a_hook_a_server_with_a_public_name_lists_nothing(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), allowed_hosts=("chat.example.com",)) as server:
        assert (await listed(server))[0] == 403
    async with backend(tmp_path, Script(), allowed_origins=("http://localhost:5173",)) as server:
        assert (await listed(server))[0] == 200


@needs.nginx
async def test_without_a_hook_an_nginx_that_says_nothing_of_its_clients_gets_no_list(tmp_path: Path) -> None:
    async with (
        backend(tmp_path, Script()) as server,
        nginx_location(tmp_path, server.http) as proxy,
        aiohttp.request("GET", f"{proxy}/api/patients/p/sessions") as answer,
    ):
        assert answer.status == 403


async def test_without_a_hook_pages_of_other_sites_get_no_list(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), allowed_origins=("*",)) as server:
        assert (await listed(server, Origin="https://elsewhere.example"))[0] == 403
        assert (await listed(server, Host="rebound.example"))[0] == 403
        assert (await listed(server))[0] == 200


async def test_the_audit_log_has_the_patient_whose_sessions_were_listed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with backend(tmp_path, Script(), authorize=own_patient, audit_log=str(path)) as server:
        await listed(server, **{"X-User": "p"})
        await listed(server, **{"X-User": "q"})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(each["who"], each["action"], each["patient"], each["outcome"]) for each in lines] == [
        ("p", "list", hashed("p"), "ok"),
        ("-", "list", hashed("p"), "forbidden"),
    ]
