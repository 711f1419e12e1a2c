"""A client that leaves in the middle of an upload: no error of the server's."""

import asyncio
import logging
from pathlib import Path

import pytest

from moorline.gateway.app import create_app
from moorline.gateway.common.web.draining import DRAINING
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from tests.support.backends import Script, backend
from tests.support.faulty_upstream import STEP, Upstream
from tests.support.raw import Connection, dial

HEADERS = b"POST /api/chat/s1/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODIES = (
    b"Content-Length: 100\r\n\r\n{",
    b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    b"Content-Length: 100\r\n\r\n",
)


def leave(client: Connection, *, reset: bool) -> None:
    if reset:
        client.reset()
    else:
        client.close()


def assert_no_error(caplog: pytest.LogCaptureFixture) -> None:
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("body", BODIES)
async def test_the_backend_logs_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes, *, reset: bool
) -> None:
    caplog.set_level(logging.INFO)
    async with backend(tmp_path, Script()) as server, dial(server.port) as client:
        await client.send(HEADERS + b"Expect: 100-continue\r\n" + body)
        # The handler is about to read the body.
        assert b" 100 " in await client.head()
        leave(client, reset=reset)
    # The drain has waited for it.
    assert_no_error(caplog)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("body", BODIES)
async def test_the_gateway_logs_no_error(caplog: pytest.LogCaptureFixture, body: bytes, *, reset: bool) -> None:
    caplog.set_level(logging.INFO)
    async with Upstream() as upstream:
        settings = Settings(host="127.0.0.1", port=0, upstream=(f"http://127.0.0.1:{upstream.port}",))
        app = create_app(settings)
        async with running(app, settings) as server:
            async with dial(server.port) as client:
                await client.send(HEADERS + body)
                await upstream.accept()
                leave(client, reset=reset)
            await asyncio.wait_for(app[DRAINING].released(), STEP)
    assert_no_error(caplog)
