"""What the end-to-end tests share: the whole on free ports, and a browser."""

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from moorline.gateway.site.static import BUILT_IN
from tests.support.backends import Backend, Script
from tests.support.backends import backend as running_backend
from tests.support.browser import CHAT, Visitor, answers, browser, say, shows, visitor
from tests.support.network import Network, network
from tests.support.nginx import NAME, Nginx, nginx
from tests.support.played import Played, played
from tests.support.stack import Stack, stack


@dataclasses.dataclass(slots=True)
class Site:
    """A gateway, its backend, and what the backend's model says next."""

    url: str
    script: Script
    _folder: Path
    _backend_port: int
    _options: dict[str, Any]
    _running: contextlib.AsyncExitStack

    @property
    def backend(self) -> str:
        """The backend's address."""
        return f"http://127.0.0.1:{self._backend_port}"

    async def stop_backend(self) -> None:
        await self._running.aclose()

    async def start_backend(self, folder: Path | None = None) -> None:
        """On the port that it had, with the database that it had, or that of another folder."""
        started = await self._running.enter_async_context(
            running_backend(folder or self._folder, self.script, **{**self._options, "port": self._backend_port})
        )
        self._backend_port = started.port


@contextlib.asynccontextmanager
async def site(folder: Path, frontend: str = "", **backend_options: Any) -> AsyncIterator[Site]:
    """The page of `frontend`, by default the built-in one, on a gateway before a backend."""
    script = Script()
    options = {"drain": 0.2, **backend_options}
    async with contextlib.AsyncExitStack() as stack:
        started: Backend = await stack.enter_async_context(running_backend(folder, script, **options))
        settings = Settings(
            host="127.0.0.1",
            port=0,
            upstream=(started.http,),
            frontend=frontend,
            # The page says "Disconnected" after three sockets that were each held for so long.
            connect_retry=1.0,
            drain=0.2,
            log_level="error",
        )
        async with running(create_app(settings), settings) as gateway:
            yield Site(gateway.addresses[0], script, folder, started.port, options, stack)


async def opened(page: Page, chat: Site) -> None:
    """Open the built-in page, and wait for its connection."""
    await page.goto(chat.url + CHAT)
    await shows(page, "Connected")


async def converse(page: Page, chat: Site, question: str, answer: str) -> None:
    """The first message of a chat, and its whole answer."""
    chat.script.put(answer, None)
    await say(page, question)
    await expect(answers(page)).to_have_text([answer])
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden()


# One browser serves all tests, each with a context of its own; so they and their fixtures run on one event loop.


@pytest_asyncio.fixture(loop_scope="package")
async def chat(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="package")
async def between(chat: Site) -> AsyncIterator[Network]:
    """The network between the browser and the gateway."""
    async with network(chat.url) as started:
        yield started


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="package")
async def tab(chromium: Browser) -> AsyncIterator[Visitor]:
    async with visitor(chromium) as seen:
        yield seen


@pytest_asyncio.fixture(loop_scope="package")
async def backend() -> AsyncIterator[Played]:
    """One that the test plays by hand."""
    async with played() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="package")
async def url(backend: Played) -> AsyncIterator[str]:
    """The gateway before it."""
    settings = Settings(host="127.0.0.1", port=0, upstream=(backend.url,), drain=0.2, log_level="error")
    async with running(create_app(settings), settings) as gateway:
        yield gateway.addresses[0]


@pytest_asyncio.fixture(loop_scope="package")
async def page(chromium: Browser) -> AsyncIterator[Page]:
    """A tab whose clock stands still until the test turns it: a back-off must not end by itself on a slow machine."""
    async with visitor(chromium) as seen:
        now = time.time()
        # It runs until it is stopped, and is not set back for that: an hour before, as a busy machine takes a while.
        await seen.page.clock.install(time=now - 3600)
        await seen.page.clock.pause_at(now)
        yield seen.page


# nginx in front -------------------------------------------------------------------------------------------------------


@pytest.fixture
def nginx_folder(tmp_path: Path) -> Path:
    """nginx's own."""
    (tmp_path / "nginx").mkdir()
    return tmp_path / "nginx"


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Stack]:
    options = {"trusted_proxies": ("127.0.0.1/32",), "allowed_hosts": (NAME,)}
    async with stack(tmp_path, gateway=options, backend_options=options) as started:
        yield started


@pytest.fixture
async def front(parts: Stack, nginx_folder: Path) -> AsyncIterator[Nginx]:
    """nginx -> gateway -> backend"""
    async with nginx(nginx_folder, parts.gateway) as started:
        yield started


@pytest.fixture(params=["gateway", "backend"])
async def either(request: pytest.FixtureRequest, parts: Stack, nginx_folder: Path) -> AsyncIterator[Nginx]:
    """nginx -> gateway -> backend, and nginx -> backend"""
    if request.param == "gateway":
        started = nginx(nginx_folder, parts.gateway)
    else:
        started = nginx(nginx_folder, parts.backend, root=BUILT_IN)
    async with started as server:
        yield server
