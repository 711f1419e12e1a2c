"""The two that are compared, each as one process: nginx with a server for each row, and a gateway for each row."""

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moorline.gateway.common.config.options import specs
from moorline.gateway.settings import Settings
from tests.differential.table import Row
from tests.support.nginx import configuration, listener, running

__all__ = ["DEFAULTS", "PROFILE", "gateways", "nginx"]

# A handshake that is held while the backend is unreachable has an instant of its own.
_NOT_HELD: Mapping[str, Any] = {"connect_retry": None} if "connect_retry" in specs(Settings) else {}
DEFAULTS: Mapping[str, Any] = {
    "client_heartbeat": None,
    "upstream_heartbeat": None,
    "upstream_keepalive": None,
    **_NOT_HELD,
}
"""The gateway's. A Ping is an event and would set nginx's timers anew: a test of the instants has to do without. nginx
keeps no connection to an upstream unless `keepalive` asks for it."""
PROFILE: Mapping[str, Any] = {**DEFAULTS, "close_frames": False, "max_frame_size": None, "handshake_timeout": None}
"""nginx's own behaviour."""

_ROOT = Path(__file__).parents[2]
_STOP_SECONDS = 10.0

_HTTP = """
    access_log off;
    server_tokens off;
    proxy_http_version 1.1;
    # As in most guides; the product's own configuration in nginx/ passes $http_host on.
    proxy_set_header Host $host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection upgrade;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
"""
_SERVER = """
    server {{
        listen 127.0.0.1:{port};
        {timers}
        location /ws/ {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
"""


@contextlib.asynccontextmanager
async def nginx(
    folder: Path, rows: Sequence[tuple[Row[Any], int]], *, main: str = "", connections: int = 4096
) -> AsyncIterator[tuple[Process, list[int]]]:
    """Run it in an empty folder with a server for each row and the port of its backend; the servers' ports."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listener()) for _ in rows]
        ports = [each.getsockname()[1] for each in sockets]
        servers = "".join(
            _SERVER.format(port=port, upstream=upstream, timers=_directives(row.options))
            for (row, upstream), port in zip(rows, ports, strict=True)
        )
        text = configuration(folder, _HTTP + servers, main=main, connections=connections)
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        async with running(folder, sockets) as process:
            yield process, ports


@contextlib.asynccontextmanager
async def gateways(rows: Sequence[tuple[Row[Any], int]], profile: Mapping[str, Any]) -> AsyncIterator[list[int]]:
    """The same with gateways, started by `tests.differential.gateways`."""
    options = [{**row.options, **profile, "upstream": [f"http://127.0.0.1:{upstream}"]} for row, upstream in rows]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.differential.gateways"), cwd=_ROOT, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(options).encode() + b"\n")
        yield json.loads(await process.stdout.readline())
    finally:
        process.stdin.close()
        await _ended(process)


async def _ended(process: Process) -> None:
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _directives(options: Mapping[str, float]) -> str:
    return " ".join(f"{name} {round(seconds * 1000)}ms;" for name, seconds in options.items())
