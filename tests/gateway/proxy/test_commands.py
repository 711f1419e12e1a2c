"""Requests for an upstream that is a command of `moorline serve`, while it starts or cannot start."""

import asyncio

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from moorline.gateway.keys import ROUTES, UPSTREAMS
from moorline.gateway.proxy.commands import expect
from moorline.gateway.proxy.retry_queue import RETRY_QUEUES
from moorline.gateway.proxy.routes import Owner
from tests.gateway.conftest import Client, StartGateway
from tests.support.faulty_upstream import Fault, Upstream, faulty_upstream

COMMAND = "uvicorn app:app"


async def holds(gateway: Client, count: int) -> None:
    """Wait until so many requests wait for the backend."""
    queue = gateway.app[RETRY_QUEUES][gateway.app[UPSTREAMS]]
    async with asyncio.timeout(5):
        while len(queue) != count:  # noqa: ASYNC110 - the product needs no event for a test's sake
            await asyncio.sleep(0)


async def test_requests_wait_until_it_listens(start_gateway: StartGateway, unused_tcp_port: int) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(text=request.method + await request.text())

    gateway = await start_gateway(unused_tcp_port, backend_command=COMMAND)
    sending = [
        asyncio.ensure_future(gateway.request(method, "/api/x", json=body))
        for method, body in (("GET", None), ("POST", [1]))
    ]
    await holds(gateway, 2)
    app = web.Application()
    app.router.add_route("*", "/api/x", echo)
    async with TestServer(app, host="127.0.0.1", port=unused_tcp_port):
        assert [await (await each).text() for each in sending] == ["GET", "POST[1]"]


async def test_all_are_answered_at_once_when_it_ends_at_its_start(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(port, backend_command=COMMAND)
        waiting = [asyncio.ensure_future(gateway.get(path)) for path in ("/api/x", "/api/y")]
        await holds(gateway, 2)
        expect(gateway.app, Owner.BACKEND, expected=False)
        for each in waiting:
            answer = await each
            assert answer.status == 502
            assert (await answer.json())["detail"].startswith(
                f'The backend cannot be reached at http://127.0.0.1:{port}. moorline runs "{COMMAND}" and starts it'
            )
        assert (await gateway.get("/api/z")).status == 502


async def test_they_wait_again_once_it_is_started_again(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(port, backend_command=COMMAND)
        for expected in (False, True):
            expect(gateway.app, Owner.BACKEND, expected=expected)
        waiting = asyncio.ensure_future(gateway.get("/api/x"))
        await holds(gateway, 1)
        waiting.cancel()
        # A client that goes away.
        await holds(gateway, 0)


async def test_a_handshake_waits_no_longer_either(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(port, backend_command=COMMAND)
        waiting = asyncio.ensure_future(gateway.ws_connect("/ws/chat/p/s"))
        await holds(gateway, 1)
        expect(gateway.app, Owner.BACKEND, expected=False)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="502"):
            await waiting


async def test_a_request_that_it_crashed_by_is_not_sent_to_its_next_life(start_gateway: StartGateway) -> None:
    async with Upstream() as upstream:
        gateway = await start_gateway(upstream.port, backend_command=COMMAND)
        waiting = asyncio.ensure_future(gateway.get("/api/x"))
        (await upstream.accept()).reset()
        assert (await waiting).status == 502
        with pytest.raises(BlockingIOError):
            upstream._listener.accept()


async def test_a_page_says_so_and_other_machines_do_not_see_the_command(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(port, backend_command=COMMAND, connect_retry=None)
        sent = {"Accept": "text/html"}
        page = await (await gateway.get("/docs", headers=sent)).text()
        assert "<h1>The backend cannot be reached</h1>" in page
        assert COMMAND in page
        page = await (await gateway.get("/docs", headers={**sent, "Via": "1.1 proxy"})).text()
        assert "<code>--backend-command</code>" in page
        assert COMMAND not in page


async def test_the_front_ends_requests_do_not_wait_for_a_command_that_cannot_start(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(0, frontend=f"http://127.0.0.1:{port}", frontend_command="npm run dev")
        assert gateway.app[ROUTES].frontend is not None
        expect(gateway.app, Owner.FRONTEND, expected=False)
        async with gateway.get("/main.js") as answer:
            assert 'moorline runs "npm run dev"' in (await answer.json())["detail"]
