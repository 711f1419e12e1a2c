"""`moorline check` reports set-ups that work as healthy."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI, WebSocket
from websockets.asyncio.server import ServerConnection, serve

from moorline.gateway.check.address import ProbeOptions
from moorline.gateway.check.report import check
from moorline.testing import Moorline
from tests.gateway.check.test_probe import server
from tests.support import needs
from tests.support.backends import Script, backend
from tests.support.engine import QUERY, engine
from tests.support.faults import faulted
from tests.support.nginx import Nginx
from tests.support.process import started
from tests.support.stack import Stack, stack

SOCKET_OPENS = "The socket opens. What this server answers to a message is not known here: "


async def healthy(url: str, backend_url: str | None = None, **options: Any) -> bool:
    probe = ProbeOptions(hop_timeout=5, answer_timeout=5, **options)
    return await asyncio.to_thread(check, url, backend_url, backend_is_named=True, options=probe) == 0


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Stack]:
    async with stack(tmp_path) as started:
        started.script.put("Good.", None, "Good.", None)
        yield started


async def test_moorline(own: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    assert await healthy(own.gateway, own.backend, idle=0.3)
    out = capsys.readouterr().out
    assert "idle" in out
    assert out.endswith("Everything answers.\n")


async def test_a_script_in_place_of_a_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = Script("Good.", None)
    script.name = "none: OPENAI_API_KEY is not set"
    async with backend(tmp_path, script) as started:
        assert await healthy(started.http)
    assert (
        "Everything answers. But no model answered (none: OPENAI_API_KEY is not set): set it where"
        in capsys.readouterr().out
    )


async def test_another_backend_behind_the_gateway(moorline: Moorline, capsys: pytest.CaptureFixture[str]) -> None:
    app = FastAPI()

    @app.websocket("/ws/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            await socket.send_text(text)

    async with moorline.gateway(upstream=app) as gw:
        assert await healthy(gw.url, path="/ws/echo")
    assert SOCKET_OPENS in capsys.readouterr().out


@needs.nginx
async def test_behind_nginx(parts: Stack, front: Nginx) -> None:
    parts.script.put("Good.", None, "Good.", None)
    assert await healthy(front.plain, parts.backend)


@needs.nginx
async def test_over_tls(parts: Stack, front: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(front.folder / "cert.pem"))
    parts.script.put("Good.", None)
    assert await healthy(front.tls)


@needs.ipv6
async def test_over_ipv6_alone(tmp_path: Path) -> None:
    async with stack(tmp_path, gateway={"host": "::1"}) as started:
        started.script.put("Good.", None)
        assert started.gateway.startswith("http://[::1]:")
        assert await healthy(started.gateway)


async def test_under_a_path(capsys: pytest.CaptureFixture[str]) -> None:
    async with server(prefix="/clinic") as url:
        assert await healthy(f"{url}/clinic")
    assert "101 Switching Protocols" in capsys.readouterr().out


async def test_a_slow_model(tmp_path: Path) -> None:
    async with stack(tmp_path) as started:
        checking = asyncio.ensure_future(healthy(started.gateway))
        await started.script.asked.wait()
        await asyncio.sleep(0.5)  # how long this model thinks
        started.script.put("Good.", None)
        assert await checking


async def test_through_a_slow_proxy(own: Stack) -> None:
    async with faulted(own.gateway, "delay", seconds=0.1) as url:
        assert await healthy(url, own.backend)


async def test_a_proxy_that_holds_frames_back_for_a_time_is_told(
    tmp_path: Path, own: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moorline.gateway.check.probe._SLOW_PONG", 0.2)
    server = urlsplit(own.gateway)
    proxy = ("tests.support.buffering_proxy", str(server.hostname), str(server.port), "65536", "0.3")
    async with started(*proxy, cwd=tmp_path) as running:
        assert await healthy((await running.line("passing")).split()[1])
    assert "Everything answers. But the first Pong came after 0." in capsys.readouterr().out


async def test_a_server_of_another_make(capsys: pytest.CaptureFixture[str]) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        assert await healthy(f"ws://127.0.0.1:{port}", idle=0.3)
    assert SOCKET_OPENS in capsys.readouterr().out


async def test_a_server_that_wants_a_path_and_a_query() -> None:
    async with engine() as url:
        assert await healthy(url + QUERY)
        assert not await healthy(url)
