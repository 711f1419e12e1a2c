"""A real nginx with the configuration of nginx/, on free loopback ports, as a process of its own."""

import asyncio
import contextlib
import dataclasses
import os
import shutil
import socket
import ssl
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.support.needs import program

__all__ = ["NAME", "SOURCE", "Nginx", "check", "configuration", "listener", "nginx", "run", "running", "stop", "write"]

SOURCE = Path(__file__).parents[2] / "nginx"
NAME = "chat.example.com"
_LOG = "/var/log/nginx"
_BY_GATEWAY = "include moorline/page-from-gateway.conf;"
_BY_FOLDER = "include moorline/page-from-folder.conf;"
_STOP_SECONDS = 10.0

_MAIN = """
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{main}
events {{ worker_connections {connections}; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {http}
}}
"""
# What Debian's nginx.conf has around conf.d/.
_DEBIAN = """
    include /etc/nginx/mime.types;
    include conf.d/*.conf;
    # For a balancer in front that ended TLS: chat.conf with a plain listener.
    server {{
        listen 127.0.0.1:{plain};
        include moorline/chat.conf;
        {page}
    }}
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Nginx:
    """Where it listens, and what it wrote."""

    plain: str
    """The chat without TLS."""
    redirect: str
    """The listener that redirects every request to TLS."""
    tls: str
    folder: Path

    def trust(self) -> ssl.SSLContext:
        """What lets a client trust the certificate of this nginx alone."""
        return ssl.create_default_context(cafile=str(self.folder / "cert.pem"))

    def log(self) -> str:
        """All that it logged so far."""
        return "".join(
            (self.folder / name).read_text(encoding="utf-8") for name in ("moorline.log", "moorline-error.log")
        )


@contextlib.asynccontextmanager
async def nginx(folder: Path, upstream: str, *, root: Path | None = None) -> AsyncIterator[Nginx]:
    """Run it in front of `upstream`, an address or a block of configuration, with the page from there or from the
    folder `root`.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(listener()) for _ in range(3)]
        plain, redirect, tls = ports = [each.getsockname()[1] for each in sockets]
        await write(folder, ports, upstream, root=root)
        async with running(folder, sockets):
            yield Nginx(f"http://127.0.0.1:{plain}", f"http://127.0.0.1:{redirect}", f"https://127.0.0.1:{tls}", folder)


def configuration(folder: Path, http: str, *, main: str = "", connections: int = 64) -> str:
    """An nginx.conf with `http` in its http block, `main` outside, and all files that nginx writes in `folder`."""
    user = "user root;" if os.geteuid() == 0 else ""
    return _MAIN.format(user=user, folder=_token(folder), main=main, connections=connections, http=http)


def listener() -> socket.socket:
    """A free loopback port for `running`."""
    return socket.create_server(("127.0.0.1", 0))


@contextlib.asynccontextmanager
async def running(folder: Path, sockets: Sequence[socket.socket]) -> AsyncIterator[asyncio.subprocess.Process]:
    """nginx with the nginx.conf in `folder`.

    It takes listening sockets over from the process that starts it, as from its older version. So the ports are bound
    from the start, and clients may connect before it is up. The sockets are closed here as soon as it has them.
    """
    inherited = [each.fileno() for each in sockets]
    for each in sockets:
        each.setblocking(False)
    with (folder / "error.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *_command(folder),
            env={**os.environ, "NGINX": "".join(f"{number};" for number in inherited)},
            pass_fds=inherited,
            stdin=DEVNULL,
            stdout=log,
            stderr=log,
        )
    for each in sockets:
        each.close()
    try:
        yield process
    finally:
        await stop(process)
        assert "[emerg]" not in (said := (folder / "error.log").read_text(encoding="utf-8")), said


async def write(folder: Path, ports: Sequence[int], upstream: str, *, root: Path | None = None) -> None:
    """Lay out `folder` as /etc/nginx: the files of nginx/ with the ports, the upstream and the paths of a test."""
    plain, redirect, tls = ports
    shutil.copytree(SOURCE / "moorline", folder / "moorline")
    (folder / "conf.d").mkdir()
    page = _BY_FOLDER if root else _BY_GATEWAY
    text = configuration(folder, _DEBIAN.format(plain=plain, page=page), connections=4096)
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    site = {
        "listen 80;": f"listen 127.0.0.1:{redirect};",
        "listen [::]:80;": "",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{tls} ssl http2;",
        "listen [::]:443 ssl http2;": "",
        f"/etc/letsencrypt/live/{NAME}/fullchain.pem": _token(folder / "cert.pem"),
        f"/etc/letsencrypt/live/{NAME}/privkey.pem": _token(folder / "key.pem"),
        _LOG: _token(folder),
        _BY_GATEWAY: page,
    }
    _rewrite(SOURCE / "moorline.conf", folder / "conf.d" / "moorline.conf", site)
    target = folder / "moorline/upstream.conf"
    if upstream.startswith("upstream "):
        target.write_text(upstream, encoding="utf-8")
    else:
        gateway = {"server 127.0.0.1:4321;": f"server {upstream.removeprefix('http://')};"}
        _rewrite(SOURCE / "moorline/upstream.conf", target, gateway)
    _rewrite(SOURCE / "moorline/chat.conf", folder / "moorline/chat.conf", {_LOG: _token(folder)})
    if root:
        name = "moorline/page-from-folder.conf"
        _rewrite(SOURCE / name, folder / name, {"/usr/share/moorline/frontend": _token(root)})
    await _certificate(folder)


async def run(*command: str) -> str:
    """What a command printed; an AssertionError with it where the command failed."""
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def check(folder: Path) -> str:
    """`nginx -t` on what `write` laid out."""
    return await run(*_command(folder), "-t")


def _command(folder: Path) -> list[str]:
    where = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    return [program("nginx"), *where, "-g", "daemon off;"]


def _token(path: Path) -> str:
    """As one argument of a directive: TMPDIR may have a space."""
    return str(path).replace(" ", "\\ ")


def _rewrite(source: Path, target: Path, changes: dict[str, str]) -> None:
    text = source.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, f"{source.name} has no {old!r}"
        text = text.replace(old, new)
    target.write_text(text, encoding="utf-8")


async def _certificate(folder: Path) -> None:
    names = f"subjectAltName=DNS:{NAME},DNS:localhost,IP:127.0.0.1"
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(folder / "key.pem")]
    subject = ["-subj", f"/CN={NAME}", "-addext", names]
    await run(program("openssl"), "req", "-x509", *key, "-days", "2", *subject, "-out", str(folder / "cert.pem"))


async def stop(process: asyncio.subprocess.Process) -> None:
    """End it, by force where it does not end by itself."""
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
