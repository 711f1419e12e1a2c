"""Sites built by Vite, Astro and Next with the client's package, served by the gateway in place of its own page."""

import contextlib
import gzip
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import expect

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from moorline.gateway.site.static import BUILT_IN
from tests.endtoend.conftest import Site, site
from tests.support import needs, npm
from tests.support.browser import SHARED, STEP, Visitor
from tests.support.dev_site import is_tested

# The first of them may have to install the tools.
pytestmark = [needs.npm, pytest.mark.timeout(400), SHARED]

CLIENT = BUILT_IN / "client"
MOST_GZIPPED = 8192


@contextlib.asynccontextmanager
async def with_client(name: str, tools: str = "") -> AsyncIterator[npm.BuiltSite]:
    """The site of this name, with the package as people install it."""
    settings = Settings(host="127.0.0.1", port=0, upstream=("http://127.0.0.1:9",), drain=0.2, log_level="error")
    async with npm.copied_site(name, tools) as source:
        async with running(create_app(settings), settings) as gateway:
            await source.install(f"{gateway.addresses[0]}/moorline-client.tgz")
        yield source


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def vite_site() -> AsyncIterator[npm.BuiltSite]:
    """Built by Vite: plain JavaScript, and the documentation's component in React."""
    async with with_client("vite") as source:
        (source.folder / "Chat.tsx").write_text(npm.component(), encoding="utf-8")
        shutil.copytree(CLIENT, source.folder / "modules")
        shutil.copytree(BUILT_IN, source.folder / "page")
        await source.run("vite", "build", "--logLevel", "warn")
        yield source


@pytest_asyncio.fixture(loop_scope="package")
async def built(vite_site: npm.BuiltSite, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path, frontend=str(vite_site.folder / "dist")) as started:
        yield started


@needs.chromium
async def test_a_built_site_chats_over_the_gateways_port(built: Site, tab: Visitor) -> None:
    built.script.put("Good morning.", None)
    await tab.page.goto(built.url)
    await expect(tab.page.locator("#state")).to_have_text("connected", timeout=STEP)
    await expect(tab.page.get_by_role("listitem")).to_have_text(["user: Hello", "assistant: Good morning."])
    assert tab.hosts == {built.url.removeprefix("http://")}


async def test_the_types_hold_and_are_those_of_the_modules(vite_site: npm.BuiltSite) -> None:
    await vite_site.run("tsc", "--project", ".")


async def test_the_client_is_small(vite_site: npm.BuiltSite) -> None:
    options = ("--minify", "--format=esm", "--file=client.min.js")
    await vite_site.run("rolldown", "modules/moorline-client.js", *options)
    size = len(gzip.compress((vite_site.folder / "client.min.js").read_bytes(), 9))
    print(f"moorline-client: {size} bytes, bundled, minified and compressed")
    assert size <= MOST_GZIPPED


@needs.chromium
async def test_the_documentations_component_chats_and_survives_an_outage(built: Site, tab: Visitor) -> None:
    page = tab.page
    await page.goto(built.url + "/react.html")
    await expect(page.get_by_role("status")).to_have_text("connected")
    # An empty message is none.
    await page.get_by_role("textbox").press("Enter")
    built.script.put("Half")
    await page.get_by_role("textbox").fill("Hello")
    await page.get_by_role("textbox").press("Enter")
    await expect(page.get_by_role("listitem")).to_have_text(["user: Hello", "assistant: Half"])
    await page.get_by_role("button", name="Stop").click()
    await page.get_by_role("button", name="Try again").wait_for()

    await built.stop_backend()
    await expect(page.get_by_role("status")).not_to_have_text("connected")
    await page.get_by_role("textbox").fill("Keep this")
    await page.get_by_role("textbox").press("Enter")
    await expect(page.get_by_role("listitem").last).to_have_text("Keep this (not sent yet)")
    built.script.put("Kept.", None)
    await built.start_backend()
    await expect(page.get_by_role("listitem").last).to_have_text("assistant: Kept.")
    # The browser's own are of the sockets and polls that failed meanwhile; React would complain in other words.
    assert [said for said in tab.complaints if not said.startswith(("Failed to load", "WebSocket"))] == []


async def test_built_assets_are_kept_for_ever_and_missing_ones_forgotten(built: Site, vite_site: npm.BuiltSite) -> None:
    script = next((vite_site.folder / "dist" / "assets").glob("*.js")).name
    async with aiohttp.ClientSession(built.url) as session:
        async with session.get(f"/assets/{script}") as asset:
            assert (asset.status, asset.content_type) == (200, "text/javascript")
            assert "immutable" in asset.headers["Cache-Control"]
        async with session.get("/assets/index-00000000.js") as missing:
            assert (missing.status, missing.headers["Cache-Control"]) == (404, "no-store")
        async with session.get("/orders/7/edit") as page:
            assert (page.status, page.headers["Cache-Control"]) == (200, "no-cache")
            assert await page.text() == (vite_site.folder / "dist" / "index.html").read_text(encoding="utf-8")


# Rendered by a server first -------------------------------------------------------------------------------------------

ASTRO = ("astro", "src/components/Chat.tsx", "dist", "/chat/patient:demo")
RENDERED = {"astro": ASTRO, "astro7": ASTRO, "next": ("next", "app/Chat.tsx", "out", "/")}


@needs.chromium
@pytest.mark.parametrize(
    ("tools", "name", "component", "dist", "path"),
    [(tools, *site) for tools, site in RENDERED.items() if is_tested(tools)],
    ids=[tools for tools in RENDERED if is_tested(tools)],
)
async def test_the_component_is_rendered_by_a_server_and_goes_on_in_the_browser(
    tools: str, name: str, component: str, dist: str, path: str, tmp_path: Path, tab: Visitor
) -> None:
    async with with_client(name, tools) as source:
        # git keeps no empty folder.
        (source.folder / component).parent.mkdir(exist_ok=True)
        (source.folder / component).write_text(npm.component(), encoding="utf-8")
        await source.run(name, "build")
        shutil.copytree(source.folder / dist, tmp_path / "dist")
    page = tmp_path / "dist" / path.lstrip("/") / "index.html"
    assert "<output>connecting</output>" in page.read_text(encoding="utf-8")
    async with site(tmp_path, frontend=str(tmp_path / "dist")) as started:
        started.script.put("Good morning.", None)
        await tab.page.goto(started.url + path)
        await expect(tab.page.get_by_role("status")).to_have_text("connected")
        await tab.page.get_by_role("textbox").fill("Hello")
        await tab.page.get_by_role("textbox").press("Enter")
        await expect(tab.page.get_by_role("listitem")).to_have_text(["user: Hello", "assistant: Good morning."])
    assert tab.complaints == []
