"""Upstreams that speak TLS: verified, and with tunnels that end as those over TCP do."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError
from websockets.http11 import Request, Response

from moorline.gateway.app import create_app
from moorline.gateway.common.errors import UsageError
from moorline.gateway.keys import ROUTES
from moorline.gateway.proxy.pool import POOLS
from moorline.gateway.proxy.tls import tls_for
from moorline.gateway.settings import Settings
from moorline.gateway.tunnel.endings import Side
from tests.gateway.websocket.conftest import Gateway, Start, ended
from tests.support import needs
from tests.support.certificates import Certificate, certificate
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, dial
from tests.support.raw import Connection, listening
from tests.support.websocket_frames import frame

pytestmark = needs.nginx
BIG = "x" * (1 << 20)


@pytest.fixture
async def localhost(tmp_path: Path) -> Certificate:
    return await certificate(tmp_path)


async def play(connection: ServerConnection) -> None:
    """Echo, until it is told how to end."""
    async for message in connection:
        if message == "reset":
            connection.transport.abort()
        elif message == "close":
            await connection.close(4000, "done")
        else:
            await connection.send(message)


def answer(connection: ServerConnection, request: Request) -> Response | None:
    if "Upgrade" in request.headers:
        return None
    return connection.respond(200, "plain")


@pytest.fixture
async def upstream(localhost: Certificate) -> AsyncIterator[str]:
    """The address of a server that echoes messages and answers requests, by TLS."""
    async with serve(play, "127.0.0.1", 0, ssl=localhost.server(), process_request=answer, max_size=None) as server:
        yield f"https://localhost:{next(iter(server.sockets)).getsockname()[1]}"


async def start_tls(start: Start, upstream: str, **options: Any) -> Gateway:
    return await start(0, upstream=(upstream,), connect_retry=None, **options)


async def get(gateway: Gateway, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(gateway.url + path) as response:
        return response.status, await response.text()


async def test_http_and_sockets_pass_by_tls(start: Start, upstream: str, localhost: Certificate) -> None:
    gateway = await start_tls(start, upstream, upstream_ca=str(localhost.file))
    assert await get(gateway, "/api/x") == (200, "plain")
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws/x", max_size=None, compression=None, proxy=None) as client:
        for message in ("a", BIG, "b"):
            await client.send(message)
            assert await client.recv() == message


async def test_many_messages_at_once_keep_their_order(start: Start, upstream: str, localhost: Certificate) -> None:
    gateway = await start_tls(start, upstream, upstream_ca=str(localhost.file))
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws/x", max_size=None, compression=None, proxy=None) as client:
        sent = [f"{number} {'x' * number * 100}" for number in range(300)]
        sending = asyncio.create_task(_send_all(client, sent))
        assert [await client.recv() for _ in sent] == sent
        await sending


async def _send_all(client: Any, messages: list[str]) -> None:
    for message in messages:
        await client.send(message)


async def flood(client: Peer) -> None:
    """Send until the connection ends: the buffers between may take tens of megabytes."""
    with contextlib.suppress(ConnectionError):
        while True:
            await client.send(frame(2, b"x" * (1 << 20), key=b"abcd"))


async def test_an_upstream_that_stops_reading_is_ended_in_time(
    start: Start, localhost: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    over = asyncio.Event()

    async def stop_reading(connection: Connection) -> None:
        await connection.head()
        await connection.send(SWITCH)
        await over.wait()

    async with listening(stop_reading, tls=localhost.server()) as port:
        options = {"upstream_ca": str(localhost.file), "proxy_send_timeout": 0.5, "close_timeout": 0.1}
        gateway = await start_tls(start, f"https://localhost:{port}", **options)
        async with dial(gateway.port) as client:
            await client.send(HANDSHAKE)
            await client.head()
            sending = asyncio.create_task(flood(client))
            assert "reason=proxy_send_timeout" in await ended(gateway, caplog)
            sending.cancel()
        over.set()


async def test_a_close_frame_of_the_upstream_reaches_the_client(
    start: Start, upstream: str, localhost: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    gateway = await start_tls(start, upstream, upstream_ca=str(localhost.file))
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws/x", proxy=None) as client:
        await client.send("close")
        await client.wait_closed()
        assert (client.close_code, client.close_reason) == (4000, "done")
    assert "close_code=4000" in await ended(gateway, caplog)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_an_upstream_that_resets_ends_the_client_with_a_close_frame(
    start: Start, upstream: str, localhost: Certificate
) -> None:
    gateway = await start_tls(start, upstream, upstream_ca=str(localhost.file))
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws/x", proxy=None) as client:
        await client.send("reset")
        with pytest.raises(ConnectionClosedError) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
    await gateway.has(0)


async def test_a_client_that_closes_ends_the_upstream(
    start: Start, upstream: str, localhost: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moorline")
    gateway = await start_tls(start, upstream, upstream_ca=str(localhost.file))
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws/x", proxy=None) as client:
        await client.close(1000)
    assert "ended_by=client" in await ended(gateway, caplog)


async def test_a_connection_by_tls_serves_one_request_after_another(
    start: Start, upstream: str, localhost: Certificate
) -> None:
    gateway = await start_tls(start, upstream, upstream_ca=str(localhost.file))
    assert [await get(gateway, "/api/x") for _ in range(3)] == [(200, "plain")] * 3
    assert all(pool.idle <= 1 for pool in gateway.app[POOLS].values())


async def test_heartbeats_pass_by_tls(start: Start, upstream: str, localhost: Certificate) -> None:
    gateway = await start_tls(start, upstream, upstream_ca=str(localhost.file), upstream_heartbeat=0.02)
    async with connect(f"ws://127.0.0.1:{gateway.port}/ws/x", proxy=None) as client:
        ((_, tunnel),) = gateway.tunnels.open_sockets()
        while not tunnel.round_trips(Side.UPSTREAM):  # noqa: ASYNC110 - the product needs no event for it
            await asyncio.sleep(0)
        await client.send("still there")
        assert await client.recv() == "still there"


# Verification ---------------------------------------------------------------------------------------------------------


async def test_a_certificate_of_no_known_authority_is_a_502(
    start: Start, upstream: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_tls(start, upstream)
    status, text = await get(gateway, "/api/x")
    assert (status, "its certificate is not valid" in text) == (502, True)
    assert "certificate verify failed: self-signed certificate" in caplog.text


async def test_a_certificate_for_another_name_is_a_502(start: Start, tmp_path: Path) -> None:
    other = await certificate(tmp_path, "other.example")
    async with serve(play, "127.0.0.1", 0, ssl=other.server(), process_request=answer) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        gateway = await start_tls(start, f"https://localhost:{port}", upstream_ca=str(other.file))
        assert (await get(gateway, "/api/x"))[0] == 502


async def test_an_upstream_that_speaks_no_tls_is_a_502(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    async def speak(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.ended()

    async with listening(speak) as port:
        gateway = await start_tls(start, f"https://127.0.0.1:{port}")
        assert (await get(gateway, "/api/x"))[0] == 502
        assert "UpstreamTlsError: wrong version number" in caplog.text


async def test_a_handshake_is_not_held_for_a_certificate_that_stays_wrong(start: Start, upstream: str) -> None:
    gateway = await start(0, upstream=(upstream,), connect_retry=60.0)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="502"):
            await http.ws_connect(f"{gateway.url}/ws/x")


async def test_without_verification_any_certificate_passes_and_the_log_says_so(
    start: Start, upstream: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_tls(start, upstream, upstream_tls_verify=False)
    assert await get(gateway, "/api/x") == (200, "plain")
    assert "certificates of https upstreams are not verified: upstream_tls_verify is false" in caplog.messages


async def test_a_dev_server_of_this_machine_may_have_any_certificate_and_the_backend_may_not(
    start: Start, upstream: str
) -> None:
    gateway = await start_tls(start, upstream.replace("localhost", "127.0.0.1"), frontend=upstream)
    assert await get(gateway, "/page") == (200, "plain")
    assert (await get(gateway, "/api/x"))[0] == 502
    async with connect(f"ws://127.0.0.1:{gateway.port}/hot", proxy=None) as client:
        await client.send("a")
        assert await client.recv() == "a"


async def test_a_dev_server_is_verified_where_authorities_are_named(
    start: Start, upstream: str, tmp_path: Path
) -> None:
    other = await certificate(tmp_path, "other.example")
    gateway = await start_tls(start, "http://127.0.0.1:9", frontend=upstream, upstream_ca=str(other.file))
    assert (await get(gateway, "/page"))[0] == 502


@pytest.mark.parametrize(("host", "mode"), [("localhost", ssl.CERT_NONE), ("dev.example", ssl.CERT_REQUIRED)])
def test_a_dev_server_elsewhere_is_verified(host: str, mode: ssl.VerifyMode) -> None:
    app = create_app(Settings(frontend=f"https://{host}:5173"))
    destination = app[ROUTES].frontend
    assert destination is not None
    context = tls_for(app, next(iter(destination.upstreams)))
    assert context is not None
    assert context.verify_mode is mode


@pytest.mark.parametrize(("text", "reason"), [(None, "cannot be read"), ("no certificate", "holds no certificate")])
def test_authorities_that_cannot_be_read_are_one_line(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "ca.pem"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=rf'^upstream_ca: ".*ca\.pem" {reason}'):
        create_app(Settings(upstream_ca=str(file)))
