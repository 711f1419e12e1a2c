"""A site that Vite built from npm, served by the gateway in place of the built-in page."""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import expect

from moorline.gateway.site.static import BUILT_IN
from tests.endtoend.conftest import Site, site
from tests.support import needs
from tests.support.browser import SHARED, STEP, Visitor

pytestmark = [needs.npm, pytest.mark.timeout(180), SHARED]

TESTS = Path(__file__).parent.parent
SOURCE = TESTS / "support" / "site"
# Kept between runs: fetching Vite takes longer than all that is tested here.
CACHE = Path(tempfile.gettempdir()) / f"moorline-tests-npm-{os.getuid()}"


async def npm(*command: str, folder: Path) -> None:
    environment = {**os.environ, "MOORLINE_CLIENT": str(BUILT_IN / "client")}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


@pytest_asyncio.fixture(loop_scope="package")
async def built(tmp_path: Path) -> AsyncIterator[tuple[Site, Path]]:
    """The gateway on the site's dist/, which `npm install` and `vite build` wrote."""
    CACHE.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(SOURCE / "package.json", CACHE)
    if not all((CACHE / "node_modules" / name).exists() for name in (".bin/vite", ".bin/tsc", "react", "react-dom")):
        await npm("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", folder=CACHE)
    source = tmp_path / "site"
    shutil.copytree(SOURCE, source)
    # The documentation's component, beside a copy of the client as its page says to make it.
    shutil.copytree(BUILT_IN / "client", source / "moorline")
    shutil.copytree(BUILT_IN, source / "page")
    (block,) = re.findall(
        r"^```jsx\n(.*?)^```$",
        (TESTS.parent / "gateway" / "docs" / "front-end.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    (source / "Chat.jsx").write_text(block, encoding="utf-8")
    (source / "node_modules").symlink_to(CACHE / "node_modules")
    await npm("npx", "vite", "build", "--logLevel", "warn", folder=source)
    dist = source / "dist"
    async with site(tmp_path, frontend=str(dist)) as started:
        yield started, dist


@needs.chromium
async def test_a_built_site_chats_over_the_gateways_port(built: tuple[Site, Path], tab: Visitor) -> None:
    served, _ = built
    served.script.put("Good morning.", None)
    await tab.page.goto(served.url)
    await expect(tab.page.locator("#state")).to_have_text("connected", timeout=STEP)
    await expect(tab.page.get_by_role("listitem")).to_have_text(["user: Hello", "assistant: Good morning."])
    assert tab.hosts == {served.url.removeprefix("http://")}


async def test_the_clients_types_hold(built: tuple[Site, Path]) -> None:
    _, dist = built
    options = ("--noEmit", "--checkJs", "--strict", "--target", "esnext", "--moduleResolution", "bundler")
    await npm("npx", "tsc", *options, "page/client/moorline-client.js", "page/chat.js", folder=dist.parent)


@needs.chromium
async def test_the_readmes_component_chats_and_survives_an_outage(built: tuple[Site, Path], tab: Visitor) -> None:
    served, _ = built
    page = tab.page
    await page.goto(served.url + "/react.html")
    await expect(page.get_by_role("status")).to_have_text("connected")
    served.script.put("Half")
    await page.get_by_role("textbox").fill("Hello")
    await page.get_by_role("textbox").press("Enter")
    await expect(page.get_by_role("listitem")).to_have_text(["user: Hello", "assistant: Half"])
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("button", name="Try again").wait_for()

    await served.stop_backend()
    await expect(page.get_by_role("status")).not_to_have_text("connected")
    await page.get_by_role("textbox").fill("Keep this")
    await page.get_by_role("textbox").press("Enter")
    await expect(page.get_by_role("listitem").last).to_have_text("Keep this (not sent yet)")
    served.script.put("Kept.", None)
    await served.start_backend()
    await expect(page.get_by_role("listitem").last).to_have_text("assistant: Kept.")
    # The browser's own are of the sockets and polls that failed meanwhile; React would complain in other words.
    assert [said for said in tab.complaints if not said.startswith(("Failed to load", "WebSocket"))] == []


async def test_built_assets_are_kept_for_ever_and_missing_ones_forgotten(built: tuple[Site, Path]) -> None:
    served, dist = built
    script = next((dist / "assets").glob("*.js")).name
    async with aiohttp.ClientSession(served.url) as session:
        async with session.get(f"/assets/{script}") as asset:
            assert (asset.status, asset.content_type) == (200, "text/javascript")
            assert "immutable" in asset.headers["Cache-Control"]
        async with session.get("/assets/index-00000000.js") as missing:
            assert (missing.status, missing.headers["Cache-Control"]) == (404, "no-store")
        async with session.get("/orders/7/edit") as page:
            assert (page.status, page.headers["Cache-Control"]) == (200, "no-cache")
            assert await page.text() == (dist / "index.html").read_text(encoding="utf-8")
