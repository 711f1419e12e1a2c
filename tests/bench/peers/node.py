"""What front-end developers have: Vite's proxy, http-proxy-3, which is below it, and sirv; from npm."""

import asyncio
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Sequence
from pathlib import Path

from tests.bench.peers.base import HTTP, SITE, Missing, Peer, Prepare, installed

__all__ = ["HTTP_PROXY_3", "HTTP_PROXY_3_POOLED", "HTTP_PROXY_3_UNPOOLED", "SIRV", "VITE"]

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

import http from 'node:http'

const agent = {agent}
const proxy = httpProxy.createProxyServer({{ target: 'http://127.0.0.1:{backend_port}', ws: true, agent }})
proxy.on('error', () => {{}})
proxy.listen({port}, '127.0.0.1')
"""
# As for production: it knows its files from the start, and does not look at them again.
_SIRV = """
import http from 'node:http'
import sirv from 'sirv'

http.createServer(sirv('{site}', {{ etag: true }})).listen({port}, '127.0.0.1')
"""


async def _vite(folder: Path, port: int, backend_port: int) -> Sequence[str]:
    node = await _install(folder, "vite@8")
    (folder / "vite.config.mjs").write_text(_VITE.format(port=port, backend_port=backend_port), encoding="utf-8")
    return [node, "node_modules/vite/bin/vite.js"]


def _http_proxy_3(agent: str) -> Prepare:
    async def command(folder: Path, port: int, backend_port: int) -> Sequence[str]:
        node = await _install(folder, "http-proxy-3@2")
        text = _HTTP_PROXY_3.format(port=port, backend_port=backend_port, agent=agent)
        (folder / "proxy.mjs").write_text(text, encoding="utf-8")
        return [node, "proxy.mjs"]

    return command


async def _sirv(folder: Path, port: int, _: int) -> Sequence[str]:
    node = await _install(folder, "sirv@3")
    (folder / "server.mjs").write_text(_SIRV.format(port=port, site=SITE), encoding="utf-8")
    return [node, "server.mjs"]


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
HTTP_PROXY_3 = Peer("http-proxy-3", _http_proxy_3("undefined"))
HTTP_PROXY_3_POOLED = Peer("http-proxy-3", _http_proxy_3("new http.Agent({ keepAlive: true })"), HTTP)
"""Keeps its connections to the upstream."""
HTTP_PROXY_3_UNPOOLED = Peer("http-proxy-3 unpooled", HTTP_PROXY_3.command, HTTP)
"""Opens one for each request, as Vite 8 uses it where `server.proxy` names no agent."""
SIRV = Peer("sirv", _sirv, HTTP)
