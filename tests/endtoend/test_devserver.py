"""`moorline serve` in place of a dev server's own port: real tools, hot reload, and chats beside it."""

import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, WebSocket

from moorline.gateway.run.user_commands import free_port
from tests.support import needs
from tests.support.backends import receive_until
from tests.support.browser import SHARED, STEP, Visitor
from tests.support.dev_site import SITES, Project, dev_site
from tests.support.process import Program, children, started_command
from tests.support.stack import socket, stack

pytestmark = [needs.npm, needs.chromium, pytest.mark.timeout(300), SHARED]

# In `python -m tests.bench devserver` there are more.
EDITS = 10
KILLS = 5
# A first request has the tool compile; on a busy machine that takes long.
STARTED = 90_000


@contextlib.asynccontextmanager
async def developing(project: Project, database: Path) -> AsyncIterator[tuple[Program, str]]:
    """`moorline serve` with the project's own `npm run dev`, and the page's address."""
    options = ("--port", "0", "--backend-port", "0", "--database", f"sqlite:///{database}/chat.db")
    command = (sys.executable, "-m", "moorline", "serve", *options, "--frontend-command", "npm run dev")
    async with started_command(*command, cwd=project.folder, env=project.site.environ) as program:
        await program.line("  frontend", "http://")
        page = (await program.line("  page")).split()[1]
        yield program, page.rstrip("/") + project.site.page


async def open_page(page: Page, url: str) -> None:
    """Open it, and mark it: the mark does not outlive a reload."""
    await page.goto(url, timeout=STARTED)
    await shows(page, "edit 0", STARTED)
    await page.evaluate("document.documentElement.dataset.mark = 'first'")


async def open_chat(page: Page) -> None:
    await page.evaluate(
        """() => new Promise((resolve, reject) => {
            window.chat = new WebSocket(`ws://${location.host}/ws/chat/patient:demo/s1`);
            window.said = [];
            window.chat.onmessage = ({ data }) => window.said.push(JSON.parse(data).type);
            window.chat.onopen = resolve;
            window.chat.onerror = reject;
        })"""
    )


async def chats(page: Page) -> None:
    """The socket that was opened first carries a message and its answer."""
    await page.evaluate("said.length = 0; chat.send(JSON.stringify({ message: 'Hello' }))")
    await page.wait_for_function("said.includes('message')")


async def is_unreloaded(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.dataset.mark === 'first'"))


async def shows(page: Page, text: str, timeout: float = STEP) -> None:
    """Wait for the page's heading; tools have headings of their own in their toolbars."""
    await page.get_by_role("heading", name=text, exact=True).wait_for(timeout=timeout)


@pytest.mark.parametrize("name", SITES)
async def test_edits_are_applied_without_a_reload_and_the_chat_goes_on(name: str, tab: Visitor, tmp_path: Path) -> None:
    async with dev_site(name) as project, developing(project, tmp_path) as (_, url):
        await open_page(tab.page, url)
        await open_chat(tab.page)
        for _ in range(EDITS):
            await shows(tab.page, project.edit())
        assert await is_unreloaded(tab.page)
        await chats(tab.page)
        assert tab.hosts == {url.split("/")[2]}


async def test_no_socket_of_the_dev_server_is_lost_with_the_backend(tab: Visitor, tmp_path: Path) -> None:
    opened: list[WebSocket] = []
    tab.page.on("websocket", lambda opening: opened.append(opening))
    async with dev_site("vite") as project, developing(project, tmp_path) as (program, url):
        await open_page(tab.page, url)
        for number in range(1, KILLS + 1):
            (backend,) = children(program.pid, "-m moorline backend")
            os.kill(backend, signal.SIGKILL)
            await program.lines("the backend is up again", number)
        await shows(tab.page, project.edit())
        assert await is_unreloaded(tab.page)
        assert [each.is_closed() for each in opened] == [False]


async def test_a_dev_server_that_is_killed_is_started_again_and_its_page_follows(tab: Visitor, tmp_path: Path) -> None:
    async with dev_site("vite") as project, developing(project, tmp_path) as (program, url):
        await open_page(tab.page, url)
        async with socket(url.rstrip("/")) as chat:
            (runner,) = children(program.pid, "-m moorline command")
            os.killpg(runner, signal.SIGKILL)
            await tab.page.wait_for_function("document.documentElement.dataset.mark === undefined", timeout=STARTED)
            await shows(tab.page, "edit 0")
            await chat.send('{"message": "Hello"}')
            await receive_until(chat, "message")


async def test_a_page_of_a_front_end_that_is_away_says_so_and_loads_itself_again(tab: Visitor, tmp_path: Path) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<h1>It is back</h1>", content_type="text/html")

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    app = web.Application()
    app.router.add_get("/{path:.*}", page)
    async with stack(tmp_path, gateway={"frontend": url, "connect_retry": 0.5}) as started:
        response = await tab.page.goto(f"{started.gateway}/orders/7")
        assert response is not None
        assert response.status == 502
        await shows(tab.page, "The front end cannot be reached")
        await tab.page.get_by_text(url).wait_for()
        async with TestServer(app, host="127.0.0.1", port=port):
            await shows(tab.page, "It is back")
            assert tab.page.url == f"{started.gateway}/orders/7"
