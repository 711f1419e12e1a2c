"""POST /-/faults on a gateway that runs: what is open breaks at once, on either side, and heals."""

import asyncio
import contextlib
import math
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import running
from moorline.gateway.faults.catalogue import CATALOGUE, Phase
from moorline.gateway.faults.live import LiveFaults
from moorline.gateway.keys import LIVE_FAULTS, SIBLINGS
from moorline.gateway.proxy.tunnels import TUNNELS, Tunnels
from moorline.gateway.settings import Settings
from moorline.gateway.siblings import Hub, Siblings
from tests.gateway.test_siblings import joined
from tests.support import needs
from tests.support.certificates import certificate
from tests.support.faulty_upstream import SWITCH, Peer, Upstream, dial, handshake
from tests.support.websocket_frames import TEXT, frame

TOKEN = "a token of the test"
HELLO = frame(TEXT, b"hello")


class Rig:
    """A gateway with the option `faults` before an upstream that the test plays."""

    def __init__(self, app: web.Application, upstream: Upstream, port: int, http: aiohttp.ClientSession) -> None:
        self.tunnels: Tunnels = app[TUNNELS]
        self.faults = app.get(LIVE_FAULTS)
        self.upstream = upstream
        self.port = port
        self.http = http

    @contextlib.asynccontextmanager
    async def socket(self) -> AsyncIterator[tuple[Peer, Peer]]:
        async with dial(self.port) as client:
            await client.send(handshake())
            backend = await self.upstream.accept()
            await backend.send(SWITCH)
            assert (await client.head()).startswith(b"HTTP/1.1 101 ")
            yield client, backend

    async def arm(self, fault: str, **wanted: Any) -> dict[str, Any]:
        async with self.http.post("/-/faults", json={"fault": fault, **wanted}) as response:
            armed: dict[str, Any] = await response.json()
            assert response.status == 201, armed
            return armed

    async def armed(self) -> list[dict[str, Any]]:
        async with self.http.get("/-/faults") as response:
            found: list[dict[str, Any]] = (await response.json())["armed"]
            return found


@contextlib.asynccontextmanager
async def gateway(siblings: Siblings | None = None, **options: Any) -> AsyncIterator[Rig]:
    async with Upstream() as upstream:
        given = {"host": "127.0.0.1", "port": 0, "faults": True, "drain": 0.2, "connect_retry": None}
        settings = Settings(**{**given, "upstream": (f"http://127.0.0.1:{upstream.port}",), **options})
        app = create_app(settings)
        if siblings is not None:
            app[SIBLINGS] = siblings
        async with running(app, settings) as started, aiohttp.ClientSession(started.addresses[0]) as http:
            yield Rig(app, upstream, started.port, http)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with gateway() as started:
        yield started


async def test_a_name_that_is_pointed_at_this_machine_breaks_nothing() -> None:
    async with gateway(allowed_origins=("*",)) as rig:
        rebound = {"Host": "rebound.example", "Origin": "http://rebound.example"}
        async with rig.http.post("/-/faults", json={"fault": "reset"}, headers=rebound) as response:
            assert response.status == 403
        assert await rig.armed() == []


# Other workers --------------------------------------------------------------------------------------------------------

ARMED = {"id": "1", "fault": "reset", "side": "client", "path": "/ws/", "times": None, "resets_after": None, "met": 3}


@contextlib.asynccontextmanager
async def beside(answers: dict[str, Any]) -> AsyncIterator[Rig]:
    """A worker beside another one, which answers so."""
    hub = Hub()

    async def answer(message: dict[str, Any]) -> Any:
        return answers.get(next(iter(message)))

    with hub.member() as descriptor:
        async with joined(hub, answer), gateway(Siblings(socket.socket(fileno=os.dup(descriptor)))) as rig:
            yield rig


async def test_a_fault_that_another_worker_cannot_arm_is_armed_in_none() -> None:
    async with beside({"faults": [], "arm": None}) as rig:
        async with rig.http.post("/-/faults", json={"fault": "reset"}) as response:
            assert response.status == 503
        assert await rig.armed() == []


async def test_a_worker_that_is_started_later_has_the_faults_of_the_others() -> None:
    async with beside({"faults": [{**ARMED, "parameters": {}}]}) as rig:
        (armed,) = await rig.armed()
        assert (armed["id"], armed["fault"], armed["met"]) == ("1", "reset", 3)
        async with rig.socket() as (client, _):
            assert await client.end() == (b"", "RST")


# What is open ---------------------------------------------------------------------------------------------------------


async def test_without_a_fault_armed_everything_passes(rig: Rig) -> None:
    async with rig.socket() as (client, backend):
        data = b"a" * 300_000
        assert await client.send_to(backend, data) == data
        await backend.send(HELLO)
        assert await client.exactly(len(HELLO)) == HELLO


async def test_an_open_socket_is_reset_on_the_clients_side(rig: Rig) -> None:
    async with rig.socket() as (client, _):
        await rig.arm("reset")
        assert await client.end() == (b"", "RST")


async def test_an_open_socket_is_reset_on_the_upstreams_side_and_the_gateway_says_so(rig: Rig) -> None:
    async with rig.socket() as (client, backend):
        await rig.arm("reset", side="upstream")
        assert int.from_bytes((await client.exactly(4))[2:], "big") == 1014
        assert await backend.ended()


async def test_what_a_fault_holds_back_passes_once_it_is_disarmed(rig: Rig) -> None:
    async with rig.socket() as (client, backend):
        armed = await rig.arm("vanish", side="upstream")
        await backend.send(HELLO)
        assert [(each["fault"], each["met"]) for each in await rig.armed()] == [("vanish", 1)]
        assert (await rig.http.delete(f"/-/faults/{armed['id']}")).status == 204
        assert await client.exactly(len(HELLO)) == HELLO
        assert await rig.armed() == []


async def test_a_new_socket_meets_it_as_often_as_was_asked(rig: Rig) -> None:
    await rig.arm("status", parameters={"code": 503}, times=1)
    async with dial(rig.port) as client:
        await client.send(handshake())
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
    # The connection is made, and gets no request.
    assert await (await rig.upstream.accept_silently()).rest() == b""
    async with rig.socket():
        pass


async def test_a_process_that_follows_arms_what_is_not_over(rig: Rig) -> None:
    assert rig.faults is not None
    await rig.arm("status", parameters={"code": 503}, times=1)
    status = await rig.arm("status", parameters={"code": 502}, times=3)
    async with dial(rig.port) as client:
        await client.send(handshake())
        assert (await client.head()).startswith(b"HTTP/1.1 503 ")
    await rig.arm("gone", parameters={"seconds": 60})
    refuse = await rig.arm("refuse")
    assert [(each["id"], each["times"]) for each in rig.faults.lasting()] == [(status["id"], 2), (refuse["id"], None)]


async def test_an_upstream_that_is_gone_refuses_and_comes_back(rig: Rig) -> None:
    async with rig.socket() as (client, _):
        await rig.arm("gone", parameters={"seconds": 60})
        assert int.from_bytes((await client.exactly(4))[2:], "big") == 1014
    async with rig.http.get("/api/x") as response:
        assert (response.status, (await response.json())["cause"]) == (502, "UX-connect")
    assert (await rig.http.delete("/-/faults")).status == 204
    async with rig.socket():
        pass


async def test_the_client_keeps_its_address(rig: Rig) -> None:
    async with rig.socket() as (_, backend):
        assert b"\r\nX-Real-IP: 127.0.0.1\r\n" in backend.request
    async with rig.http.get("/-/faults", headers={"X-Forwarded-For": "203.0.113.9"}) as response:
        assert response.status == 403


async def test_a_socket_stays_in_the_process_that_its_networks_are_in(rig: Rig) -> None:
    async with rig.socket():
        (relay,) = rig.tunnels.relays()
        assert rig.tunnels.detach(relay) is None


@needs.nginx
async def test_over_tls_an_upstream_learns_the_clients_scheme(tmp_path: Path) -> None:
    made = await certificate(tmp_path)
    async with gateway(tls_certificate=str(made.file), tls_certificate_key=str(made.key)) as rig:
        asked = asyncio.create_task(rig.http.get("/api/x", ssl=ssl.create_default_context(cafile=str(made.file))))
        backend = await rig.upstream.accept()
        assert b"\r\nX-Forwarded-Proto: https\r\n" in backend.request
        await backend.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await asked).status == 204


# Who may, and what ----------------------------------------------------------------------------------------------------


async def test_without_the_option_there_are_none() -> None:
    async with gateway(faults=False) as rig:
        for asked in (rig.http.get("/-/faults"), rig.http.post("/-/faults", json={"fault": "reset"})):
            async with asked as response:
                assert (response.status, "--faults" in await response.text()) == (403, True)


async def test_where_there_is_a_token_it_is_needed_on_this_machine_too() -> None:
    async with gateway(inspector_token=TOKEN) as rig:
        async with rig.http.post("/-/faults", json={"fault": "reset"}) as response:
            assert response.status == 401
        async with rig.http.get("/-/faults", headers={"Authorization": f"Bearer {TOKEN}"}) as response:
            assert response.status == 200


async def test_a_page_of_another_origin_can_arm_none(rig: Rig) -> None:
    headers = {"Origin": "https://elsewhere.example"}
    async with rig.http.post("/-/faults", json={"fault": "reset"}, headers=headers) as response:
        assert response.status == 403
    assert await rig.armed() == []


async def test_the_list_has_the_catalogue_but_for_a_models_server(rig: Rig) -> None:
    async with rig.http.get("/-/faults") as response:
        listed = {each["fault"]: each for each in (await response.json())["catalogue"]}
    assert set(listed) == {name for name, fault in CATALOGUE.items() if fault.phase is not Phase.PROVIDER}
    assert len(listed) >= 25
    assert (listed["refuse"]["sides"], listed["reset"]["sides"]) == (["upstream"], ["client", "upstream"])


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"fault": "rest"}, "did you mean reset?"),
        ({"fault": "reset", "parameters": {"code": 1}}, "there is no parameter code"),
        ({"fault": "reset", "parameters": {"side": "client"}}, "there is no parameter side"),
        ({"fault": "reset", "parameters": {"after_bytes": "x"}}, "after_bytes='x' is not a number"),
        ({"fault": "reset", "parameters": {"path": "/"}}, "there is no parameter path"),
        ({"fault": "reset", "parameters": {"name": "x"}}, "there is no parameter name"),
        ({"fault": "reset", "parameters": {"after_bytes": math.inf}}, "no number without end"),
        ({"fault": "reset", "resets_after": math.inf}, "resets_after=inf is not a number of seconds"),
        ({"fault": "reset", "side": "both"}, 'neither "client" nor "upstream"'),
        ({"fault": "refuse", "side": "client"}, "on the side of the upstream alone"),
        ({"fault": "reset", "path": "/"}, "would take the requests that end the fault"),
        ({"fault": "reset", "path": "/-/ended"}, "would take the requests that end the fault"),
        ({"fault": "reset", "times": 0}, "times=0 is not a number from 1 up"),
        ({"fault": "provider_401"}, "moorline.provider()"),
        ({"fault": "reset", "when": 1}, "there is no option when"),
        ({}, "there is no such fault"),
        ([], "write an object"),
    ],
)
async def test_what_cannot_be_armed_is_said_in_one_line(rig: Rig, wanted: Any, said: str) -> None:
    async with rig.http.post("/-/faults", json=wanted) as response:
        assert response.status == 400
        assert said in (await response.json())["detail"]
    assert await rig.armed() == []


async def test_json_that_is_nested_deep_is_refused(rig: Rig) -> None:
    headers = {"Content-Type": "application/json"}
    async with rig.http.post("/-/faults", data="[" * 100_000, headers=headers) as response:
        assert response.status == 400


async def test_a_fault_that_a_worker_is_told_of_twice_is_armed_once() -> None:
    faults = LiveFaults()
    for _ in range(2):
        assert faults.arm({"fault": "reset", "id": "1"})["id"] == "1"
    assert len(faults.client.armed) == 1
    assert faults.disarm("1")
    assert not faults.client.armed
    await faults.aclose()


async def test_there_is_a_bound(rig: Rig) -> None:
    for _ in range(50):
        await rig.arm("delay")
    async with rig.http.post("/-/faults", json={"fault": "delay"}) as response:
        assert "disarm one first" in (await response.json())["detail"]


async def test_one_that_is_not_armed_is_404(rig: Rig) -> None:
    assert (await rig.http.delete("/-/faults/unknown")).status == 404
