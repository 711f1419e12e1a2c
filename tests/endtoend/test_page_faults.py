"""The built-in page through everything that happens to a connection: what was said stays, and comes back by itself."""

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from moorline.backend.errors import ErrorCode, LLMError
from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.endtoend.conftest import Site, opened, site
from tests.support import needs
from tests.support.backend_process import backend_process
from tests.support.browser import CHAT, SHARED, Visitor, answers, questions, say, shows, visitor
from tests.support.network import Network
from tests.support.openai_server import DONE, Fault, OpenAIServer, finish, openai_server, says
from tests.support.process import Program, started

pytestmark = [needs.chromium, SHARED]


@pytest_asyncio.fixture(loop_scope="package")
async def chat(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path, heartbeat=2.0) as started:
        yield started


async def lose_acknowledgement(page: Page, chat: Site, between: Network) -> None:
    """Send a message that the backend gets, and cut the connection before the page hears of it."""
    await page.goto(between.url + CHAT)
    await shows(page, "Connected")
    between.mute()
    await say(page, "Hello")
    await chat.script.asked.wait()
    between.cut()


async def half_an_answer(page: Page, url: str, chat: Site) -> None:
    await page.goto(url + CHAT)
    await shows(page, "Connected")
    chat.script.put("Half")
    await say(page, "Hello")
    await expect(answers(page)).to_have_text(["Half"])


# The network ----------------------------------------------------------------------------------------------------------


async def test_the_network_goes_off_and_on_in_the_middle_of_an_answer(chat: Site, tab: Visitor) -> None:
    await half_an_answer(tab.page, chat.url, chat)
    # Chromium closes no socket then: its frames go nowhere, and the page has to ask.
    await tab.page.context.set_offline(True)
    await expect(tab.page.locator("#status")).to_have_text(re.compile("Connected, no network"))
    await shows(tab.page, "Offline")
    chat.script.put(" and half.", None)
    await say(tab.page, "And now?")
    await expect(tab.page.get_by_text("Not sent yet. It goes out")).to_be_visible()

    chat.script.put("Now as well.", None)
    await tab.page.context.set_offline(False)
    await shows(tab.page, "Connected")
    await expect(answers(tab.page)).to_have_text(["Half and half.", "Now as well."])
    await expect(questions(tab.page)).to_have_text(["Hello", "And now?"])


async def test_an_outage_is_counted_down(chat: Site, between: Network, tab: Visitor) -> None:
    # The longest back-off that chance allows.
    await tab.page.add_init_script("Math.random = () => 0.99")
    await tab.page.goto(between.url + CHAT)
    await shows(tab.page, "Connected")
    between.cut()
    await expect(tab.page.locator("#status")).to_have_text(re.compile(r"^\s*Reconnecting in [1-9]\d* s\s*$"))
    await expect(tab.page.locator("#status")).to_have_text(re.compile(r"^\s*Disconnected, next try in [1-9]\d* s\s*$"))


async def test_a_message_whose_acknowledgement_was_lost_is_said_to_have_perhaps_arrived(
    chat: Site, between: Network, tab: Visitor
) -> None:
    await lose_acknowledgement(tab.page, chat, between)
    await expect(tab.page.get_by_text("The server may have it. It is sent again")).to_be_visible()


@pytest.mark.parametrize("reloads", [False, True], ids=["stays", "reloads"])
async def test_a_message_whose_acknowledgement_was_lost_is_there_once(
    chat: Site, between: Network, tab: Visitor, *, reloads: bool
) -> None:
    await lose_acknowledgement(tab.page, chat, between)
    between.heal()
    if reloads:
        await tab.page.reload()
    chat.script.put("Once.", None)
    await expect(answers(tab.page)).to_have_text(["Once."])
    await expect(questions(tab.page)).to_have_text(["Hello"])
    assert len(chat.script.chats) == 1


async def test_where_no_websocket_passes_everything_works_and_the_socket_is_found_when_it_does(
    chat: Site, between: Network, tab: Visitor
) -> None:
    between.block_sockets()
    polled = tab.page.locator("#status[title='Connected without a WebSocket']")
    await half_an_answer(tab.page, between.url, chat)
    await expect(polled).to_be_visible()
    await tab.page.get_by_role("button", name="Stop").click()
    await expect(tab.page.get_by_text("Stopped.")).to_be_visible()
    chat.script.put("Whole.", None)
    await tab.page.get_by_role("button", name="Try again").click()
    await expect(answers(tab.page)).to_have_text(["Half", "Whole."])

    between.heal()
    await tab.page.evaluate("dispatchEvent(new Event('online'))")
    await expect(polled).to_have_count(0)
    await shows(tab.page, "Connected")
    chat.script.put("Again.", None)
    await say(tab.page, "More")
    await expect(answers(tab.page)).to_have_text(["Half", "Whole.", "Again."])


async def test_a_chat_that_has_not_begun_is_polled_by_requests_that_are_held(
    chat: Site, between: Network, tab: Visitor
) -> None:
    between.block_sockets()
    polls: list[str] = []
    tab.page.on("request", lambda request: polls.append(request.url) if "wait=20" in request.url else None)
    await tab.page.goto(between.url + CHAT)
    await shows(tab.page, "Connected")
    await tab.page.wait_for_timeout(1_000)
    assert len(polls) <= 2


# The servers ----------------------------------------------------------------------------------------------------------


SHORT = "Math.random = () => 0.1"
"""Back-off that chance cuts short, for outages as long as a program takes to start."""


async def address(program: Program, word: str) -> str:
    """Where a part listens; `word` begins the line that says so."""
    found = re.search(r"http://\S+?:\d+", await program.line(word))
    assert found is not None
    return found[0]


async def test_a_backend_killed_in_the_middle_of_an_answer_keeps_it_and_offers_another(
    tmp_path: Path, tab: Visitor
) -> None:
    await tab.page.add_init_script(SHORT)
    async with openai_server() as model:
        environ = {"OPENAI_API_KEY": "sk-x", "OPENAI_BASE_URL": model.base_url}

        def part(port: str) -> contextlib.AbstractAsyncContextManager[Program]:
            return started("moorline", "backend", "--port", port, "--drain", "200ms", cwd=tmp_path, env=environ)

        async with part("0") as first:
            upstream = await address(first, "http")
            settings = Settings(host="127.0.0.1", port=0, upstream=(upstream,), drain=0.2, log_level="error")
            async with server.running(settings) as gateway:
                await tab.page.goto(gateway.addresses[0] + CHAT)
                await _ask(tab.page, model)
                await first.stop(signal.SIGKILL)
                await expect(tab.page.locator("#status-text")).not_to_have_text("Connected")
                await expect(answers(tab.page)).to_have_text(["Half"])
                async with part(upstream.rpartition(":")[2]) as second:
                    # A start may take longer than a step on the page.
                    await second.line("http")
                    await expect(tab.page.get_by_text("The answer was cut off.")).to_be_visible()
                    await shows(tab.page, "Connected")
                    await expect(answers(tab.page)).to_have_text(["Half"])
                    model.reply(says("Whole."), finish("stop"), DONE)
                    await tab.page.get_by_role("button", name="Try again").click()
                    await expect(answers(tab.page)).to_have_text(["Half", "Whole."])
                    await expect(questions(tab.page)).to_have_text(["Hello"])


async def _ask(page: Page, model: OpenAIServer) -> None:
    await shows(page, "Connected")
    model.reply(says("Half"), Fault.STALL)
    await say(page, "Hello")
    await expect(answers(page)).to_have_text(["Half"])


async def test_a_gateway_killed_in_the_middle_of_an_answer_loses_nothing(
    chat: Site, tmp_path: Path, tab: Visitor
) -> None:
    def part(port: str) -> contextlib.AbstractAsyncContextManager[Program]:
        return started(
            "moorline", "gateway", "--upstream", chat.backend, "--port", port, "--drain", "200ms", cwd=tmp_path
        )

    await tab.page.add_init_script(SHORT)
    async with part("0") as first:
        url = await address(first, "page")
        await half_an_answer(tab.page, url, chat)
        await first.stop(signal.SIGKILL)
        await expect(tab.page.locator("#status-text")).not_to_have_text("Connected")
        chat.script.put(" and half.", None)
        async with part(url.rpartition(":")[2]):
            await expect(answers(tab.page)).to_have_text(["Half and half."])
            await expect(questions(tab.page)).to_have_text(["Hello"])
            await shows(tab.page, "Connected")


async def test_the_page_says_why_the_connection_ended_when_the_backend_is_killed(tab: Visitor, tmp_path: Path) -> None:
    async with openai_server() as model, backend_process(tmp_path, model) as backend:
        options = Settings(host="127.0.0.1", port=0, upstream=(backend.http,), drain=0.2, connect_retry=None)
        async with server.running(options) as gateway:
            await tab.page.goto(gateway.addresses[0] + CHAT)
            await shows(tab.page, "Connected")
            await backend.program.stop(signal.SIGKILL)
            told = tab.page.get_by_role("note").filter(has_text="The last connection ended")
            await expect(told).to_contain_text("the upstream closed its connection without a Close frame")
            await expect(told).to_contain_text("(UF-idle)")
            await expect(told).to_contain_text("Next step: look at the backend's log at that second")
            await told.get_by_role("button", name="Dismiss").press("Enter")
            await expect(told).to_be_hidden()


async def test_a_page_from_elsewhere_does_not_ask_why(chat: Site, between: Network, chromium: Browser) -> None:
    async with visitor(chromium) as seen:
        asked: list[str] = []
        seen.page.on("request", lambda request: asked.append(request.url))
        # Chromium resolves it to this machine; the client takes it for another one.
        await seen.page.goto(between.url.replace("127.0.0.1", "chat.localhost") + CHAT)
        await shows(seen.page, "Connected")
        between.cut()
        between.heal()
        await shows(seen.page, "Connected")
        assert not [url for url in asked if "/-/ended/" in url]
        await expect(seen.page.locator("#ended")).to_be_hidden()


async def test_an_erased_chat_is_gone_from_the_page_and_stays_gone(chat: Site, tab: Visitor) -> None:
    await half_an_answer(tab.page, chat.url, chat)
    session = await tab.page.evaluate("localStorage['moorline:session:patient:demo']")
    await say(tab.page, "A secret")
    await expect(tab.page.get_by_text("Waiting for the answer above")).to_be_visible()
    async with aiohttp.ClientSession(chat.url) as client, client.delete(f"/api/chat/{session}") as answer:
        assert answer.status == 204
    await expect(tab.page.get_by_text("This chat was deleted.")).to_be_visible()
    await shows(tab.page, "Disconnected")
    await expect(answers(tab.page)).to_have_count(0)
    assert "A secret" not in await tab.page.evaluate("JSON.stringify(localStorage)")


async def test_a_stored_session_that_the_backend_would_refuse_is_no_session(chat: Site, tab: Visitor) -> None:
    await tab.page.add_init_script("localStorage['moorline:session:patient:demo'] ??= '..'")
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")


async def test_half_an_answer_whose_provider_fails_is_said_to_be_unfinished_and_why(
    chat: Site, between: Network, tab: Visitor
) -> None:
    said = "This answer is unfinished. The assistant cannot be reached right now."
    await half_an_answer(tab.page, chat.url, chat)
    session = await tab.page.evaluate("localStorage['moorline:session:patient:demo']")
    away = await tab.page.context.new_page()
    await away.add_init_script(f"localStorage['moorline:session:patient:demo'] = '{session}'")
    await away.goto(between.url + CHAT)
    await expect(answers(away)).to_have_text(["Half"])
    between.cut()
    await shows(away, "Reconnecting")
    chat.script.put(LLMError(ErrorCode.LLM_UNAVAILABLE, "connection reset"))
    await expect(tab.page.get_by_text(said)).to_be_visible()
    between.heal()
    await away.evaluate("dispatchEvent(new Event('online'))")
    await expect(away.get_by_text(said)).to_be_visible()
    await tab.page.reload()
    for page in (tab.page, away):
        await expect(page.get_by_text(said)).to_be_visible()
        await expect(answers(page)).to_have_text(["Half"])


async def test_an_answer_that_failed_before_its_first_word_is_not_said_to_be_unfinished(
    chat: Site, tab: Visitor
) -> None:
    await opened(tab.page, chat)
    chat.script.put(LLMError(ErrorCode.LLM_BUSY, "429"))
    await say(tab.page, "Hello")
    await expect(tab.page.locator(".meta.bad span")).to_have_text("The assistant is busy. Please try again shortly.")


# The browser ----------------------------------------------------------------------------------------------------------


async def test_a_reload_in_the_middle_of_an_answer_shows_it_and_its_rest(chat: Site, tab: Visitor) -> None:
    await half_an_answer(tab.page, chat.url, chat)
    await tab.page.reload()
    await expect(answers(tab.page)).to_have_text(["Half"])
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_visible()
    chat.script.put(" and half.", None)
    await expect(answers(tab.page)).to_have_text(["Half and half."])
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_hidden()


async def test_a_second_tab_joins_an_answer_and_stops_it_in_all_tabs(chat: Site, tab: Visitor) -> None:
    await half_an_answer(tab.page, chat.url, chat)
    other = await tab.page.context.new_page()
    await other.goto(chat.url + CHAT)
    await expect(answers(other)).to_have_text(["Half"])
    chat.script.put(" more")
    for page in (tab.page, other):
        await expect(answers(page)).to_have_text(["Half more"])
    await other.get_by_role("button", name="Stop").click()
    for page in (tab.page, other):
        await expect(page.get_by_text("Stopped.")).to_be_visible()
        await expect(answers(page)).to_have_text(["Half more"])
    await chat.script.closed.wait()


async def test_a_laptop_that_slept_through_the_end_of_an_answer_shows_it_on_waking(
    chat: Site, between: Network, chromium: Browser, tab: Visitor
) -> None:
    await half_an_answer(tab.page, between.url, chat)
    session = await chromium.new_browser_cdp_session()
    processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
    between.server_left.clear()
    # Chromium's own "frozen" lets timers run on; a stopped process runs nothing.
    asleep = [process["id"] for process in processes]
    for process in asleep:
        os.kill(process, signal.SIGSTOP)
    try:
        await between.server_left.wait()
        chat.script.put(" and half.", None)
        await chat.script.closed.wait()
    finally:
        for process in asleep:
            os.kill(process, signal.SIGCONT)
    await expect(answers(tab.page)).to_have_text(["Half and half."])
    await shows(tab.page, "Connected")
    await session.detach()
