"""What the fixture `moorline` offers: gateways before a test's own application, and a model's server behind it."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from moorline.gateway.common.collection import no_collection
from moorline.gateway.faults.catalogue import CATALOGUE, Phase
from moorline.gateway.faults.control import Faults, Switch
from moorline.gateway.testing.marked import Marked
from moorline.gateway.testing.starting import Starting
from moorline.gateway.testing.story import Story
from moorline.gateway.tunnel.endings import Side

# Imported where they are needed: aiohttp takes a quarter of a second, and the plugin is loaded with every test run.
if TYPE_CHECKING:
    from moorline.gateway.faults.provider import Provider
    from moorline.gateway.testing.upstreams import Upstream

__all__ = ["Gateway", "Moorline"]

_HOST = "127.0.0.1"
# As in production but for what would make a test wait: a short drain, and heartbeats of a second.
_DEFAULTS = {"drain": 0.1, "client_heartbeat": 1.0, "upstream_heartbeat": 1.0, "heartbeat_timeout": 1.0}


class Gateway:
    """A gateway that runs, with a network on either side that breaks on demand."""

    def __init__(self, port: int, faults: Faults, story: Story) -> None:
        self.port = port
        self.url = f"http://{_HOST}:{port}"
        self.faults = faults
        """`gw.faults.reset(after_bytes=100)`: each fault of the catalogue, as a context manager."""
        self._story = story

    def ws_url(self, path: str) -> str:
        """The address of a WebSocket at this path."""
        return f"ws://{_HOST}:{self.port}/{path.removeprefix('/')}"

    @property
    def story(self) -> tuple[str, ...]:
        """What the gateway has said so far about its sockets, and which faults they met."""
        return self._story.lines


class Moorline:
    """The fixture `moorline`."""

    def __init__(self, story: Story, marked: Marked | None = None) -> None:
        self._story = story
        self._marked = marked

    def gateway(self, upstream: "Upstream", **options: Any) -> Starting[Gateway]:
        """A gateway before an aiohttp application, an ASGI application or `http://HOST:PORT`.

        `options` are the gateway's: `frontend="dist"`, `connect_retry=1.0`, or `"1s"` as in moorline.toml.
        """
        return Starting(functools.partial(self._gateway, upstream, options))

    def provider(self, pieces: Sequence[str] = ()) -> "Starting[Provider]":
        """A model's server for the application under test, whose answers are these pieces."""
        return Starting(functools.partial(self._provider, pieces))

    @contextlib.asynccontextmanager
    async def _gateway(self, upstream: "Upstream", options: dict[str, Any]) -> AsyncIterator[Gateway]:
        # Modules make many objects that stay, and with pytest's own in memory each search takes tens of milliseconds.
        with no_collection():
            # Not `run.server`, which imports what reloads and replaces whole processes.
            from moorline.gateway.app import create_app
            from moorline.gateway.common.config.options import read_values
            from moorline.gateway.common.web.idle import Descriptors
            from moorline.gateway.common.web.server import running as serving_app
            from moorline.gateway.faults.proxy import FaultProxy
            from moorline.gateway.settings import Settings
            from moorline.gateway.testing.upstreams import serving

        async with contextlib.AsyncExitStack() as running:
            host, port = await running.enter_async_context(serving(upstream))
            behind = await running.enter_async_context(FaultProxy(host, port, self._story.note))
            # What a shell's limit carries (1,024 descriptors; 256 on macOS): each test would begin with a warning.
            defaults = {**_DEFAULTS, "max_connections": Descriptors.of_process().sockets}
            settings = Settings(
                **{**defaults, **read_values(Settings, options), "host": _HOST, "port": 0, "upstream": (behind.url,)}
            )
            gateway = await running.enter_async_context(serving_app(create_app(settings), settings))
            before = await running.enter_async_context(FaultProxy(_HOST, gateway.port, self._story.note))
            targets = {Side.CLIENT: before, Side.UPSTREAM: behind}
            faults = Faults(targets, asyncio.get_running_loop(), provider=False)
            running.enter_context(self._armed(faults, provider=False))
            yield Gateway(before.listening_port, faults, self._story)

    @contextlib.asynccontextmanager
    async def _provider(self, pieces: Sequence[str]) -> "AsyncIterator[Provider]":
        from moorline.gateway.faults.provider import ANSWER, provider

        async with provider(pieces or ANSWER, self._story.note) as server:
            with self._armed(server.faults, provider=True):
                yield server

    def _armed(self, faults: Faults, *, provider: bool) -> "contextlib.AbstractContextManager[Switch | None]":
        """The fault that a marked test runs under, where it is one of these."""
        marked = self._marked
        if marked is None or (CATALOGUE[marked.fault].phase is Phase.PROVIDER) is not provider:
            return contextlib.nullcontext()
        return marked.switch(faults)
