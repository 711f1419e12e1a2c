"""`moorline check` names the hop, the cause and the next step of each fault, injected into real connections."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from moorline.gateway.check.address import HOP_TIMEOUT, ProbeOptions
from moorline.gateway.check.report import check
from moorline.gateway.faults.provider import provider
from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.support import needs
from tests.support.backends import asking_backend
from tests.support.certificates import certificate
from tests.support.faults import faulted
from tests.support.raw import Connection, listening
from tests.support.stack import SOCKET, Stack, stack


class Found(NamedTuple):
    """What the JSON says is broken."""

    side: str
    hop: str
    said: str
    cause: str
    next_step: str


Check = Callable[..., Awaitable[Found | None]]

# In seconds, for what comes: the first test of a process imports libraries meanwhile, beside browsers of other tests.
PATIENCE = 10.0


@pytest.fixture
def checked(capsys: pytest.CaptureFixture[str]) -> Check:
    """`await checked(url, backend=None, **options)`"""

    async def run(
        url: str,
        backend: str | None = None,
        *,
        patience: float = PATIENCE,
        answer_patience: float | None = None,
        **options: Any,
    ) -> Found | None:
        status = await asyncio.to_thread(
            check,
            url,
            backend,
            backend_is_named=True,
            options=ProbeOptions(hop_timeout=patience, answer_timeout=answer_patience or patience, **options),
            as_json=True,
        )
        broken = json.loads(capsys.readouterr().out)["broken"]
        assert status == (broken is not None)
        if broken is None:
            return None
        return Found(broken["side"], broken["hop"], broken["said"], broken["usual_cause"], broken["next_step"])

    return run


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Stack]:
    """A gateway and a backend whose model has an answer for the gateway's question and one for the backend's."""
    async with stack(tmp_path) as started:
        started.script.put("Good.", None, "Good.", None)
        yield started


# On the way to the gateway --------------------------------------------------------------------------------------------

HANDSHAKE = {"path": "/ws/"}


@pytest.mark.parametrize(
    ("name", "parameters", "hop", "said", "cause", "next_step"),
    [
        ("refuse", {}, "TCP", "connection refused", "not running", "start it: moorline"),
        ("hold", {}, "HTTP", "no answer in time", "hangs", "look at its log"),
        ("silent", HANDSHAKE, "upgrade", "no answer in time", "does not answer the handshake", "backend's log"),
        ("slow_headers", HANDSHAKE, "upgrade", "no answer in time", "does not answer the handshake", "log"),
        ("status", {"code": 401, **HANDSHAKE}, "upgrade", "HTTP 401", "credentials", "--header"),
        ("status", {"code": 403, **HANDSHAKE}, "upgrade", "HTTP 403", "with and without Origin", "authorization"),
        ("status", {"code": 404, **HANDSHAKE}, "upgrade", "HTTP 404", "wrong path", "/ws/"),
        ("status", {"code": 429, **HANDSHAKE}, "upgrade", "HTTP 429", "a limit of requests", "wait"),
        ("status", {"code": 500, **HANDSHAKE}, "upgrade", "HTTP 500", "handler of the handshake failed", "traceback"),
        ("status", {"code": 502, **HANDSHAKE}, "upgrade", "HTTP 502", "the backend is down", "--upstream"),
        ("status", {"code": 503, **HANDSHAKE}, "upgrade", "HTTP 503", "a limit", "max_connections"),
        ("not_http", {}, "HTTP", "does not speak HTTP (a mail or FTP server)", "another program", "check the port"),
        ("half_headers", HANDSHAKE, "upgrade", "within the headers", "crashed or restarted", "log"),
        ("reset_handshake", HANDSHAKE, "upgrade", "closed without an answer", "restarting or crashing", "log"),
        ("fin_handshake", HANDSHAKE, "upgrade", "closed without an answer", "restarting or crashing", "log"),
        ("no_accept", {}, "upgrade", "has no Sec-WebSocket-Accept", "a cache or a proxy", "--backend"),
        ("wrong_accept", {}, "upgrade", "another key's", "a cache or a proxy", "--backend"),
        ("wrong_subprotocol", {}, "upgrade", "'injected', which was not offered", "different subprotocols", "offer"),
        ("strip_upgrade", {}, "upgrade", "HTTP 4", "strips Upgrade", "proxy_set_header Upgrade"),
        ("buffer", {"size": 1 << 20, **HANDSHAKE}, "upgrade", "no Pong came", "buffers", "proxy_buffering off"),
        ("vanish", HANDSHAKE, "upgrade", "no Pong came", "buffers", "look at its log"),
        ("vanish", {"after_bytes": 7, **HANDSHAKE}, "first answer", "no Pong", "not the model", "--backend"),
        ("reset", {"after_bytes": 10, **HANDSHAKE}, "first answer", "in the middle of a frame", "killed", "log"),
        ("fin", {"after_bytes": 7, **HANDSHAKE}, "first answer", "without a Close frame", "process ended", "log"),
        ("close", {"code": 1013, "after_bytes": 7, **HANDSHAKE}, "first answer", "1013", "closed before", "log"),
        (
            "cut_mid_frame",
            {"after_bytes": 7},
            "first answer",
            "in the middle of a frame",
            "crashed or was killed",
            "log",
        ),
        ("bad_frame", {"after_bytes": 7}, "first answer", "reserved", "no WebSocket frame", "--backend"),
        ("bad_utf8", {"after_bytes": 7}, "first answer", "not UTF-8", "no WebSocket frame", "--backend"),
        ("masked_frame", {"after_bytes": 7}, "first answer", "masked", "no WebSocket frame", "--backend"),
        ("oversized_frame", {"after_bytes": 7}, "first answer", "1073741824 bytes", "max_frame_size", "send less"),
    ],
)
async def test_a_fault_before_the_gateway(
    parts: Stack,
    checked: Check,
    name: str,
    parameters: dict[str, Any],
    hop: str,
    said: str,
    cause: str,
    next_step: str,
) -> None:
    patience = 2.0 if "in time" in said or "no Pong" in said else PATIENCE
    async with faulted(parts.gateway, name, **parameters) as url:
        found = await checked(url, patience=patience)
    assert found is not None
    assert found.hop == hop, found
    assert said in found.said, found
    assert cause in found.cause, found
    assert next_step in found.next_step, found


@pytest.mark.parametrize(("name", "said"), [("idle_cut", "without a Close frame"), ("reset_idle", "was reset")])
async def test_a_proxy_that_cuts_silent_sockets_is_found_with_its_time(
    parts: Stack, checked: Check, name: str, said: str
) -> None:
    async with faulted(parts.gateway, name, idle=0.5, path="/ws/") as url:
        found = await checked(url, idle=5.0)
    assert found is not None
    assert found.hop == "idle"
    assert found.said.startswith("the silent socket was cut (after 0.")
    assert said in found.said
    assert "proxy_read_timeout" in found.next_step


async def test_a_server_that_is_late_once_is_not_taken_for_a_proxy_that_buffers(checked: Check) -> None:
    requests = 0

    async def serve(connection: Connection) -> None:
        nonlocal requests
        await connection.head()
        requests += 1
        if requests > 1:
            await connection.send(b"HTTP/1.1 404 Not Found\r\n\r\n")
        await connection.rest()

    async with listening(serve) as port:
        found = await checked(f"http://127.0.0.1:{port}", patience=0.3)
    assert found is not None
    assert (found.hop, found.said) == ("HTTP", "no answer in time"), found


async def test_a_proxy_that_holds_back_every_response_but_a_connections_last_one(checked: Check) -> None:
    async def serve(connection: Connection) -> None:
        if b"Connection: close" in await connection.head():
            await connection.send(b"HTTP/1.1 404 Not Found\r\n\r\n")
        else:
            await connection.rest()

    async with listening(serve) as port:
        found = await checked(f"http://127.0.0.1:{port}", patience=0.3)
    assert found is not None
    assert (found.hop, "buffers what the server sends" in found.cause) == ("HTTP", True), found
    assert "proxy_buffering off" in found.next_step


@pytest.mark.parametrize(
    ("name", "parameters", "code", "cause", "next_step"),
    [
        ("reset", {"after_bytes": 7}, "UR-idle", "was killed or crashed", "backend's log"),
        ("oversized_frame", {"size": 1 << 25, "after_bytes": 7}, "US-idle", "whole history", "--max-frame-size"),
        ("close", {"code": 1011, "after_bytes": 7}, "UC-closing", "on purpose", "close code"),
    ],
)
async def test_an_end_behind_the_gateway_is_told_with_the_gateways_cause(
    parts: Stack, checked: Check, name: str, parameters: dict[str, Any], code: str, cause: str, next_step: str
) -> None:
    async with faulted(parts.backend, name, path="/ws/", **parameters) as behind:
        settings = Settings(host="127.0.0.1", port=0, upstream=(behind,), drain=0.2)
        async with server.running(settings) as gateway:
            found = await checked(gateway.addresses[0])
    assert found is not None
    assert found.hop == "first answer"
    assert found.said.endswith(f"; the gateway's cause is {code}"), found
    assert cause in found.cause, found
    assert next_step in found.next_step, found


async def test_a_proxy_that_strips_upgrade_is_proven_by_the_backend(parts: Stack, checked: Check) -> None:
    async with faulted(parts.gateway, "strip_upgrade") as url:
        found = await checked(url, parts.backend)
    assert found is not None
    assert (found.side, found.hop) == ("through the gateway", "upgrade")
    assert "arrived as an ordinary request" in found.said
    assert found.cause == "a proxy in front strips Upgrade, so that an ordinary request arrived"


# Access ---------------------------------------------------------------------------------------------------------------


async def test_an_origin_that_is_not_listed_is_named(parts: Stack, checked: Check) -> None:
    found = await checked(parts.gateway, origin="https://elsewhere.example")
    assert found is not None
    assert "refused because of its Origin" in found.said
    assert "--allowed-origins" in found.next_step


async def test_a_host_that_is_not_listed_is_named(parts: Stack, checked: Check) -> None:
    found = await checked(parts.gateway, headers={"Host": "elsewhere.example"})
    assert found is not None
    assert (found.hop, found.said[:8]) == ("HTTP", "HTTP 421")
    assert "--allowed-hosts" in found.next_step


async def test_a_wrong_path_is_named(parts: Stack, checked: Check) -> None:
    found = await checked(parts.gateway + "/wrong/path")
    assert found is not None
    assert (found.hop, "wrong path" in found.cause) == ("HTTP", True)


async def test_a_gateway_without_a_free_place_says_which_limit(tmp_path: Path, checked: Check) -> None:
    async with stack(tmp_path, gateway={"max_connections": 1}) as parts:
        url = parts.gateway.replace("http", "ws") + SOCKET
        async with connect(url, proxy=None):
            found = await checked(parts.gateway)
    assert found is not None
    assert found.said.startswith("HTTP 503: ")
    assert "max_connections" in found.said + found.next_step + found.cause


# The other protocol ---------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def over(app: web.Application, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """An HTTP server of another make; its port."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("name", "expired", "trusted", "said", "next_step"),
    [
        ("localhost", True, True, "the certificate has expired", "renew"),
        ("elsewhere.example", False, True, "the certificate is for another name", "name"),
        ("localhost", False, False, "authority that this machine does not trust", "SSL_CERT_FILE"),
    ],
)
@needs.nginx
async def test_a_certificate_that_is_not_accepted(
    tmp_path: Path,
    checked: Check,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    expired: bool,  # noqa: FBT001 - columns of the table
    trusted: bool,  # noqa: FBT001
    said: str,
    next_step: str,
) -> None:
    made = await certificate(tmp_path, name, expired=expired)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.file))
    async with over(web.Application(), made.server()) as port:
        found = await checked(f"https://localhost:{port}")
    assert found is not None
    assert (found.hop, said in found.said, next_step in found.next_step) == ("HTTP", True, True), found


async def test_tls_to_a_plain_port_is_named(parts: Stack, checked: Check) -> None:
    found = await checked(parts.gateway.replace("http", "wss"))
    assert found is not None
    assert "this port speaks no TLS" in found.said
    assert "http://" in found.next_step


@needs.nginx
async def test_plain_to_a_port_of_tls_is_named(tmp_path: Path, checked: Check) -> None:
    async with over(web.Application(), (await certificate(tmp_path)).server()) as port:
        found = await checked(f"http://127.0.0.1:{port}")
    assert found is not None
    assert found.said == "this port speaks TLS"
    assert "https://" in found.next_step


@pytest.mark.parametrize(
    ("question", "answer", "service"),
    [
        (b"", b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server"),
        (b"GET ", b"-ERR unknown command 'GET'\r\n", "a Redis server"),
        # As Redis 7: it ends a connection whose commands have a Host header, without an answer.
        (b"PING", b"+PONG\r\n", "a Redis server"),
    ],
)
async def test_another_service_is_named(checked: Check, question: bytes, answer: bytes, service: str) -> None:
    async def serve(connection: Connection) -> None:
        if await connection.exactly(len(question)) == question:
            await connection.send(answer)
            await connection.rest()

    async with listening(serve) as port:
        found = await checked(f"http://127.0.0.1:{port}")
    assert found is not None
    assert found.said == f"what answers does not speak HTTP ({service})"


async def test_another_web_server_is_distinguished_from_moorline(checked: Check) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="another site")

    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with over(app) as port:
        found = await checked(f"http://127.0.0.1:{port}")
    assert found is not None
    assert (found.hop, found.said) == ("HTTP", "what answers is not moorline (/healthz: HTTP 200)"), found
    assert "check the host, the port and the path" in found.next_step


# Behind the backend ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "code", "next_step"),
    [
        ("provider_401", "llm_misconfigured", "OPENAI_API_KEY"),
        ("provider_404", "llm_misconfigured", "--model"),
        ("provider_quota", "llm_busy", "quota"),
        ("provider_500", "llm_unavailable", "OPENAI_BASE_URL"),
        ("provider_reset", "llm_unavailable", "network"),
    ],
)
async def test_a_provider_that_fails(tmp_path: Path, checked: Check, name: str, code: str, next_step: str) -> None:
    async with provider() as model, model.faults.arm(name), asking_backend(tmp_path, model.base_url) as part:
        # It costs no time, as an error comes.
        found = await checked(part.http, patience=HOP_TIMEOUT)
    assert found is not None
    assert (found.hop, found.said) == ("first answer", f"answered with an error: {code}")
    assert next_step in found.next_step


async def test_a_provider_that_is_down(tmp_path: Path, checked: Check, unused_tcp_port: int) -> None:
    async with asking_backend(tmp_path, f"http://127.0.0.1:{unused_tcp_port}/v1") as part:
        # The library of the provider tries twice more.
        found = await checked(part.http, patience=15.0)
    assert found is not None
    assert (found.hop, found.said) == ("first answer", "answered with an error: llm_unavailable")
    assert "OPENAI_BASE_URL" in found.next_step


async def test_a_provider_that_stalls_is_distinguished_from_a_backend_that_hangs(
    tmp_path: Path, checked: Check
) -> None:
    async with provider() as model, model.faults.provider_stall(), asking_backend(tmp_path, model.base_url) as part:
        found = await checked(part.http, answer_patience=1.0)
    assert found is not None
    assert (found.hop, found.said) == ("first answer", "no answer in time")
    assert "no answer from the model" in found.cause
