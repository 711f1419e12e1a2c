"""`moorline serve --frontend-command "npm run dev"` on a real project, and its page in a browser."""

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from playwright.async_api import Page, WebSocket

from tests.support.browser import STEP
from tests.support.dev_site import Project
from tests.support.process import Program, started_command

__all__ = ["Developing", "Tab", "developing"]

# A first request has the tool compile; on a busy machine that takes long.
_FIRST = 90_000
_CHAT = """() => new Promise((resolve, reject) => {
    window.chat = new WebSocket(`ws://${location.host}/ws/chat/patient:demo/s1`);
    window.said = [];
    window.chat.onmessage = ({ data }) => window.said.push(JSON.parse(data).type);
    window.chat.onopen = resolve;
    window.chat.onerror = reject;
})"""


@dataclasses.dataclass(frozen=True, slots=True)
class Developing:
    """A running `moorline serve`."""

    program: Program
    url: str
    """Of the page, through the gateway."""
    direct: str
    """Of the page, at the dev server's own port."""


@contextlib.asynccontextmanager
async def developing(project: Project, database: Path, *, scheme: str = "http") -> AsyncIterator[Developing]:
    """The project's own `npm run dev`, which serves by this scheme, under `moorline serve`."""
    options = ("--port", "0", "--backend-port", "0", "--database", f"sqlite:///{database}/chat.db")
    command = (sys.executable, "-m", "moorline", "serve", *options, "--frontend-command", "npm run dev")
    async with started_command(*command, cwd=project.folder, env=project.site.environ) as program:
        direct = (await program.line("  frontend", f"{scheme}://", patience=_FIRST / 1000)).split()[1]
        gateway = (await program.line("  page")).split()[1].rstrip("/")
        yield Developing(program, gateway + project.site.page, direct + project.site.page)


class _Settling:
    """Follows the sockets of a page until one has sent and then received these words."""

    def __init__(self, page: Page, sent: str, received: str) -> None:
        self._sent = sent
        self._received = received
        self._has_sent = False
        self.done = asyncio.Event()
        page.on("websocket", self._follow)

    def _follow(self, socket: WebSocket) -> None:
        socket.on("framesent", self._on_sent)
        socket.on("framereceived", self._on_received)

    def _on_sent(self, frame: str | bytes) -> None:
        if isinstance(frame, str) and self._sent in frame:
            self._has_sent = True
            self.done.clear()

    def _on_received(self, frame: str | bytes) -> None:
        if self._has_sent and isinstance(frame, str) and self._received in frame:
            self.done.set()


@dataclasses.dataclass(frozen=True, slots=True)
class Tab:
    """A page under development."""

    page: Page

    async def open(self, url: str, timeout: float = _FIRST, *, settles: tuple[str, str] | None = None) -> None:
        """Open it, and mark it: the mark does not outlive a reload."""
        settling = _Settling(self.page, *settles) if settles else None
        await self.page.goto(url, timeout=timeout)
        await self.shows("edit 0", timeout)
        if settling is not None:
            async with asyncio.timeout(timeout / 1000):
                await settling.done.wait()
        await self.page.evaluate("document.documentElement.dataset.mark = 'first'")

    async def shows(self, text: str, timeout: float = STEP) -> None:
        """Wait for the page's heading; tools have headings of their own in their toolbars."""
        await self.page.get_by_role("heading", name=text, exact=True).wait_for(timeout=timeout)

    async def is_unreloaded(self) -> bool:
        return bool(await self.page.evaluate("document.documentElement.dataset.mark === 'first'"))

    async def is_reloaded(self) -> None:
        """Wait for the page to have loaded itself again."""
        await self.page.wait_for_function("document.documentElement.dataset.mark === undefined", timeout=_FIRST)

    async def open_chat(self) -> None:
        """Open a socket of the chat from the page."""
        await self.page.evaluate(_CHAT)

    async def chats(self) -> None:
        """Send a message on that socket and wait for its answer."""
        await self.page.evaluate("said.length = 0; chat.send(JSON.stringify({ message: 'Hello' }))")
        await self.page.wait_for_function("said.includes('message')")
