"""Programs that speak TLS: their addresses, their workers, and `moorline check` of them."""

import contextlib
import ssl
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.support.certificates import Certificate, certificate
from tests.support.gateway_process import echoing
from tests.support.process import refused, run_program, started
from tests.support.raw import dial

FILES = 64


@pytest.fixture
async def pair(tmp_path: Path) -> Certificate:
    return await certificate(tmp_path)


def options(pair: Certificate) -> tuple[str, ...]:
    return ("--tls-certificate", str(pair.file), "--tls-certificate-key", str(pair.key))


async def test_workers_speak_tls(tmp_path: Path, pair: Certificate) -> None:
    tls = ssl.create_default_context(cafile=str(pair.file))
    async with echoing(tmp_path, *options(pair), "--workers", "2") as (program, url):
        assert url.startswith("wss://")
        async with connect(url, ssl=tls, proxy=None) as first, connect(url, ssl=tls, proxy=None) as second:
            for client in (first, second):
                await client.send("a")
                assert await client.recv() == "a"
        assert await program.stop() == 0


async def test_serve_speaks_tls_and_check_knows_it_by_its_certificate(tmp_path: Path, pair: Certificate) -> None:
    files = f'tls_certificate = "{pair.file}"\ntls_certificate_key = "{pair.key}"\n'
    (tmp_path / "moorline.toml").write_text(f"[gateway]\nport = 0\n{files}[serve]\nbackend_port = 0\n")
    tls = ssl.create_default_context(cafile=str(pair.file))
    async with started("moorline", "serve", cwd=tmp_path) as program:
        page = await program.page()
        assert page.startswith("https://localhost:")
        async with aiohttp.ClientSession() as http, http.get(page, ssl=tls) as response:
            assert response.status == 200
        backend = (await program.line("backend", "http://")).split()[1]
        port = page.rpartition(":")[2]
        status, out, err = await run_program(
            "moorline", "check", "--port", port, "--backend", backend, "--idle", "off", cwd=tmp_path
        )
        assert (status, err) == (0, "")
        assert f"the gateway: https://localhost:{port}" in out


@pytest.mark.parametrize("first", [b"", b"\x16\x03"], ids=["silent", "begun"])
async def test_connections_without_a_handshake_make_way_for_a_client_that_has_one(
    tmp_path: Path, pair: Certificate, first: bytes
) -> None:
    tls = ssl.create_default_context(cafile=str(pair.file))
    arguments = ("--port", "0", "--drain", "100ms", *options(pair))
    async with started("moorline", "gateway", *arguments, cwd=tmp_path, files=FILES) as program:
        page = await program.page()
        async with contextlib.AsyncExitStack() as clients:
            for _ in range(2 * FILES):
                client = await clients.enter_async_context(dial(int(page.rpartition(":")[2])))
                with contextlib.suppress(ConnectionError):
                    await client.send(first)
            async with aiohttp.ClientSession() as http, http.get(f"{page}/healthz", ssl=tls) as response:
                assert response.status == 200
        assert await program.stop() == 0
    assert "Traceback" not in program.err


async def test_a_mistake_is_one_line(tmp_path: Path, pair: Certificate) -> None:
    pair.key.write_text("nothing")
    line = await refused("gateway", *options(pair), cwd=tmp_path)
    assert line == f'tls_certificate_key: "{pair.key}" holds no private key (PEM)'
