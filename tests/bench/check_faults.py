"""The faults that `moorline check` must name, each with what injects it and words of the verdict that is right."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from moorline.gateway.check.address import HOP_TIMEOUT
from moorline.gateway.faults.provider import provider
from tests.bench.check import Asking, Case, Place, answer
from tests.bench.processes import free_port
from tests.support.backends import asking_backend, backend
from tests.support.certificates import certificate
from tests.support.database_states import filled, locked, read_only, small_disk
from tests.support.namespace import Machine, machine
from tests.support.needs import program
from tests.support.nginx import run
from tests.support.process import Program, started, started_command
from tests.support.proxies import haproxy, nginx_location
from tests.support.stack import SOCKET

__all__ = ["FAULTS", "PASSES_UPGRADES", "fastapi", "proxied", "tls"]

Made = Callable[[Place], AbstractAsyncContextManager[Asking]]

# The library of the provider tries twice more, and so does a database's client.
_PATIENT = 15.0
PASSES_UPGRADES = (
    "proxy_http_version 1.1;",
    "proxy_set_header Upgrade $http_upgrade;",
    'proxy_set_header Connection "upgrade";',
)


# The gateway and its process ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _gateway(
    place: Place, *options: str, upstream: str = "", files: int | None = None
) -> AsyncIterator[tuple[Program, str]]:
    arguments = ("gateway", "--host=127.0.0.1", "--port=0", f"--upstream={upstream or place.backend}", *options)
    async with started("moorline", *arguments, cwd=place.folder, files=files) as running:
        yield running, await running.page()


@contextlib.asynccontextmanager
async def _stopped_process(place: Place) -> AsyncIterator[Asking]:
    async with _gateway(place) as (running, url):
        running.send(signal.SIGSTOP)
        try:
            yield Asking(url)
        finally:
            running.send(signal.SIGCONT)


@contextlib.asynccontextmanager
async def _no_process(place: Place) -> AsyncIterator[Asking]:
    yield Asking(f"http://127.0.0.1:{free_port()}")


@contextlib.asynccontextmanager
async def _no_backend(place: Place) -> AsyncIterator[Asking]:
    backend_url = f"http://127.0.0.1:{free_port()}"
    async with _gateway(place, "--connect-retry=off", upstream=backend_url) as (_, url):
        yield Asking(url, backend_url)


@contextlib.asynccontextmanager
async def _no_descriptors(place: Place) -> AsyncIterator[Asking]:
    async with _gateway(place, files=64) as (_, url), contextlib.AsyncExitStack() as sockets:
        await _sockets(url, 64, sockets)
        yield Asking(url)


@contextlib.asynccontextmanager
async def _no_connections(place: Place) -> AsyncIterator[Asking]:
    async with _gateway(place, "--max-connections=1") as (_, url), contextlib.AsyncExitStack() as sockets:
        await _sockets(url, 1, sockets)
        yield Asking(url)


async def _sockets(url: str, count: int, sockets: contextlib.AsyncExitStack) -> None:
    """So many, or as many as it accepts."""
    with contextlib.suppress(OSError, InvalidHandshake):
        for number in range(count):
            opened = connect(f"{url.replace('http', 'ws')}{SOCKET}{number}", ping_interval=None, proxy=None)
            await sockets.enter_async_context(opened)


def _asked(path: str = "", **options: Any) -> Made:
    """The healthy gateway, asked like this."""

    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        yield Asking(place.gateway + path, options=options)

    return made


# Servers of other makes -----------------------------------------------------------------------------------------------

_APPLICATION = """
import os, signal, time
from fastapi import FastAPI, WebSocket

app = FastAPI()

@app.websocket("/ws/{{path:path}}")
async def chat(socket: WebSocket) -> None:
    {steps}
"""


def fastapi(*steps: str, behind: bool = False, **options: Any) -> Made:
    """A FastAPI application on uvicorn whose handler does this, asked directly or behind a gateway."""

    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        text = _APPLICATION.format(steps="\n    ".join(steps))
        (place.folder / "application.py").write_text(text, encoding="utf-8")
        port = free_port()
        async with started("uvicorn", "application:app", f"--port={port}", cwd=place.folder) as running:
            await running.line("Uvicorn running")
            # A handler that blocks the loop keeps it from ending in order.
            async with _killed(running):
                url = f"http://127.0.0.1:{port}"
                if not behind:
                    yield Asking(url.replace("http", "ws"), options={"path": "/ws/x", **options})
                    return
                async with _gateway(place, upstream=url) as (_, front):
                    yield Asking(front, None if options else url, options=options)

    return made


@contextlib.asynccontextmanager
async def _killed(running: Program) -> AsyncIterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.send(signal.SIGKILL)


def _websockets(*, message: bytes = b"first", offered: str = "", behind: bool = False, **options: Any) -> Made:
    """A server of the library websockets, which sends this first."""

    async def handle(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            await connection.send(message)
            await connection.wait_closed()

    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        async with serve(handle, "127.0.0.1", 0, **options) as server:
            headers = {"Sec-WebSocket-Protocol": offered} if offered else {}
            port = next(iter(server.sockets)).getsockname()[1]
            if not behind:
                yield Asking(f"ws://127.0.0.1:{port}/", options={"headers": headers})
                return
            async with _gateway(place, upstream=f"http://127.0.0.1:{port}") as (_, url):
                yield Asking(url, options={"path": "/ws/x"})

    return made


@contextlib.asynccontextmanager
async def _dropbear(place: Place) -> AsyncIterator[Asking]:
    port, key = free_port(), place.folder / "key"
    await run(program("dropbearkey"), "-t", "ed25519", "-f", str(key))
    command = (program("dropbear"), "-F", "-E", "-r", str(key), "-p", f"127.0.0.1:{port}", "-P", str(key) + ".pid")
    async with started_command(*command, cwd=place.folder) as running:
        await running.line("Not backgrounding")
        yield Asking(f"http://127.0.0.1:{port}")


@contextlib.asynccontextmanager
async def _redis(place: Place) -> AsyncIterator[Asking]:
    port = free_port()
    command = (program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "")
    async with started_command(*command, cwd=place.folder) as running:
        await running.line("Ready to accept connections")
        yield Asking(f"http://127.0.0.1:{port}")


@contextlib.asynccontextmanager
async def _web_server(place: Place) -> AsyncIterator[Asking]:
    async with nginx_location(place.folder, place.gateway, "return 200 'another site';") as url:
        yield Asking(url)


# Proxies --------------------------------------------------------------------------------------------------------------


def proxied(
    proxy: Callable[..., AbstractAsyncContextManager[str]], *lines: str, backend_too: bool = False, **options: Any
) -> Made:
    """The gateway behind a real proxy with these lines of configuration."""

    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        async with proxy(place.folder, place.gateway, *lines) as url:
            yield Asking(url, place.backend if backend_too else None, options=options)

    return made


@contextlib.asynccontextmanager
async def _buffering(place: Place) -> AsyncIterator[Asking]:
    port, server = free_port(), place.gateway.removeprefix("http://")
    relay = f"socat - TCP:{server} | dd obs=64k status=none".replace(":", r"\:")
    command = (program("socat"), "-d", "-d", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", f"SYSTEM:{relay}")
    async with started_command(*command, cwd=place.folder) as running:
        await running.line("listening on")
        yield Asking(f"ws://127.0.0.1:{port}{SOCKET}")


@contextlib.asynccontextmanager
async def _buffering_frames(place: Place) -> AsyncIterator[Asking]:
    server = urlsplit(place.gateway)
    proxy = ("tests.support.buffering_proxy", str(server.hostname), str(server.port), str(64 << 10), "40")
    async with started(*proxy, cwd=place.folder) as running:
        # As patient as the command is.
        yield Asking((await running.line("passing")).split()[1], patience=HOP_TIMEOUT)


def _hop(fault: str, **parameters: object) -> Made:
    """A fault of the catalogue before the gateway."""

    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        hop = ("tests.support.hop", place.gateway, fault, *(f"{name}={value}" for name, value in parameters.items()))
        async with started(*hop, cwd=place.folder) as running:
            yield Asking((await running.line("passing")).split()[1])

    return made


@contextlib.asynccontextmanager
async def _tls_behind(place: Place) -> AsyncIterator[Asking]:
    """A gateway that takes a port with TLS for a plain one."""
    async with (
        tls("localhost")(place) as server,
        _gateway(place, "--connect-retry=off", upstream=server.url.replace("https", "http")) as (_, url),
    ):
        yield Asking(url)


# TLS ------------------------------------------------------------------------------------------------------------------


def tls(name: str, *, scheme: str = "https", expired: bool = False, trusted: bool = True) -> Made:
    """A gateway that speaks TLS with a certificate of this name."""

    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        made = await certificate(place.folder, name, expired=expired)
        options = (f"--tls-certificate={made.file}", f"--tls-certificate-key={made.key}")
        async with _gateway(place, *options) as (_, url):
            environ = {"SSL_CERT_FILE": str(made.file)} if trusted else {"SSL_CERT_FILE": os.devnull}
            yield Asking(f"{scheme}://localhost:{url.rpartition(':')[2]}", environ=environ)

    return made


@contextlib.asynccontextmanager
async def _tls_to_plain(place: Place) -> AsyncIterator[Asking]:
    yield Asking(place.gateway.replace("http", "wss"))


# Networks -------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _echoing_there(place: Place) -> AsyncIterator[tuple[Machine, str]]:
    """A server of another make on another machine."""
    with machine() as far:
        peer = ("tests.support.websocket_peer", "serve", far.its)
        async with started(*peer, cwd=place.folder, under=far.run) as running:
            port = (await running.line("serving")).split()[1]
            yield far, f"ws://{far.its}:{port}/"


_NFT_RULES = """
table inet check {{
    chain input {{
        type filter hook input priority 0;
        ip saddr {} {}
    }}
}}
"""


def _firewall(verdict: str) -> Made:
    """A rule of the other machine's firewall."""

    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        async with _echoing_there(place) as (far, url):
            _nft(far, verdict)
            yield Asking(url)

    return made


def _nft(far: Machine, verdict: str) -> None:
    rules = _NFT_RULES.format(far.ours, verdict)
    subprocess.run([*far.run, program("nft"), "-f", "-"], input=rules.encode(), check=True)


@contextlib.asynccontextmanager
async def _firewall_forgets(place: Place) -> AsyncIterator[Asking]:
    """The rule comes while the socket is silent."""
    async with _echoing_there(place) as (far, url):
        later = asyncio.get_running_loop().call_later(1.0, _nft, far, "drop")
        try:
            yield Asking(url, options={"idle": 2.0})
        finally:
            later.cancel()


@contextlib.asynccontextmanager
async def _vanished(place: Place) -> AsyncIterator[Asking]:
    async with _echoing_there(place) as (far, url):
        far.vanish()
        yield Asking(url)


def _offline(url: str) -> Made:
    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        with machine() as far:
            yield Asking(url, under=far.run)

    return made


def _named(url: str) -> Made:
    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        yield Asking(url)

    return made


# Databases ------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _full(place: Place) -> AsyncIterator[Asking]:
    folder = place.folder / "disk"
    with small_disk(folder):
        async with backend(folder, answer) as part:
            filled(folder)
            yield Asking(part.http, patience=_PATIENT)


def _postgres(state: Callable[[str], contextlib.AbstractContextManager[None]]) -> Made:
    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        url = place.postgres().new_database()
        async with backend(place.folder, answer, database=url) as part:
            with state(url):
                yield Asking(part.http, patience=_PATIENT)

    return made


@contextlib.asynccontextmanager
async def _postgres_down(place: Place) -> AsyncIterator[Asking]:
    server = place.postgres()
    async with backend(place.folder, answer, database=server.new_database()) as part:
        server.stop()
        try:
            yield Asking(part.http, patience=_PATIENT)
        finally:
            server.start()


# Providers ------------------------------------------------------------------------------------------------------------


def _provider(fault: str, patience: float = _PATIENT) -> Made:
    @contextlib.asynccontextmanager
    async def made(place: Place) -> AsyncIterator[Asking]:
        async with provider() as model, model.faults.arm(fault), asking_backend(place.folder, model.base_url) as part:
            yield Asking(part.http, patience=patience)

    return made


@contextlib.asynccontextmanager
async def _provider_down(place: Place) -> AsyncIterator[Asking]:
    async with asking_backend(place.folder, f"http://127.0.0.1:{free_port()}/v1") as part:
        yield Asking(part.http, patience=_PATIENT)


@contextlib.asynccontextmanager
async def _no_key(place: Place) -> AsyncIterator[Asking]:
    async with started("moorline", "backend", "--port=0", cwd=place.folder) as running:
        line = await running.line("backend", "http://")
        yield Asking(next(word for word in line.split() if word.startswith("http://")), patience=_PATIENT)


# The list -------------------------------------------------------------------------------------------------------------


_STRIPPED = ("HTTP 4", "a proxy in front strips Upgrade", "proxy_set_header Upgrade $http_upgrade")
_CUT = ("the silent socket was cut", "ends sockets that are silent", "proxy_read_timeout")
_DATABASE = "the database is"
_TO_HANDSHAKES = "nginx, to handshakes alone"
_CATALOGUE = "a hop of the fault catalogue, a process of its own"
_NFT = ("ip", "nft")


def _refused(status: int) -> Made:
    return proxied(nginx_location, f"if ($http_upgrade) {{ return {status}; }}")


FAULTS: Sequence[Case] = (
    Case("not running", "a port without a process", _no_process, "TCP", ("refused", "not running", "start it")),
    Case("backend not running", "a port without a process behind a gateway", _no_backend, "TCP",
         ("refused", "the backend is down", "moorline backend")),
    Case("hung before the handshake", "SIGSTOP", _stopped_process, "HTTP", ("no answer in time", "hangs", "its log")),
    Case("hung in the handshake", "FastAPI that sleeps before accept",
         fastapi("time.sleep(60)"), "upgrade", ("no answer in time", "does not answer the handshake", "log")),
    Case("hung after the handshake", "FastAPI that sleeps after accept",
         fastapi("await socket.accept()", "time.sleep(60)"), "upgrade", ("no Pong", "hangs after", "look at its log")),
    Case("hung after the question", "FastAPI behind a gateway that sleeps when it is asked",
         fastapi("await socket.accept()", "await socket.receive_text()", "time.sleep(60)", behind=True),
         "HTTP", ("no answer in time", "hangs", "its log")),
    Case("401 to the handshake", "nginx, auth_basic",
         proxied(nginx_location, "location /ws/ { auth_basic x; auth_basic_user_file none; }"), "upgrade",
         ("HTTP 401", "credentials", "--header")),
    Case("403 to the handshake", "nginx, deny all", proxied(nginx_location, "location /ws/ { deny all; }"), "upgrade",
         ("HTTP 403", "with and without Origin", "rules")),
    Case("403 of a framework", "FastAPI that closes before accept", fastapi("await socket.close()"), "upgrade",
         ("HTTP 403", "with and without Origin", "rules")),
    Case("404 to the handshake", _TO_HANDSHAKES, _refused(404), "upgrade", ("HTTP 404", "wrong path", "/ws/")),
    Case("429 to the handshake", _TO_HANDSHAKES, _refused(429), "upgrade", ("HTTP 429", "a limit", "wait")),
    Case("500 to the handshake", "FastAPI that raises before accept", fastapi("raise RuntimeError"), "upgrade",
         ("HTTP 500", "handler of the handshake failed", "traceback")),
    Case("503 to the handshake", _TO_HANDSHAKES, _refused(503), "upgrade", ("HTTP 503", "a limit", "max_connections")),
    Case("200 to the handshake", "nginx, a page for every path",
         proxied(nginx_location, "location /ws/ { default_type text/html; return 200 page; }"), "upgrade",
         ("HTTP 200", "no WebSocket is served at this path", "--path")),
    Case("wrong path", "a path that nothing serves", _asked("/wrong/path"), "HTTP", ("wrong path", "check the host")),
    Case("Origin refused", "a page of another origin", _asked(origin="https://elsewhere.example"), "upgrade",
         ("because of its Origin", "--allowed-origins")),
    Case("Host refused", "another Host", _asked(headers={"Host": "elsewhere.example"}), "HTTP",
         ("HTTP 421", "allowed_hosts", "--allowed-hosts")),
    Case("reset mid-frame", f"{_CATALOGUE}, RST", _hop("reset", after_bytes=10), "first answer",
         ("reset (in the middle of a frame)", "killed", "log")),
    Case("end mid-frame", f"{_CATALOGUE}, FIN", _hop("cut_mid_frame", after_bytes=7), "first answer",
         ("in the middle of a frame", "crashed or was killed", "log")),
    Case("killed", "FastAPI that is killed by SIGKILL",
         fastapi("await socket.accept()", "os.kill(os.getpid(), signal.SIGKILL)"), "upgrade",
         ("reset", "process was killed", "log")),
    Case("end without Close", f"{_CATALOGUE}, FIN", _hop("fin", after_bytes=7), "first answer",
         ("without a Close frame", "process ended", "log")),
    Case("no frames", f"{_CATALOGUE}, reserved bits", _hop("bad_frame", after_bytes=7), "first answer",
         ("reserved", "no WebSocket frame", "--backend")),
    Case("vanished", "a namespace whose cable is down", _vanished, "TCP",
         ("no answer in time", "a firewall drops the packets, or no host", "check the address"), ("ip",)),
    Case("vanished after the question", f"{_CATALOGUE}, nothing passes", _hop("vanish", after_bytes=7), "first answer",
         ("no Pong", "it is not the model", "--backend")),
    Case("Upgrade stripped, nginx", "nginx without proxy_set_header Upgrade",
         proxied(nginx_location, backend_too=True), "upgrade", _STRIPPED, ("nginx",)),
    Case("Upgrade stripped, HAProxy", "HAProxy, del-header Upgrade",
         proxied(haproxy, "http-request del-header Upgrade", "http-request del-header Connection", backend_too=True),
         "upgrade", _STRIPPED, ("haproxy",)),
    Case("idle cut, nginx", "proxy_read_timeout 3s",
         proxied(nginx_location, *PASSES_UPGRADES, "proxy_read_timeout 3s;", idle=10.0),
         "idle", _CUT, ("nginx",), seconds=3),
    Case("idle cut, HAProxy", "timeout tunnel 3s", proxied(haproxy, "timeout tunnel 3s", idle=10.0), "idle", _CUT,
         ("haproxy",), seconds=3),
    Case("idle forgotten by a firewall", "nft drop while the socket is silent", _firewall_forgets, "idle",
         ("no Pong came", "firewall", "client_heartbeat"), _NFT),
    Case("a proxy that buffers", "socat and dd obs=64k", _buffering, "HTTP",
         ("only when the connection was to end", "buffers", "proxy_buffering off"), ("socat",)),
    Case("a proxy that buffers frames", "a proxy that holds 64 KiB or 40 s behind the 101, a process of its own",
         _buffering_frames, "upgrade", ("no Pong came", "buffers", "proxy_buffering off")),
    Case("TLS to a plain port", "wss:// to a gateway without TLS", _tls_to_plain, "HTTP",
         ("speaks no TLS", "plain HTTP", "http://")),
    Case("plain to a TLS port, by a gateway", "a gateway whose upstream is a gateway with TLS", _tls_behind, "HTTP",
         ("the server behind this one speaks TLS", "upstream", "--upstream")),
    Case("plain to a TLS port", "http:// to a gateway with TLS", tls("localhost", scheme="http"), "HTTP",
         ("this port speaks TLS", "https://")),
    Case("certificate expired", "openssl", tls("localhost", expired=True), "HTTP", ("has expired", "renew")),
    Case("certificate of another name", "openssl", tls("elsewhere.example"), "HTTP",
         ("for another name", "use the name")),
    Case("certificate not trusted", "openssl", tls("localhost", trusted=False), "HTTP",
         ("does not trust", "self-signed", "SSL_CERT_FILE")),
    Case("another HTTP service", "nginx with a site of its own", _web_server, "HTTP",
         ("not moorline", "another server", "check the host"), ("nginx",)),
    Case("no HTTP: SSH", "dropbear", _dropbear, "HTTP", ("an SSH server", "another program", "port"), ("dropbear",)),
    Case("no HTTP: Redis", "redis-server", _redis, "HTTP", ("a Redis server", "another program", "port"),
         ("redis-server",)),
    Case("name unknown", "a name of .invalid", _named("https://chat.invalid"), "name",
         ("has no address", "misspelt", "check the address")),
    Case("wrong Sec-WebSocket-Accept", _CATALOGUE, _hop("wrong_accept"), "upgrade",
         ("another key's", "a cache or a proxy", "--backend")),
    Case("subprotocol refused", "websockets, which knows another",
         _websockets(subprotocols=["chat"], offered="other"), "upgrade", ("HTTP 400", "subprotocol", "--header")),
    Case("subprotocol ignored", "websockets, which knows none", _websockets(offered="other"), "upgrade",
         ("selected none of other", "different subprotocols", "offer what")),
    Case("frame too large", "websockets, 17 MiB", _websockets(message=bytes(17 << 20)), "upgrade",
         ("too large", "max_frame_size", "send less")),
    Case("frame too large, behind a gateway", "websockets, 17 MiB", _websockets(message=bytes(17 << 20), behind=True),
         "upgrade", ("the gateway's cause is US-", "into one message", "--max-frame-size")),
    Case("database locked", "LOCK TABLE", _postgres(locked), "HTTP",
         (f"{_DATABASE} locked", "holds a lock", "pg_locks"), ("postgres",)),
    Case("database read-only", "default_transaction_read_only", _postgres(read_only), "first answer",
         (f"{_DATABASE} read-only", "accepts no writes", "--database"), ("postgres",)),
    Case("database full", "a file system of 4 MiB", _full, "first answer",
         (f"{_DATABASE} full", "disk", "free space"), ("mount",)),
    Case("database down", "PostgreSQL, stopped", _postgres_down, "HTTP",
         (f"{_DATABASE} down", "cannot be reached", "start the database"), ("postgres",)),
    Case("key missing", "no OPENAI_API_KEY", _no_key, "", ("OPENAI_API_KEY is not set", "set it")),
    Case("key wrong", "a provider's 401", _provider("provider_401"), "first answer",
         ("llm_misconfigured", "refused the key", "OPENAI_API_KEY")),
    Case("quota used up", "a provider's 429 insufficient_quota", _provider("provider_quota"), "first answer",
         ("llm_busy", "quota", "account")),
    Case("model unknown", "a provider's 404", _provider("provider_404"), "first answer",
         ("llm_misconfigured", "does not know the model", "--model")),
    Case("model stalls", "a provider that sends nothing more", _provider("provider_stall", 1.0), "first answer",
         ("no answer in time", "no answer from the model", "OPENAI_BASE_URL")),
    Case("provider fails", "a provider's 500", _provider("provider_500"), "first answer",
         ("llm_unavailable", "OPENAI_BASE_URL")),
    Case("provider down", "a port without a process", _provider_down, "first answer",
         ("llm_unavailable", "cannot be reached", "OPENAI_BASE_URL")),
    Case("descriptors used up", "ulimit -n 64 and open sockets", _no_descriptors, "HTTP",
         ("HTTP 503", "limit of open files", "raise it")),
    Case("max_connections used up", "--max-connections 1 and a socket", _no_connections, "upgrade",
         ("HTTP 503", "limit", "raise it")),
    Case("client offline", "a namespace without a route", _offline("http://203.0.113.1:4321"), "TCP",
         ("no network", "connect this machine"), ("ip",)),
    Case("client offline, by name", "a namespace without DNS", _offline("wss://chat.example.com"), "name",
         ("no DNS server answers", "offline", "check this machine's connection"), ("ip",)),
    Case("a firewall drops", "nft drop", _firewall("drop"), "TCP",
         ("no answer in time", "a firewall drops the packets", "firewall's rules"), _NFT),
    Case("a firewall rejects", "nft reject with icmp admin-prohibited",
         _firewall("reject with icmp type admin-prohibited"), "TCP", ("no route", "a firewall rejects", "same network"),
         _NFT),
)  # fmt: skip
