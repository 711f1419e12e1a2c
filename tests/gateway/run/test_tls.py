"""Programs that speak TLS: their addresses, their workers, and `moorline check` of them."""

import ssl
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

from tests.support.certificates import Certificate, certificate
from tests.support.gateway_process import echoing
from tests.support.process import refused, run_program, started


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


async def test_a_mistake_is_one_line(tmp_path: Path, pair: Certificate) -> None:
    pair.key.write_text("nothing")
    line = await refused("gateway", *options(pair), cwd=tmp_path)
    assert line == f'tls_certificate_key: "{pair.key}" holds no private key (PEM)'
