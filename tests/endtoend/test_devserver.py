"""`moorline serve` in place of a dev server's own port: real tools, hot reload, and chats beside it."""

import os
import signal
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import WebSocket

from moorline.gateway.run.user_commands import free_port
from tests.support import needs
from tests.support.backends import receive_until
from tests.support.browser import SHARED, Visitor
from tests.support.certificates import certificate
from tests.support.dev_site import SITES, dev_site, is_tested, with_modules
from tests.support.developing import Tab, developing
from tests.support.process import children
from tests.support.stack import socket, stack

pytestmark = [needs.npm, needs.chromium, pytest.mark.timeout(300), SHARED]

# `python -m tests.bench devserver` has more of each.
EDITS = 3
KILLS = 3
MODULES = 200
# Next compiles anew for an edit, on cores that other tests use as well; in milliseconds.
PATIENT = 60_000


@pytest.mark.parametrize("name", [name for name in SITES if is_tested(name)])
async def test_edits_are_applied_without_a_reload_and_the_chat_goes_on(name: str, tab: Visitor, tmp_path: Path) -> None:
    page = Tab(tab.page)
    async with dev_site(name) as project, developing(project, tmp_path) as started:
        await page.open(started.url, settles=project.site.settles)
        await page.open_chat()
        for _ in range(EDITS):
            await page.shows(await project.edit(), timeout=PATIENT)
        assert await page.is_unreloaded()
        await page.chats()
        assert tab.hosts == {started.url.split("/")[2]}


async def test_a_dev_server_with_a_certificate_of_its_own(tab: Visitor, tmp_path: Path) -> None:
    made, page = await certificate(tmp_path), Tab(tab.page)
    files = f"key: '{made.key}', cert: '{made.file}'"
    async with dev_site("vite") as project:
        configuration = f"export default {{ server: {{ https: {{ {files} }} }} }};\n"
        (project.folder / "vite.config.js").write_text(configuration, encoding="utf-8")
        async with developing(project, tmp_path, scheme="https") as started:
            await page.open(started.url)
            await page.open_chat()
            await page.shows(await project.edit())
            assert await page.is_unreloaded()
            await page.chats()


async def test_no_socket_of_the_dev_server_is_lost_with_the_backend(tab: Visitor, tmp_path: Path) -> None:
    opened: list[WebSocket] = []
    tab.page.on("websocket", lambda opening: opened.append(opening))
    page = Tab(tab.page)
    async with dev_site("vite") as project, developing(project, tmp_path) as started:
        await page.open(started.url)
        for number in range(1, KILLS + 1):
            (backend,) = children(started.program.pid, "-m moorline backend")
            os.kill(backend, signal.SIGKILL)
            await started.program.lines("the backend is up again", number)
        await page.shows(await project.edit())
        assert await page.is_unreloaded()
        assert [each.is_closed() for each in opened] == [False]


async def test_a_dev_server_that_is_killed_is_started_again_and_its_page_follows(tab: Visitor, tmp_path: Path) -> None:
    page = Tab(tab.page)
    async with dev_site("vite") as project, developing(project, tmp_path) as started:
        await page.open(started.url)
        async with socket(started.url.rstrip("/")) as chat:
            (runner,) = children(started.program.pid, "-m moorline command")
            os.killpg(runner, signal.SIGKILL)
            await page.is_reloaded()
            await page.shows("edit 0")
            await chat.send('{"message": "Hello"}')
            await receive_until(chat, "message")


async def test_no_module_of_a_cold_load_fails(tab: Visitor, tmp_path: Path) -> None:
    failed: list[str] = []
    statuses: list[int] = []
    tab.page.on("requestfailed", lambda request: failed.append(request.url))
    tab.page.on("response", lambda response: statuses.append(response.status))
    async with dev_site("vite") as project, developing(with_modules(project, MODULES), tmp_path) as started:
        await Tab(tab.page).open(started.url)
    assert (failed, set(statuses)) == ([], {200})
    assert len(statuses) > MODULES


async def test_a_page_whose_front_end_cannot_be_reached_says_so_and_reloads_itself(
    tab: Visitor, tmp_path: Path
) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="<h1>It is back</h1>", content_type="text/html")

    port, page = free_port(), Tab(tab.page)
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with stack(tmp_path, gateway={"frontend": f"http://127.0.0.1:{port}", "connect_retry": 0.5}) as started:
        response = await tab.page.goto(f"{started.gateway}/orders/7")
        assert response is not None
        assert response.status == 502
        await page.shows("The front end cannot be reached")
        await tab.page.get_by_text(f"http://127.0.0.1:{port}").wait_for()
        async with TestServer(app, host="127.0.0.1", port=port):
            await page.shows("It is back")
            assert tab.page.url == f"{started.gateway}/orders/7"
