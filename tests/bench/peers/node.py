"""What front-end developers have: Vite's proxy, and http-proxy-3, which is below it; from npm."""

import asyncio
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import Missing, Peer, installed

__all__ = ["HTTP_PROXY_3", "VITE"]

_INSTALL_SECONDS = 120.0
_VITE = """
export default {{
  clearScreen: false,
  server: {{
    host: '127.0.0.1',
    port: {port},
    strictPort: true,
    proxy: {{ '/ws': {{ target: 'ws://127.0.0.1:{backend_port}', ws: true }} }},
  }},
}}
"""
_HTTP_PROXY_3 = """
import httpProxy from 'http-proxy-3'

const proxy = httpProxy.createProxyServer({{ target: 'http://127.0.0.1:{backend_port}', ws: true }})
proxy.on('error', () => {{}})
proxy.listen({port}, '127.0.0.1')
"""


async def _vite(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    node = await _install(folder, "vite@8")
    (folder / "vite.config.mjs").write_text(_VITE.format(port=port, backend_port=backend_port))
    return [node, "node_modules/vite/bin/vite.js"]


async def _http_proxy_3(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    node = await _install(folder, "http-proxy-3@2")
    (folder / "proxy.mjs").write_text(_HTTP_PROXY_3.format(port=port, backend_port=backend_port))
    return [node, "proxy.mjs"]


async def _install(folder: Path, package: str) -> str:
    """`npm install` there; where Node is."""
    node, npm = installed("node"), installed("npm")
    with (folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            npm,
            *("install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", str(folder), package),
            cwd=folder,
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
        )
        try:
            await asyncio.wait_for(process.wait(), _INSTALL_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Missing(f"npm install {package} fails here")
    return node


VITE = Peer("vite", _vite)
HTTP_PROXY_3 = Peer("http-proxy-3", _http_proxy_3)
