"""Each request and handshake that fails names its cause: in the response, in the access log and in the metrics."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from moorline.gateway.errors import GatewayError
from moorline.gateway.explain import codes
from tests.gateway.conftest import StartGateway
from tests.gateway.websocket.conftest import Start, ended, tunnel
from tests.support.faulty_upstream import HANDSHAKE, REFUSAL, STEP, SWITCH, Fault, Upstream, dial, faulty_upstream
from tests.support.raw import Connection, listening

FAULTS = {
    Fault.REFUSE: "UX-connect",
    Fault.SILENT: "UT-response",
    Fault.CLOSE: "UF-response",
    Fault.RESET: "UR-response",
    Fault.NOT_HTTP: "UP-response",
    Fault.HALF_HEADERS: "UF-response",
    Fault.SLOW_HEADERS: "UT-response",
}


def read_timeout(code: str) -> dict[str, float]:
    """Short where its end is the failure, and else the default."""
    return {"proxy_read_timeout": 0.3} if code == "UT-response" else {}


def every_error() -> list[type[GatewayError]]:
    found = [GatewayError]
    for error in found:
        found += error.__subclasses__()
    return found


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_every_error_has_a_cause_with_a_sentence(error: type[GatewayError]) -> None:
    assert error.cause.code in codes()


@pytest.mark.parametrize(("fault", "code"), FAULTS.items(), ids=lambda value: str(value))
async def test_a_failed_request_names_its_cause(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture, fault: Fault, code: str
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.access")
    async with faulty_upstream(fault) as backend:
        gateway = await start_gateway(backend, client_heartbeat=None, upstream_heartbeat=None, **read_timeout(code))
        async with gateway.get("/api/x") as response:
            assert (await response.json(content_type=None))["cause"] == code
        await until(lambda: f" cause={code}" in caplog.text)


@pytest.mark.parametrize(("fault", "code"), FAULTS.items(), ids=lambda value: str(value))
async def test_a_failed_handshake_names_its_cause(start: Start, fault: Fault, code: str) -> None:
    async with faulty_upstream(fault) as backend:
        gateway = await start(backend, connect_retry=None, **read_timeout(code))
        async with refused(gateway.port) as problem:
            assert problem["cause"] == code


async def test_a_handshake_that_was_held_in_vain_says_so(start: Start) -> None:
    async with faulty_upstream(Fault.REFUSE) as backend:
        gateway = await start(backend, connect_retry=0.3)
        async with refused(gateway.port) as problem:
            assert problem["cause"] == "UX-held"


async def test_a_handshake_whose_time_ends_while_it_is_held_says_so(start: Start) -> None:
    async with faulty_upstream(Fault.REFUSE) as backend:
        gateway = await start(backend, handshake_timeout=0.3)
        async with refused(gateway.port) as problem:
            assert problem["cause"] == "UT-held"


async def test_a_handshake_whose_time_ends_before_the_response_says_so(start: Start) -> None:
    async with faulty_upstream(Fault.SILENT) as backend:
        gateway = await start(backend, handshake_timeout=0.3)
        async with refused(gateway.port) as problem:
            assert problem["cause"] == "UT-response"


async def test_a_name_without_an_address_is_the_networks(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(0, upstream=("http://nothing.invalid:8000",))
    async with gateway.get("/api/x") as response:
        assert (await response.json(content_type=None))["cause"] == "NN-connect"


async def test_a_full_gateway_is_a_limit(start: Start, upstream: Upstream) -> None:
    gateway = await start(upstream.port, max_connections=1)
    async with tunnel(gateway, upstream), refused(gateway.port) as problem:
        assert problem["cause"] == "GQ-request"


async def test_the_upstreams_refusal_of_a_handshake_is_logged_with_its_cause(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.access")
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        await (await upstream.accept()).send(REFUSAL)
        await client.head()
        await until(lambda: " cause=UJ-response" in caplog.text)


async def test_a_101_that_a_client_refuses_is_the_upstreams(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.ws")
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(HANDSHAKE)
        backend = await upstream.accept()
        await backend.send(SWITCH.replace(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"d3Jvbmc="))
        await client.head()
    backend.close()
    line = await ended(gateway, caplog)
    assert "ended_by=client reason=fin " in line
    assert " cause=UP-response " in line
    said = f"upstream http://127.0.0.1:{upstream.port}: its 101 has not the Sec-WebSocket-Accept of the request's key"
    assert f"{said} request_id={line.rpartition('=')[2]}" in caplog.messages


async def test_a_response_that_breaks_off_is_logged_with_its_cause(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.access")

    async def cut(connection: Connection) -> None:
        await connection.head()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    async with listening(cut) as backend:
        gateway = await start_gateway(backend)
        with pytest.raises(aiohttp.ClientPayloadError):
            await (await gateway.get("/api/x")).read()
        await until(lambda: " cause=UF-body" in caplog.text)


async def test_a_client_that_leaves_is_logged_with_its_cause(
    start: Start, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.access")
    gateway = await start(upstream.port)
    async with dial(gateway.port) as client:
        await client.send(b"GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await upstream.accept()
    await until(lambda: " 499 " in caplog.text)
    assert " cause=CF-response" in caplog.text


async def test_failures_are_counted_by_cause(start: Start, unused_tcp_port: int) -> None:
    async with faulty_upstream(Fault.REFUSE) as backend:
        gateway = await start(backend, connect_retry=None, metrics_port=unused_tcp_port)
        async with refused(gateway.port):
            pass
        address = f"http://127.0.0.1:{unused_tcp_port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(address) as response:
            assert 'moorline_requests_failed_total{cause="UX-connect"} 1.0' in await response.text()


@asynccontextmanager
async def refused(port: int) -> AsyncIterator[dict[str, str]]:
    """The problem document of a handshake that is refused."""
    async with dial(port) as client:
        await client.send(HANDSHAKE)
        head = await client.head()
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        yield json.loads(await client.exactly(length))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(STEP):
        while not condition():  # noqa: ASYNC110 - the product needs no event for a test's sake
            await asyncio.sleep(0)
