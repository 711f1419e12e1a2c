"""What a test's gateway stands before: an aiohttp application, an ASGI application, or a server that runs already."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiohttp import web

from moorline.gateway.common.errors import UsageError

if TYPE_CHECKING:
    import uvicorn

__all__ = ["ASGIApp", "Upstream", "serving"]

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
Upstream = web.Application | ASGIApp | str

_HOST = "127.0.0.1"
# For requests that are under way when a test ends.
_SHUTDOWN_SECONDS = 0.5


@contextlib.asynccontextmanager
async def serving(upstream: Upstream) -> AsyncIterator[tuple[str, int]]:
    """Host and port of the upstream, started where it is an application.

    Raises:
        UsageError: it is neither an application nor an address, or uvicorn is missing, or the application does not
            start.
    """
    if isinstance(upstream, str):
        yield _address(upstream)
        return
    if isinstance(upstream, web.Application):
        started = _aiohttp_app(upstream)
    elif callable(upstream):
        started = _asgi_app(upstream)
    else:
        raise UsageError(f"upstream: {type(upstream).__name__} is no aiohttp or ASGI application and no address")
    async with started as port:
        yield _HOST, port


def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        parts, host, port = urlsplit(""), None, 0
    if parts.scheme != "http" or host is None or parts.path not in ("", "/"):
        raise UsageError(f'upstream: "{url}" is not an address; write for example http://127.0.0.1:8000')
    return host, port


@contextlib.asynccontextmanager
async def _aiohttp_app(app: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, _HOST, 0).start()
        port: int = runner.addresses[0][1]
        yield port
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _asgi_app(app: ASGIApp) -> AsyncIterator[int]:
    try:
        import uvicorn
    except ImportError:
        raise UsageError(
            "upstream: an ASGI application is served by uvicorn, which is not installed; "
            "pip install 'uvicorn[standard]', or give the address of a server that runs"
        ) from None
    with socket.socket() as sock:
        sock.bind((_HOST, 0))
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=1, ws_ping_interval=None
        )
        server, ready = _server(config)
        serving_app = asyncio.create_task(server.serve([sock]))
        try:
            await asyncio.wait((serving_app, asyncio.ensure_future(ready)), return_when=asyncio.FIRST_COMPLETED)
            if serving_app.done():
                await serving_app
            yield sock.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.gather(serving_app, return_exceptions=True)


def _server(config: "uvicorn.Config") -> "tuple[uvicorn.Server, asyncio.Future[None]]":
    """uvicorn without its signal handlers, which are the test runner's, and what is done once it serves."""
    import uvicorn

    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Server(uvicorn.Server):
        def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
            return contextlib.nullcontext()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            try:
                await super().startup(sockets)
            except SystemExit:
                # It would end the loop, and with it all tests.
                raise UsageError("upstream: the ASGI application failed to start; see its lifespan's error") from None
            ready.set_result(None)

    return Server(config), ready
