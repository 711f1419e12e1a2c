"""Plain HTTP before several backends; for sockets see tests/gateway/ws/test_held.py."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from moorline.gateway.keys import UPSTREAMS
from moorline.gateway.proxy import health
from tests.gateway.conftest import Client, StartGateway
from tests.support.faulty_upstream import STEP, Fault, faulty_upstream
from tests.support.raw import Connection, answering, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NOT_READY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
# They would have to be below proxy_read_timeout.
NO_HEARTBEATS = {"client_heartbeat": None, "upstream_heartbeat": None}


class Backends:
    """Two: the first as broken as the test says, the second well."""

    def __init__(self, broken: int, well: int, heads: list[bytes]) -> None:
        self.urls = tuple(f"http://127.0.0.1:{port}" for port in (broken, well))
        self.heads = heads
        """What the second was asked."""


@contextlib.asynccontextmanager
async def backends(fault: Fault) -> AsyncIterator[Backends]:
    heads: list[bytes] = []
    async with faulty_upstream(fault) as broken, listening(answering(OK, heads)) as well:
        yield Backends(broken, well, heads)


def connections(gateway: Client) -> list[int]:
    return [upstream.connections for upstream in gateway.app[UPSTREAMS]]


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.CLOSE, Fault.RESET, Fault.SILENT])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_another_is_tried_before_the_client_gets_an_error(
    start_gateway: StartGateway, fault: Fault, method: str
) -> None:
    async with backends(fault) as both:
        # The other one has to respond within it on a busy machine, too.
        gateway = await start_gateway(0, upstream=both.urls, proxy_read_timeout=0.6, **NO_HEARTBEATS)
        for _ in range(3):
            async with gateway.request(method, "/api/x") as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
        assert len(both.heads) == 3
        assert connections(gateway) == [0, 0]


async def test_a_post_that_was_never_sent_goes_to_another(start_gateway: StartGateway) -> None:
    async with backends(Fault.REFUSE) as both:
        gateway = await start_gateway(0, upstream=both.urls)
        async with gateway.post("/api/x", json={"message": "once"}) as answer:
            assert answer.status == 200
        assert len(both.heads) == 1


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET, Fault.SILENT])
@pytest.mark.parametrize(("method", "body"), [("POST", None), ("POST", {}), ("PATCH", None), ("PUT", {})])
async def test_what_may_have_been_done_is_not_done_again(
    start_gateway: StartGateway, fault: Fault, method: str, body: dict[str, Any] | None
) -> None:
    async with backends(fault) as both:
        gateway = await start_gateway(0, upstream=both.urls, proxy_read_timeout=0.2, **NO_HEARTBEATS)
        async with gateway.request(method, "/api/x", json=body) as answer:
            assert answer.status in (502, 504)
        assert both.heads == []
        assert connections(gateway) == [0, 0]


async def test_where_none_responds_the_client_gets_an_error(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.RESET) as one, faulty_upstream(Fault.REFUSE) as other:
        gateway = await start_gateway(0, upstream=tuple(f"http://127.0.0.1:{port}" for port in (one, other)))
        async with gateway.get("/api/x") as answer:
            assert answer.status == 502


async def test_requests_go_where_fewer_are_under_way(start_gateway: StartGateway) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def busy(connection: Connection) -> None:
        await connection.head()
        asked.set()
        await answer.wait()
        await connection.send(OK)

    heads: list[bytes] = []
    async with listening(busy) as first, listening(answering(OK, heads)) as second:
        gateway = await start_gateway(0, upstream=tuple(f"http://127.0.0.1:{port}" for port in (first, second)))
        waiting = asyncio.ensure_future(gateway.get("/api/x"))
        await asked.wait()
        for _ in range(3):
            await (await gateway.get("/api/x")).read()
        assert len(heads) == 3
        answer.set()
        assert (await waiting).status == 200


async def test_one_that_is_ready_is_enough(start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PROBE_SECONDS", 10 * STEP)
    async with backends(Fault.SILENT) as both:
        gateway = await start_gateway(0, upstream=both.urls)
        async with asyncio.timeout(STEP), gateway.get("/readyz") as answer:
            assert answer.status == 200


async def test_readyz_distinguishes_a_backend_that_is_not_ready_from_an_unreachable_one(
    start_gateway: StartGateway,
) -> None:
    async with faulty_upstream(Fault.REFUSE) as away, listening(answering(NOT_READY, [])) as busy:
        gateway = await start_gateway(0, upstream=(f"http://127.0.0.1:{away}", f"http://127.0.0.1:{busy}"))
        async with gateway.get("/readyz") as answer:
            assert (answer.status, await answer.json()) == (503, {"status": "the backend is not ready"})


@pytest.mark.parametrize("socket_", [False, True], ids=["http", "socket"])
async def test_a_name_is_resolved_at_each_dial(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, *, socket_: bool
) -> None:
    resolve, addresses = socket.getaddrinfo, iter(["127.0.0.2", "127.0.0.1"])

    def moves(host: str, port: int, *rest: Any, **options: Any) -> list[Any]:
        if host != "backend.example":
            return list(resolve(host, port, *rest, **options))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(addresses), port))]

    async with listening(answering(OK, [])) as backend:
        gateway = await start_gateway(0, upstream=(f"http://backend.example:{backend}",))
        monkeypatch.setattr("socket.getaddrinfo", moves)
        if socket_:
            upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
            async with gateway.get("/ws/x", headers=upgrade) as answer:
                assert answer.status == 200
        else:
            assert [(await gateway.get("/api/x")).status for _ in range(2)] == [502, 200]
