"""A dev server that restarts, or is not there."""

import asyncio
import logging

import pytest

from moorline.gateway.keys import ROUTES
from moorline.gateway.proxy.retry_queue import RETRY_QUEUES
from tests.gateway.conftest import StartGateway
from tests.support.faulty_upstream import Fault, faulty_upstream
from tests.support.process import PATIENCE
from tests.support.raw import answering, listening

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_request_is_held_until_it_is_back_and_the_log_says_so_once(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline.gateway.upstream")
    heads: list[bytes] = []
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(0, frontend=f"http://127.0.0.1:{port}", connect_retry=PATIENCE)
        asking = [asyncio.create_task(gateway.get(path, headers=PAGE)) for path in ("/", "/src/main.ts")]
        # The product needs no event for a test's sake.
        while sum(map(len, gateway.app[RETRY_QUEUES].values())) < len(asking):  # noqa: ASYNC110
            await asyncio.sleep(0)
    async with listening(answering(OK, heads), port=port):
        assert [await (await answer).text() for answer in asking] == ["ok", "ok"]
    lines = [line for line in caplog.messages if "cannot be reached" in line]
    assert lines == [f"http://127.0.0.1:{port} cannot be reached: requests wait for up to {PATIENCE:g}s"]


async def test_then_a_page_names_the_address_and_what_to_do(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(0, frontend=f"http://127.0.0.1:{port}", connect_retry=None)
        async with gateway.get("/", headers=PAGE) as answer:
            page = await answer.text()
    assert (answer.status, answer.content_type, answer.headers["Cache-Control"]) == (502, "text/html", "no-store")
    assert f"<code>http://127.0.0.1:{port}</code>" in page
    assert "--frontend-command" in page


async def test_the_page_names_the_command_that_is_run(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        url = f"http://127.0.0.1:{port}"
        gateway = await start_gateway(0, frontend=url, connect_retry=None, frontend_command="npm run <dev>")
        async with gateway.get("/", headers=PAGE) as answer:
            assert "moorline runs <code>npm run &lt;dev&gt;</code>" in await answer.text()


async def test_what_a_page_fetches_gets_a_problem_document(start_gateway: StartGateway) -> None:
    async with faulty_upstream(Fault.REFUSE) as port:
        gateway = await start_gateway(0, frontend=f"http://127.0.0.1:{port}", connect_retry=None)
        async with gateway.get("/src/main.ts") as answer:
            assert (answer.status, answer.content_type) == (502, "application/problem+json")
            assert (await answer.json())["detail"].startswith("The front end cannot be reached.")


async def test_it_may_move_to_another_address(start_gateway: StartGateway) -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    async with listening(answering(OK, first)) as port, listening(answering(OK, second)) as other:
        gateway = await start_gateway(0, frontend=f"http://127.0.0.1:{port}")
        assert (await gateway.get("/")).status == 200
        gateway.app[ROUTES].move_frontend(f"http://localhost:{other}")
        assert (await gateway.get("/")).status == 200
    assert len(first) == 1
    assert f"\r\nHost: localhost:{other}\r\n".encode() in second[0]
