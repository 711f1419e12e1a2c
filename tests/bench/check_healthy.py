"""Set-ups that work, which `moorline check` must report as healthy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from moorline.backend.responder import Piece, Turn
from tests.bench.check import Asking, Case, Place, answer
from tests.bench.check_faults import PASSES_UPGRADES, fastapi, proxied, tls
from tests.support.engine import QUERY, engine
from tests.support.gateway_process import echo_server
from tests.support.nginx import NAME, nginx
from tests.support.proxies import haproxy, nginx_location
from tests.support.stack import stack

__all__ = ["HEALTHY"]

_BEHIND_PROXY: Mapping[str, Any] = {"trusted_proxies": ("127.0.0.1/32",), "allowed_hosts": (NAME,)}
_THINKING = 0.5
_SILENCE = {"idle": 0.5}


@contextlib.asynccontextmanager
async def _moorline(place: Place) -> AsyncIterator[Asking]:
    yield Asking(place.gateway, place.backend, options=_SILENCE)


@contextlib.asynccontextmanager
async def _behind_nginx(place: Place) -> AsyncIterator[Asking]:
    folder = place.folder / "nginx"
    folder.mkdir()
    options = dict(_BEHIND_PROXY)
    async with (
        stack(place.folder, gateway=options, backend_options=options, responder=answer) as parts,
        nginx(folder, parts.gateway) as front,
    ):
        yield Asking(front.plain, parts.backend, options=_SILENCE)


@contextlib.asynccontextmanager
async def _ipv6(place: Place) -> AsyncIterator[Asking]:
    async with stack(place.folder, gateway={"host": "::1"}, responder=answer) as parts:
        yield Asking(parts.gateway, parts.backend)


@contextlib.asynccontextmanager
async def _under_a_path(place: Place) -> AsyncIterator[Asking]:
    lines = (f"location /clinic/ {{ proxy_pass {place.gateway}/;", "proxy_set_header Host $http_host;")
    async with proxied(nginx_location, *lines, *PASSES_UPGRADES, "}")(place) as asking:
        yield Asking(f"{asking.url}/clinic", place.backend)


@contextlib.asynccontextmanager
async def _slow_model(place: Place) -> AsyncIterator[Asking]:
    async def slow(turn: Turn) -> AsyncIterator[Piece]:
        await asyncio.sleep(_THINKING)  # how long this model thinks
        yield "Good."

    async with stack(place.folder, responder=slow) as parts:
        yield Asking(parts.gateway, parts.backend, patience=10 * _THINKING)


@contextlib.asynccontextmanager
async def _echo(place: Place) -> AsyncIterator[Asking]:
    async with echo_server() as url:
        yield Asking(url.replace("http", "ws"), options=_SILENCE)


@contextlib.asynccontextmanager
async def _engine(place: Place) -> AsyncIterator[Asking]:
    async with engine() as url:
        yield Asking(url + QUERY, options=_SILENCE)


_ECHOES = (
    "await socket.accept()",
    "while True: await socket.send_text(await socket.receive_text())",
)
HEALTHY: Sequence[Case] = (
    Case("moorline", "both parts", _moorline),
    Case("FastAPI behind moorline", "uvicorn", fastapi(*_ECHOES, behind=True, path="/ws/x", **_SILENCE)),
    Case("behind nginx", "the files of nginx/", _behind_nginx, needs=("nginx", "openssl")),
    Case("TLS", "a gateway with tls_certificate", tls("localhost"), needs=("openssl",)),
    Case("IPv6 only", "a gateway on ::1", _ipv6),
    Case("path prefix", "nginx, location /clinic/", _under_a_path, needs=("nginx",)),
    Case("slow model", "a model that thinks", _slow_model),
    Case("HTTP proxy in between", "HAProxy", proxied(haproxy, backend_too=True, **_SILENCE), needs=("haproxy",)),
    Case("foreign echo server", "websockets", _echo),
    Case("a server that wants a path and a query", "aiohttp, as Socket.IO's", _engine),
)
