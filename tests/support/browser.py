"""A real browser on the chat page, and the conversation that must work wherever the page is served."""

import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, async_playwright, expect

__all__ = [
    "CHAT",
    "SHARED",
    "Visitor",
    "answers",
    "box",
    "browser",
    "chats",
    "check_conversation",
    "chromium",
    "new_chat",
    "open_client",
    "questions",
    "say",
    "shows",
    "visitor",
    "watched",
]

CHAT = "/chat/patient:demo"
STEP = 15_000
"""Longest wait for one thing on the page, in milliseconds; reached only when a test fails."""

expect.set_options(timeout=STEP)

SHARED = pytest.mark.asyncio(loop_scope="package")
"""For tests that share one browser: Playwright's objects belong to the loop that started it."""

# A browser that talks to the page under test and to no other host.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@dataclasses.dataclass(frozen=True, slots=True)
class Visitor:
    """One tab, and what it did: hosts that it asked, and what it complained about."""

    page: Page
    hosts: set[str]
    complaints: list[str]


def chromium() -> str:
    """The program without windows where it is installed. A tab takes a third of the CPU of the whole browser's, which
    makes a profile with all of its services for each.
    """
    return "chromium-headless-shell" if shutil.which("chromium-headless-shell") else "chromium"


@contextlib.asynccontextmanager
async def browser(program: str = "") -> AsyncIterator[Browser]:
    """Debian's Chromium, headless: `program`, or the one that tests take."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=shutil.which(program or chromium()), headless=True, args=list(_ARGUMENTS)
        )
        try:
            yield started
        finally:
            await started.close()


@contextlib.asynccontextmanager
async def visitor(browser: Browser, **options: Any) -> AsyncIterator[Visitor]:
    """A tab with storage of its own; `options` are Playwright's for a context, as viewport or color_scheme."""
    context = await browser.new_context(**options)
    context.set_default_timeout(STEP)
    try:
        yield watched(await context.new_page())
    finally:
        await context.close()


def watched(page: Page) -> Visitor:
    """A visitor on a page that is open already."""
    seen = Visitor(page, set(), [])

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            seen.complaints.append(message.text)

    page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda socket: seen.hosts.add(urlsplit(socket.url).netloc))
    page.on("console", said)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    return seen


# What is on the page --------------------------------------------------------------------------------------------------


def box(page: Page) -> Locator:
    return page.get_by_role("textbox", name="Message")


def questions(page: Page) -> Locator:
    return page.locator("article.user .text")


def answers(page: Page) -> Locator:
    return page.locator("article.assistant .text")


async def shows(page: Page, status: str) -> None:
    """Wait for the status indicator."""
    await expect(page.locator("#status-text")).to_have_text(status)


async def say(page: Page, text: str) -> None:
    """Write a message and send it as most people do."""
    await box(page).fill(text)
    await box(page).press("Enter")


async def new_chat(page: Page) -> None:
    await page.get_by_role("button", name="New chat").click()


async def chats(page: Page) -> Locator:
    """Open the list of this browser's chats; its entries."""
    await page.get_by_role("button", name="Chats").click()
    return page.get_by_role("dialog").get_by_role("listitem")


async def open_client(page: Page, url: str, **options: Any) -> None:
    """A MoorlineClient as `client` in a page of the server at `url` that does nothing of its own."""
    await page.goto(url + "/client/reconnect.js")
    await page.evaluate(
        """async (options) => {
            const { MoorlineClient } = await import('/client/moorline-client.js');
            window.client = new MoorlineClient({ patientId: 'patient:demo', sessionId: 's1', ...options });
            client.connect();
        }""",
        options,
    )


async def check_conversation(page: Page, url: str) -> None:
    """Connect, ask, get the whole answer, and find both again after a reload. `url` is scheme, host and port."""
    await page.goto(url + CHAT)
    await shows(page, "Connected")
    await say(page, "Hello")
    await expect(answers(page)).to_have_count(1)
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden(timeout=STEP)
    await expect(answers(page)).not_to_be_empty(timeout=STEP)
    answer = await answers(page).inner_text()

    await page.reload()
    await expect(questions(page)).to_have_text(["Hello"])
    await expect(answers(page)).to_have_text([answer])
    await shows(page, "Connected")
