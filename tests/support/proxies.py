"""Real proxies in front of one server, as people run them: nginx and HAProxy, with what a test adds to their files."""

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support import nginx
from tests.support.needs import program

__all__ = ["haproxy", "nginx_location"]

_NGINX = """
    access_log off;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {upstream};
            proxy_set_header Host $http_host;
            {lines}
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
    with nginx.listener() as listener:
        port = listener.getsockname()[1]
        text = nginx.configuration(folder, _NGINX.format(port=port, upstream=upstream, lines="\n".join(lines)))
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        async with nginx.running(folder, [listener]):
            yield f"http://127.0.0.1:{port}"


@contextlib.asynccontextmanager
async def haproxy(folder: Path, upstream: str, *lines: str) -> AsyncIterator[str]:
    """The address of a HAProxy before `upstream`, with these lines for its backend."""
    with nginx.listener() as listener:
        server = upstream.removeprefix("http://")
        text = _HAPROXY.format(listener=listener.fileno(), upstream=server, lines="\n    ".join(lines))
        (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
        with (folder / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")),
                pass_fds=[listener.fileno()],
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
            )
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            await nginx.stop(process)
            said = (folder / "output").read_text(encoding="utf-8")
            assert "[ALERT]" not in said or "config" not in said, said
