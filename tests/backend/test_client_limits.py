"""What one client may ask of the model, counted for its address and for its principal."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from moorline.backend.client_limits import Client, ClientLimits
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.principal_limits import PrincipalLimits
from moorline.backend.rights import RIGHTS
from moorline.backend.settings import Settings
from moorline.gateway.common.access.authorize import Principal, bearer_token
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS
from tests.support.backends import Backend, Script, backend, hello, receive, receive_until, say
from tests.support.eventlogs import until

ONE, TWO = Client("192.0.2.1"), Client("192.0.2.2")


# The counts ---------------------------------------------------------------------------------------------------------


def limits(now: list[float], **options: int | None) -> ClientLimits:
    return ClientLimits(Settings(**options), lambda: now[0])  # type: ignore[arg-type]


def test_an_address_has_so_many_answers_at_once_and_others_have_theirs() -> None:
    counts = limits([0.0], max_runs_per_address=2)
    places = [counts.take(ONE), counts.take(ONE)]
    with pytest.raises(Refusal, match="max_runs_per_address") as refused:
        counts.take(ONE)
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 5.0)
    counts.take(TWO)
    places[0].release()
    counts.take(ONE)


def test_one_client_never_has_more_than_max_runs() -> None:
    counts = limits([0.0], max_runs=20)
    for _ in range(20):
        counts.take(ONE)
    with pytest.raises(Refusal, match="max_runs_per_address"):
        counts.take(ONE)


def test_a_principal_is_counted_over_all_its_addresses() -> None:
    counts = limits([0.0], rate_limit_per_principal=1)
    counts.take(Client("192.0.2.1", "dr.who")).release()
    with pytest.raises(Refusal, match="rate_limit_per_principal"):
        counts.take(Client("192.0.2.2", "dr.who"))
    counts.take(Client("192.0.2.2", "dr.no"))


def test_a_refused_message_is_counted_for_nothing() -> None:
    counts = limits([0.0], max_runs_per_principal=1, rate_limit_per_address=2)
    counts.take(Client("192.0.2.1", "dr.who"))
    with pytest.raises(Refusal, match="max_runs_per_principal"):
        counts.take(Client("192.0.2.1", "dr.who"))
    counts.take(ONE)


def test_a_message_that_started_no_run_is_counted_for_nothing() -> None:
    counts = limits([0.0], max_runs_per_address=1, rate_limit_per_address=1)
    counts.take(ONE).give_back()
    counts.take(ONE)


def test_off_is_no_limit() -> None:
    counts = limits([0.0], rate_limit_per_address=None, max_runs_per_address=None, new_sessions_per_address=None)
    for _ in range(1000):
        counts.take(ONE)
        counts.session_begun(ONE)
    assert counts.session_refusal(ONE) is None


@pytest.mark.parametrize(
    "name",
    [
        "rate_limit_per_principal",
        "rate_limit_per_address",
        "max_runs_per_principal",
        "max_runs_per_address",
        "new_sessions_per_address",
        "max_connections_per_principal",
        "handshakes_per_principal",
        "max_prompt",
    ],
)
def test_a_limit_of_nothing_is_refused(name: str) -> None:
    nothing: dict[str, Any] = {name: 0}
    with pytest.raises(UsageError, match=name):
        Settings(**nothing)


# In a backend -------------------------------------------------------------------------------------------------------


async def post(server: Backend, session: str, message_id: str = "c1", **headers: str) -> tuple[int, Any, Any]:
    body = {"patient_id": "p1", "message": "Hi", "client_msg_id": message_id}
    url = f"{server.http}/api/chat/{session}/messages"
    async with aiohttp.ClientSession() as http, http.post(url, json=body, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers.get("Retry-After")


def at(address: str) -> dict[str, str]:
    """As a proxy on this machine passes it on."""
    return {"X-Forwarded-For": address}


async def test_many_messages_of_one_address_start_few_runs_in_whatever_sessions(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), rate_limit_per_address=20, max_runs_per_address=None) as server:
        answers = await asyncio.gather(*(post(server, f"s{number}") for number in range(60)))
        assert sorted(status for status, _, _ in answers) == [202] * 20 + [429] * 40
        refused = [(body["code"], body["retryable"], after) for status, body, after in answers if status == 429]
        assert {(code, retryable) for code, retryable, _ in refused} == {("rate_limited", True)}
        assert {after for _, _, after in refused} <= {"1", "2", "3"}
        assert (await post(server, "other", **at("192.0.2.9")))[0] == 202


async def test_the_hosts_of_one_ipv6_network_are_one_client(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), rate_limit_per_address=1) as server:
        assert (await post(server, "s1", **at("2001:db8::1")))[0] == 202
        assert (await post(server, "s2", **at("2001:db8::ffff:2")))[0] == 429
        assert (await post(server, "s2", **at("2001:db8:0:1::2")))[0] == 202


async def test_erasing_a_session_gives_no_message_back(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), rate_limit_per_address=1) as server, aiohttp.ClientSession() as http:
        assert (await post(server, "s1"))[0] == 202
        async with http.delete(f"{server.http}/api/chat/s1") as answer:
            assert answer.status == 204
        assert (await post(server, "s1", "c2"))[0] == 429


async def test_an_answer_that_ends_makes_room_for_the_next(tmp_path: Path) -> None:
    script = Script("Hi")
    async with backend(tmp_path, script, max_runs_per_address=1) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "delta")
        status, problem, after = await post(server, "s2")
        assert (status, problem["code"], after) == (429, "rate_limited", "5")
        script.put(None, "Ho", None)
        await receive_until(socket, "message")
        assert (await post(server, "s2"))[0] == 202


async def test_a_socket_is_told_the_limit_and_the_message_may_be_sent_again(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("a", None), rate_limit_per_address=1) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="Hi", client_msg_id="c1")
        await receive_until(socket, "message")
        await say(socket, type="send", message="Hi", client_msg_id="c2")
        refused = await receive(socket)
        assert (refused["code"], refused["retryable"], refused["client_msg_id"]) == ("rate_limited", True, "c2")
        assert 50 < refused["retry_after"] <= 60


async def test_a_repeated_message_is_acknowledged_also_over_the_limit_and_is_not_counted(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("a", None), rate_limit_per_address=2) as server:
        assert (await post(server, "s1"))[0] == 202
        for _ in range(3):
            status, body, _ = await post(server, "s1")
            assert (status, body["duplicate"]) == (202, True)
        assert (await post(server, "s2"))[0] == 202
        assert (await post(server, "s3"))[0] == 429
        assert (await post(server, "s1"))[1]["duplicate"] is True


async def test_new_sessions_are_counted_and_messages_in_old_ones_are_not(tmp_path: Path) -> None:
    async with backend(tmp_path, Script("a", None, "b", None), new_sessions_per_address=1) as server:
        async with server.socket() as socket:
            await hello(socket)
            await say(socket, type="send", message="Hi", client_msg_id="c1")
            await receive_until(socket, "message")
            status, problem, _ = await post(server, "s2")
            assert (status, problem["code"]) == (429, "rate_limited")
            assert "new_sessions_per_address" in problem["title"]
            await say(socket, type="send", message="Hi", client_msg_id="c2")
            await receive_until(socket, "message")
        assert await server.log.find_session("s2") is None


#: For each principal.
ONE_EACH: dict[str, Any] = {
    "rate_limit_per_principal": 1,
    "max_connections_per_principal": 1,
    "handshakes_per_principal": 1,
}


async def authorize(request: web.Request, patient_id: str | None, session_id: str | None) -> Principal:
    if (token := bearer_token(request)) is None:
        raise web.HTTPUnauthorized
    return Principal(token)


async def test_a_principal_has_its_own_count_whatever_address_it_comes_from(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=authorize, rate_limit_per_principal=1) as server:
        who, other = {"Authorization": "Bearer dr.who"}, {"Authorization": "Bearer dr.no"}
        assert (await post(server, "s1", **at("192.0.2.1"), **who))[0] == 202
        status, problem, _ = await post(server, "s2", **at("192.0.2.2"), **who)
        assert (status, "rate_limit_per_principal" in problem["title"]) == (429, True)
        assert (await post(server, "s3", **at("192.0.2.1"), **other))[0] == 202


async def opened(server: Backend, name: str, address: str) -> tuple[int, str | None]:
    """The status of a handshake, and its Retry-After; the socket is closed."""
    headers = {"Authorization": f"Bearer {name}", **at(address)}
    async with aiohttp.ClientSession(headers=headers) as http:
        try:
            async with http.ws_connect(f"{server.http}/ws/chat/p1/s1"):
                return 101, None
        except aiohttp.WSServerHandshakeError as refused:
            return refused.status, dict(refused.headers or {}).get("Retry-After")


async def test_a_principal_holds_so_many_sockets_and_polls_whatever_addresses_they_come_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with backend(tmp_path, Script(), authorize=authorize, max_connections_per_principal=2) as server:
        headers = {"Authorization": "Bearer dr.who"}
        url = f"{server.http}/api/chat/s1/messages?patient_id=p1&after=0&wait=30&epoch="
        async with (
            server.socket("s1", "p1", additional_headers=headers) as socket,
            aiohttp.ClientSession(headers=headers) as http,
        ):
            await hello(socket)
            async with http.get(url) as snapshot:
                epoch = (await snapshot.json())["epoch"]
            polling = asyncio.create_task(http.get(url + epoch))
            await until(lambda: len(server.app[RIGHTS]._held) == 2)
            assert await opened(server, "dr.who", "192.0.2.9") == (429, "5")
            status, problem, after = await post(server, "s2", **headers, **at("192.0.2.8"))
            assert (status, problem["code"], after) == (429, "rate_limited", "5")
            assert (await opened(server, "dr.no", "192.0.2.9"))[0] == 101
            polling.cancel()
        await until(lambda: not server.app[RIGHTS]._held)
        assert len(server.app[RIGHTS]._limits) == 0
        assert (await opened(server, "dr.who", "192.0.2.9"))[0] == 101
    lines = [line for line in caplog.messages if "max_connections_per_principal" in line]
    assert lines
    assert "dr.who" not in "".join(lines)


@pytest.mark.parametrize(("principals", "left"), [(1, 500), (5, 166), (200, 4)])
def test_principals_that_take_all_requests_they_can_get_leave_others_some(principals: int, left: int) -> None:
    counts, free = PrincipalLimits(), 1000
    names = [str(number) for number in range(principals)]
    while names:
        for name in list(names):
            try:
                counts.take_request(name, free=free - 1)
                free -= 1
            except Refusal:
                names.remove(name)
    assert free == left
    counts.take_request("another", free=free - 1)


async def test_a_principal_has_no_more_requests_than_are_left_for_others(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=authorize, max_requests=4) as server:
        limits = server.app[REQUEST_LIMITS]
        url = f"{server.http}/api/chat/s1/messages?patient_id=p1&after=0&epoch="

        async def polled(name: str, address: str, query: str) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {name}", **at(address)}
            async with aiohttp.request("GET", url + query, headers=headers) as response:
                return response.status, await response.json()

        epoch = (await polled("dr.who", "192.0.2.1", ""))[1]["epoch"]
        held = [asyncio.create_task(polled("dr.who", f"192.0.2.{n}", f"{epoch}&wait=30")) for n in (1, 2)]
        await until(lambda: len(limits) == 2)
        status, problem = await polled("dr.who", "192.0.2.3", "")
        assert (status, problem["code"], "max_requests" in problem["title"]) == (429, "rate_limited", True)
        assert (await polled("dr.no", "192.0.2.3", ""))[0] == 200
        for poll in held:
            poll.cancel()
        await until(lambda: len(limits) == 0)
        assert (await polled("dr.who", "192.0.2.3", ""))[0] == 200


async def test_a_poll_whose_session_begins_meanwhile_is_open_once(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=authorize, max_connections_per_principal=1) as server:
        headers = {"Authorization": "Bearer dr.who"}
        async with aiohttp.ClientSession(server.http, headers=headers) as http:
            polling = asyncio.create_task(http.get("/api/chat/s1/messages?after=0&wait=30&epoch="))
            await until(lambda: "s1" in server.log.watched())
            assert (await post(server, "s1", Authorization="Bearer dr.no"))[0] == 202
            async with await polling as answer:
                assert (answer.status, bool((await answer.json())["events"])) == (200, True)


async def test_a_principal_opens_so_many_sockets_in_a_minute_by_tickets_as_well(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), authorize=authorize, handshakes_per_principal=1) as server:
        headers = {"Authorization": "Bearer dr.who"}
        async with aiohttp.request(
            "POST", f"{server.http}/api/ticket", json={"patient_id": "p1"}, headers=headers
        ) as answer:
            offered = ["moorline", f"moorline.ticket.{(await answer.json())['ticket']}"]
        async with server.socket("s1", "p1", subprotocols=offered):
            pass
        status, after = await opened(server, "dr.who", "192.0.2.9")
        assert (status, 50 < int(after or 0) <= 60) == (429, True)
        assert (await opened(server, "dr.no", "192.0.2.9"))[0] == 101


async def test_without_a_hook_all_clients_are_not_one_principal(tmp_path: Path) -> None:
    async with backend(tmp_path, Script(), **ONE_EACH) as server:
        assert [(await post(server, f"s{number}"))[0] for number in range(3)] == [202] * 3
        assert [(await opened(server, "x", "192.0.2.9"))[0] for _ in range(3)] == [101] * 3


async def test_the_model_is_shown_the_newest_messages_that_fit_into_max_prompt(tmp_path: Path) -> None:
    script = Script("b" * 1000, None, "d" * 1000, None, "x", None)
    async with backend(tmp_path, script, max_prompt=2500) as server, server.socket() as socket:
        await hello(socket)
        for name in ("a", "c", "e"):
            await say(socket, type="send", message=name * 1000, client_msg_id=name)
            await receive_until(socket, "message")
        assert ["".join(sorted(set(row.content))) for row in script.chats[-1]] == ["d", "e"]


async def test_a_message_longer_than_max_prompt_is_shown_whole(tmp_path: Path) -> None:
    script = Script("b", None)
    async with backend(tmp_path, script, max_prompt=10) as server, server.socket() as socket:
        await hello(socket)
        await say(socket, type="send", message="a" * 1000, client_msg_id="c1")
        await receive_until(socket, "message")
        assert [len(row.content) for row in script.chats[-1]] == [1000]
