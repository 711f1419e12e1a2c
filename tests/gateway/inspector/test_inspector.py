"""/-/moorline without a browser: who may look, what is told and what is not, and what a viewer costs."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any

import aiohttp
import pytest

from moorline.gateway.keys import DRAINING
from moorline.gateway.proxy.tunnels import TUNNELS
from tests.gateway.conftest import Client, StartGateway
from tests.support.eventlogs import until
from tests.support.faulty_upstream import STEP, SWITCH, Peer, Upstream, dial, handshake
from tests.support.websocket_frames import TEXT, frame

EVENTS = "/-/moorline/events"
TOKEN = "a token of the test"
SECRET_PATH = "/ws/chat/patient:secret/session-secret"


async def events(response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
    async with asyncio.timeout(STEP):
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line[len(b"data: ") :])


async def open_socket(gateway: Client, upstream: Upstream, running: AsyncExitStack) -> tuple[Peer, Peer]:
    assert gateway.port is not None
    client = await running.enter_async_context(dial(gateway.port))
    await client.send(handshake(SECRET_PATH, "X-Request-ID: id-of-the-test"))
    backend = await upstream.accept()
    await backend.send(SWITCH)
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    return client, backend


# Who may look ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/-/moorline", EVENTS, "/-/ended/x", "/-/moorline/inspector.js"])
@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Proto"])
async def test_a_request_through_a_proxy_is_refused_without_a_token(
    start_gateway: StartGateway, path: str, name: str
) -> None:
    gateway = await start_gateway(0)
    assert (await gateway.get(path, headers={name: "127.0.0.1"})).status == 403


@pytest.mark.parametrize(
    ("token", "refused"),
    [
        ("", "not a program on this machine, and inspector_token is not set"),
        (TOKEN, "the request does not have the inspector_token"),
    ],
)
async def test_the_log_says_that_the_gateway_has_refused(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture, token: str, refused: str
) -> None:
    caplog.set_level("INFO", "moorline.gateway.access")
    gateway = await start_gateway(0, inspector_token=token)
    await gateway.get(EVENTS, headers={"Via": "1.1 proxy"})
    await gateway.close()
    assert f'refused="{refused}"' in caplog.text


async def test_a_gateway_with_a_public_name_needs_the_token_on_its_own_machine_as_well(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(0, allowed_hosts=("chat.example.com",), inspector_token=TOKEN)
    assert (await gateway.get("/-/moorline/events")).status == 401
    assert (await gateway.get("/-/moorline", headers={"Authorization": f"Bearer {TOKEN}"})).status == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}])
async def test_a_wrong_token_is_refused(start_gateway: StartGateway, headers: dict[str, str]) -> None:
    gateway = await start_gateway(0, inspector_token=TOKEN)
    for path in (EVENTS, "/-/ended/x"):
        response = await gateway.get(path, headers={"X-Forwarded-For": "203.0.113.9", **headers})
        assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")


async def test_bytes_that_are_no_text_are_a_wrong_token(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0, inspector_token=TOKEN)
    async with dial(gateway.port or 0) as peer:
        await peer.send(
            b"GET %b HTTP/1.1\r\nHost: localhost\r\nVia: a\r\nAuthorization: Bearer \xff\r\n\r\n" % EVENTS.encode()
        )
        assert (await peer.head()).startswith(b"HTTP/1.1 401 ")


async def test_the_token_opens_it_from_elsewhere(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0, inspector_token=TOKEN)
    headers = {"X-Forwarded-For": "203.0.113.9", "Authorization": f"Bearer {TOKEN}"}
    assert (await gateway.get("/-/moorline", headers=headers)).status == 200
    async with gateway.get(EVENTS, headers=headers) as response:
        assert response.status == 200


async def test_a_page_of_another_site_cannot_read_it(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0, allowed_origins=("https://elsewhere.example",))
    async with gateway.get(EVENTS, headers={"Origin": "https://elsewhere.example"}) as response:
        assert "Access-Control-Allow-Origin" not in response.headers


async def test_another_name_of_this_machine_is_refused(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0)
    assert (await gateway.get(EVENTS, headers={"Host": "rebound.example"})).status == 421


@pytest.mark.parametrize("headers", [{"Host": "rebound.example"}, {"Origin": "https://elsewhere.example"}])
async def test_a_star_lets_pages_of_other_sites_in_nowhere(
    start_gateway: StartGateway, headers: dict[str, str]
) -> None:
    gateway = await start_gateway(0, allowed_origins=("*",))
    for path in ("/-/moorline", EVENTS, "/-/faults"):
        assert (await gateway.get(path, headers=headers)).status == 403, path
    assert (await gateway.get("/-/moorline")).status == 200


async def test_at_most_four_may_look_at_once(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0)
    viewers = [await gateway.get(EVENTS) for _ in range(4)]
    assert (await gateway.get(EVENTS)).status == 503
    for viewer in viewers:
        viewer.close()


# What is told ---------------------------------------------------------------------------------------------------------


async def test_an_open_socket_shows_with_what_it_carried_and_without_its_path(start_gateway: StartGateway) -> None:
    async with Upstream() as upstream, AsyncExitStack() as running:
        gateway = await start_gateway(upstream.port)
        client, backend = await open_socket(gateway, upstream, running)
        await client.send(frame(TEXT, b"private words", key=b"mask"))
        await backend.exactly(19)
        async with gateway.get(EVENTS) as response, aclosing(events(response)) as told:
            first = await anext(told)
        (row,) = first["open"]
        assert (row["route"], row["phase"], row["from_client"], row["frames_from_client"]) == ("/ws", "open", 19, 1)
        assert row["upstream"] == f"http://127.0.0.1:{upstream.port}"
        assert first["upstreams"] == [{"url": row["upstream"], "connections": 1, "down": False}]
        assert "secret" not in json.dumps(first)
        assert "private" not in json.dumps(first)


async def test_a_row_is_told_again_only_when_it_changed(start_gateway: StartGateway) -> None:
    async with Upstream() as upstream, AsyncExitStack() as running:
        gateway = await start_gateway(upstream.port)
        client, _ = await open_socket(gateway, upstream, running)
        async with gateway.get(EVENTS) as response, aclosing(events(response)) as told:
            assert len((await anext(told))["open"]) == 1
            assert (await anext(told))["open"] == []
            await client.send(frame(TEXT, b"hello", key=b"mask"))
            assert [row["frames_from_client"] for row in (await anext(told))["open"]] == [1]


async def test_the_page_leaves_a_process_whose_place_another_one_has(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0)
    async with gateway.get(EVENTS) as response, aclosing(events(response)) as told:
        await anext(told)
        gateway.app[DRAINING].leave()
        async with asyncio.timeout(STEP):
            async for _ in told:
                pass


async def test_an_end_is_told_with_its_sentence_once(start_gateway: StartGateway) -> None:
    async with Upstream() as upstream, AsyncExitStack() as running:
        gateway = await start_gateway(upstream.port)
        client, backend = await open_socket(gateway, upstream, running)
        async with gateway.get(EVENTS) as response, aclosing(events(response)) as told:
            (row,) = (await anext(told))["open"]
            backend.reset()
            await client.rest()
            client.close()
            async with asyncio.timeout(STEP):
                while not (event := await anext(told))["ended"]:
                    pass
            (ended,) = event["ended"]
            assert event["gone"] == [row["id"]] == [ended["id"]]
            assert (ended["cause"], ended["who"]) == ("UR-idle", "upstream")
            assert ended["what"] == "the upstream reset the connection (ECONNRESET)"
            assert all(ended[name] for name in ("when", "usual_cause", "next_step", "order"))
            assert (await anext(told))["ended"] == []
        async with gateway.get(f"/-/ended/{row['id']}") as response:
            assert (await response.json())["cause"] == "UR-idle"


async def test_an_end_between_two_events_is_told_with_the_next_and_not_an_interval_later(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.gateway.inspector.handlers._INTERVAL", 10 * STEP)
    async with Upstream() as upstream, AsyncExitStack() as running:
        gateway = await start_gateway(upstream.port)
        sockets = [await open_socket(gateway, upstream, running) for _ in range(3)]
        async with gateway.get(EVENTS) as response, aclosing(events(response)) as told:
            await anext(told)
            for client, backend in sockets:
                client.close()
                backend.close()
                assert len((await anext(told))["ended"]) == 1


async def test_an_end_that_is_under_way_is_waited_for(start_gateway: StartGateway) -> None:
    async with Upstream() as upstream, AsyncExitStack() as running:
        gateway = await start_gateway(upstream.port)
        client, backend = await open_socket(gateway, upstream, running)
        ((socket, _),) = gateway.app[TUNNELS].open_sockets()
        asked = asyncio.create_task(gateway.get(f"/-/ended/{socket.request_id}"))
        backend.reset()
        await client.rest()
        client.close()
        async with await asked as response:
            assert (await response.json())["cause"] == "UR-idle"


async def test_with_tell_causes_a_client_elsewhere_learns_of_its_own_socket_alone(start_gateway: StartGateway) -> None:
    elsewhere = {"X-Forwarded-For": "203.0.113.9"}
    async with Upstream() as upstream, AsyncExitStack() as running:
        gateway = await start_gateway(upstream.port, tell_causes=True)
        client, backend = await open_socket(gateway, upstream, running)
        ((socket, _),) = gateway.app[TUNNELS].open_sockets()
        backend.reset()
        await client.rest()
        client.close()
        async with gateway.get(f"/-/ended/{socket.request_id}", headers=elsewhere) as response:
            assert (response.status, (await response.json())["cause"]) == (200, "UR-idle")
        for path in ("/-/ended/unknown", f"/-/ended/{socket.request_id[:-1]}"):
            assert (await gateway.get(path, headers=elsewhere)).status == 404
        assert (await gateway.get(EVENTS, headers=elsewhere)).status == 403


async def test_a_page_of_an_allowed_origin_may_ask_why_its_socket_ended(start_gateway: StartGateway) -> None:
    origin = "https://elsewhere.example"
    gateway = await start_gateway(0, allowed_origins=(origin,))
    async with gateway.get("/-/ended/unknown", headers={"Origin": origin}) as response:
        assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (404, origin)


class Counted(dict[Any, Any]):
    """Sockets that are not looked through."""

    def values(self) -> Any:
        raise AssertionError("each of ten thousand sockets was looked at for one request")


async def test_a_question_about_an_id_costs_the_same_however_many_sockets_there_are(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Upstream() as upstream, AsyncExitStack() as running:
        gateway = await start_gateway(upstream.port, tell_causes=True)
        for _ in range(2):
            # Both have the same id, as a proxy may give it.
            client, backend = await open_socket(gateway, upstream, running)
        tunnels = gateway.app[TUNNELS]
        monkeypatch.setattr(tunnels, "_sockets", Counted(tunnels._sockets))
        assert (await gateway.get("/-/ended/unknown")).status == 404
        assert tunnels.holds("id-of-the-test")
        backend.reset()
        await client.rest()
        client.close()
        await until(lambda: len(tunnels) == 1)
        assert tunnels.holds("id-of-the-test")
    await until(lambda: not tunnels.holds("id-of-the-test"))


async def test_an_unknown_id_is_404(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0)
    assert (await gateway.get("/-/ended/unknown")).status == 404


@pytest.mark.parametrize("path", ["/-/moorline/handlers.py", "/-/moorline/..%2frows.py", "/-/moorline/inspector.html"])
async def test_only_the_files_of_the_page_are_served(start_gateway: StartGateway, path: str) -> None:
    gateway = await start_gateway(0)
    assert (await gateway.get(path)).status in (400, 404)


async def test_the_last_two_hundred_are_kept(start_gateway: StartGateway) -> None:
    async with Upstream() as upstream:
        gateway = await start_gateway(upstream.port)
        for _ in range(205):
            async with AsyncExitStack() as running:
                _, backend = await open_socket(gateway, upstream, running)
                backend.close()
        async with gateway.get(EVENTS) as response, aclosing(events(response)) as told:
            numbers: list[int] = []
            async with asyncio.timeout(STEP):
                while 205 not in numbers:
                    numbers += [row["number"] for row in (await anext(told))["ended"]]
        assert numbers == list(range(6, 206))


async def test_a_drain_ends_the_stream(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0)
    async with gateway.get(EVENTS) as response, aclosing(events(response)) as told:
        await anext(told)
        gateway.app[DRAINING].begin(5)
        async for _ in told:
            pass
        assert response.content.at_eof()
