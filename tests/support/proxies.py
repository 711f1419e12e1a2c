"""Real proxies in front of one server, as people run them: nginx and HAProxy, with what a test adds to their files."""

import asyncio
import contextlib
import os
import socket
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.support.needs import program
from tests.support.nginx import stop

__all__ = ["haproxy", "nginx_location"]

_NGINX = """
{user}
worker_processes 1;
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream};
            proxy_set_header Host $http_host;
            {lines}
        }}
    }}
}}
"""
_HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
frontend page
    bind fd@{listener}
    default_backend chat
backend chat
    {lines}
    server one {upstream}
"""


@contextlib.asynccontextmanager
async def nginx_location(folder: Path, upstream: str, *lines: str) -> AsyncIterator[str]:
    """The address of an nginx whose one location passes everything to `upstream`, with these lines."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        user = "user root;" if os.geteuid() == 0 else ""
        text = _NGINX.format(user=user, folder=folder, port=port, upstream=upstream, lines="\n".join(lines))
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        where = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
        command = [program("nginx"), *where, "-g", "daemon off;"]
        # nginx takes listeners over from the process that starts it: clients may connect before it is up.
        async with _running(command, folder, listener, {"NGINX": f"{listener.fileno()};"}):
            yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def haproxy(folder: Path, upstream: str, *lines: str) -> AsyncIterator[str]:
    """The address of a HAProxy before `upstream`, with these lines for its backend."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = upstream.removeprefix("http://")
        text = _HAPROXY.format(listener=listener.fileno(), upstream=server, lines="\n    ".join(lines))
        (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
        async with _running([program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")], folder, listener, {}):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def _running(
    command: Sequence[str], folder: Path, listener: socket.socket, environ: dict[str, str]
) -> AsyncIterator[None]:
    with (folder / "output").open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={**os.environ, **environ},
            pass_fds=[listener.fileno()],
            stdin=DEVNULL,
            stdout=output,
            stderr=STDOUT,
        )
    try:
        yield
    finally:
        await stop(process)
        said = (folder / "output").read_text(encoding="utf-8")
        assert "[emerg]" not in said, said
        assert "[ALERT]" not in said or "config" not in said, said
