"""The development server with real tools: `python -m tests.bench devserver [--quick] [--part kills]`.

How many of 50 edits reach the page by hot reload, for each tool; how many sockets of hot reload are lost while the
backend is killed 100 times; and what a cold load of a page with 2,000 modules takes through the gateway, beside the dev
server's own port. The exit status is 1 where an edit or a socket is lost, a request fails or a mark is missed.
"""

import argparse
import asyncio
import dataclasses
import signal
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.async_api import Browser, WebSocket
from playwright.async_api import Error as PlaywrightError

from moorline.gateway.run import server
from moorline.gateway.run.announced import announced_address
from moorline.gateway.run.user_commands import free_port
from moorline.gateway.settings import Settings
from tests.bench.usage import cpu_by_process
from tests.support.browser import browser, visitor
from tests.support.dev_site import SITES, dev_site, with_modules
from tests.support.developing import Developing, Tab, developing
from tests.support.process import started, started_command

__all__ = ["main"]

# Of the wall time of a cold load, through the gateway to direct.
MARK = 1.25
PARTS = ("edits", "kills", "loads")
# Seconds, and milliseconds: on cores that other work keeps busy a cold load took more than a minute.
_START = 120.0
_LOAD = 600_000
# Kills, which take seconds each on busy cores.
_REPORTED = 25


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much of each is done."""

    edits: int = 50
    kills: int = 100
    modules: int = 2000
    loads: int = 5


QUICK = Scale(edits=5, kills=3, modules=300, loads=3)


async def _edits(chromium: Browser, name: str, count: int, folder: Path) -> tuple[int, bool]:
    """How many edits the page has shown, and whether it was never reloaded and its chat answers still."""
    async with dev_site(name) as project, developing(project, folder) as started, visitor(chromium) as seen:
        page = Tab(seen.page)
        await page.open(started.url, settles=project.site.settles)
        await page.open_chat()
        shown = 0
        for _ in range(count):
            try:
                await page.shows(await project.edit())
            except PlaywrightError:
                continue
            shown += 1
        unreloaded = await page.is_unreloaded()
        if unreloaded:
            await page.chats()
        return shown, unreloaded


async def _kills(chromium: Browser, count: int, folder: Path) -> int:
    """How many sockets of hot reload were lost. The page's chat is open at each backend that is killed."""
    opened: list[WebSocket] = []
    port = free_port()
    async with (
        dev_site("vite") as project,
        started_command("npm", "run", "dev", cwd=project.folder) as vite,
        visitor(chromium) as seen,
    ):
        frontend = announced_address(await vite.line("Local", "http://"))
        assert frontend is not None
        upstream = f"http://127.0.0.1:{port}"
        # A backend that starts on busy cores is waited for: what is measured is the other sockets.
        settings = Settings(
            host="127.0.0.1",
            port=0,
            upstream=(upstream,),
            frontend=frontend,
            connect_retry=_START,
            handshake_timeout=_START,
            drain=0.2,
        )
        async with server.running(settings) as gateway:
            seen.page.on("websocket", lambda opening: opened.append(opening))
            page = Tab(seen.page)
            await page.open(gateway.addresses[0])
            for number in range(1, count + 1):
                async with started("moorline", "backend", "--port", str(port), cwd=folder) as backend:
                    await page.open_chat()
                    if number == count:
                        await page.chats()
                    await backend.stop(signal.SIGKILL)
                if number % _REPORTED == 0:
                    print(f"  {number} killed", flush=True)
            await page.shows(await project.edit())
            hot = [each for each in opened if "/ws/chat/" not in each.url]
            return len(hot) - 1 + sum(each.is_closed() for each in hot)


@dataclasses.dataclass(slots=True)
class Loads:
    """Cold loads of a page, through the gateway and direct."""

    gateway: list[float] = dataclasses.field(default_factory=list)
    """Seconds of each."""
    direct: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    """Of the gateway's process, in each."""
    failed: int = 0
    """Requests."""


async def _loads(chromium: Browser, scale: Scale, folder: Path) -> Loads:
    """In turns, so that what else the machine does meets both."""
    loads = Loads()
    async with dev_site("vite") as project, developing(with_modules(project, scale.modules), folder) as started:
        # The first is Vite's own work; each of the others has a browser's profile without a cache.
        for number in range(scale.loads + 1):
            for url, taken in ((started.url, loads.gateway), (started.direct, loads.direct)):
                before = _cpu(started)
                seconds, lost = await _load(chromium, url, scale.modules)
                loads.failed += lost
                if number:
                    taken.append(seconds)
                if number and taken is loads.gateway:
                    loads.cpu.append(_cpu(started) - before)
    return loads


def _cpu(started: Developing) -> float:
    """Of the process that is the gateway, without the dev server that it has started."""
    pid = started.program.pid
    return cpu_by_process(pid)[pid]


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f}s ({min(seconds):.2f} to {max(seconds):.2f})"


# The browser's own record of a load: to be told of each request would cost this process more than the gateway's work.
# Chromium asks for an icon by itself, which the project has not.
_RECORD = """() => {
    const entries = performance.getEntriesByType('resource');
    const isFailed = (entry) => entry.responseStatus >= 400 && !entry.name.endsWith('/favicon.ico');
    const last = Math.max(...entries.map((entry) => entry.responseEnd));
    return [last / 1000, entries.length, entries.filter(isFailed).length];
}"""


async def _load(chromium: Browser, url: str, modules: int) -> tuple[float, int]:
    """Seconds to the last module, and how many requests failed."""
    context = await chromium.new_context()
    try:
        page = await context.new_page()
        await page.add_init_script("performance.setResourceTimingBufferSize(10000)")
        await Tab(page).open(url, timeout=_LOAD)
        seconds, loaded, failed = await page.evaluate(_RECORD)
        return seconds, failed + (loaded < modules)
    finally:
        await context.close()


async def _all_edits(chromium: Browser, names: Sequence[str], count: int, folder: Path) -> bool:
    held = True
    for name in names:
        (folder / name).mkdir()
        shown, unreloaded = await _edits(chromium, name, count, folder / name)
        print(f"{name}: {shown} of {count} edits by hot reload, reloaded: {not unreloaded}", flush=True)
        held = held and shown == count and unreloaded
    return held


def _show(loads: Loads, modules: int) -> bool:
    """Print them; whether the mark is reached."""
    ratio = statistics.median(loads.gateway) / statistics.median(loads.direct)
    each = statistics.median(loads.cpu) / modules * 1e6
    print(f"{modules} modules, cold: {_spread(loads.gateway)} through the gateway, {_spread(loads.direct)} direct")
    print(f"median {ratio:.2f} x (mark {MARK:g}), {each:.0f} us of the gateway's CPU a module")
    print(f"{loads.failed} requests failed")
    return loads.failed == 0 and ratio <= MARK


async def _run(names: Sequence[str], parts: Sequence[str], scale: Scale) -> bool:
    held = True
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        async with browser() as chromium:
            if "edits" in parts:
                held = await _all_edits(chromium, names, scale.edits, folder)
            if "kills" in parts:
                lost = await _kills(chromium, scale.kills, folder)
                print(f"backend killed {scale.kills} times: {lost} sockets of hot reload lost", flush=True)
                held = held and lost == 0
            if "loads" in parts:
                held = _show(await _loads(chromium, scale, folder), scale.modules) and held
    return held


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench devserver", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute or two, to see that it runs")
    parser.add_argument("--site", action="append", choices=SITES, help="this tool alone; may be repeated")
    parser.add_argument("--part", action="append", choices=PARTS, help="this part alone; may be repeated")
    options = parser.parse_args(arguments)
    scale = QUICK if options.quick else Scale()
    return 0 if asyncio.run(_run(options.site or list(SITES), options.part or PARTS, scale)) else 1
