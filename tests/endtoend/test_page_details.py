"""The built-in page and its client in small mishaps: a late response, another tab, a full storage, a low screen."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.endtoend.conftest import Site, converse, opened
from tests.support import needs
from tests.support.browser import (
    CHAT,
    SHARED,
    STEP,
    Visitor,
    answers,
    box,
    chats,
    new_chat,
    questions,
    say,
    shows,
    visitor,
)
from tests.support.client import again, connected, lose, until
from tests.support.network import Network
from tests.support.played import Played

pytestmark = [needs.chromium, SHARED]

STORED = "JSON.stringify([localStorage, sessionStorage])"


async def polling(tab: Visitor, between: Network, on_post: Callable[[Route], Awaitable[None]]) -> None:
    """Open the page where no WebSocket passes; `on_post` has what it sends."""

    async def handle(route: Route) -> None:
        await (on_post(route) if route.request.method == "POST" else route.continue_())

    await tab.page.route("**/api/chat/*/messages*", handle)
    between.block_sockets()
    await tab.page.goto(between.url + CHAT)
    await shows(tab.page, "Connected")


async def session_of(page: Page) -> str:
    return str(await page.evaluate("localStorage['moorline:session:patient:demo']"))


async def erase(chat: Site, session: str) -> None:
    async with aiohttp.request("DELETE", f"{chat.backend}/api/chat/{session}") as answer:
        assert answer.status == 204


async def rows_of(chat: Site, session: str) -> list[dict[str, Any]]:
    async with aiohttp.request("GET", f"{chat.backend}/api/chat/{session}/messages") as answer:
        rows: list[dict[str, Any]] = await answer.json()
    return rows


# What is sent ---------------------------------------------------------------------------------------------------------


async def test_what_comes_after_an_answer_is_sent_though_the_response_to_the_question_is_late(
    chat: Site, between: Network, tab: Visitor
) -> None:
    answered = asyncio.Event()

    async def late(route: Route) -> None:
        response = await route.fetch()
        await answered.wait()
        await route.fulfill(response=response)

    await polling(tab, between, late)
    chat.script.put("One.", None)
    await say(tab.page, "First")
    await expect(answers(tab.page)).to_have_text(["One."])
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_hidden()
    chat.script.put("Two.", None)
    await say(tab.page, "Second")
    answered.set()
    await expect(answers(tab.page)).to_have_text(["One.", "Two."])


async def test_a_message_that_something_else_than_the_backend_has_taken_is_sent_again(
    chat: Site, between: Network, tab: Visitor
) -> None:
    posts: list[str] = []

    async def sign_in_page(route: Route) -> None:
        if not posts:
            posts.append(route.request.url)
            await route.fulfill(status=200, body="")
        else:
            await route.continue_()

    await polling(tab, between, sign_in_page)
    chat.script.put("Once.", None)
    await say(tab.page, "Hello")
    await expect(answers(tab.page)).to_have_text(["Once."])
    assert len(posts) == 1


async def test_what_waits_for_an_answer_is_not_sent_once_the_chat_is_erased(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    await socket.send("status", seq=1, run_id="r1", status="thinking")
    await until(page, "client.transcript.runId === 'r1'")
    await page.evaluate("client.send('A secret')")
    await socket.send("deleted")
    await until(page, "client.transcript.seq === 0")
    # The next frame of the client.
    await page.evaluate("void client.cancel('r1')")
    await socket.receive("cancel")


async def test_a_chat_that_is_erased_while_it_is_polled_gets_nothing_more(
    chat: Site, between: Network, tab: Visitor
) -> None:
    await polling(tab, between, Route.continue_)
    chat.script.put("Half")
    await say(tab.page, "Hello")
    await expect(answers(tab.page)).to_have_text(["Half"])
    await say(tab.page, "A secret")
    await expect(tab.page.get_by_text("Waiting for the answer above")).to_be_visible()
    session = await session_of(tab.page)
    await erase(chat, session)
    await expect(tab.page.get_by_text("This chat was deleted.")).to_be_visible()
    await shows(tab.page, "Disconnected")
    await expect(answers(tab.page)).to_have_count(0)
    assert "A secret" not in await tab.page.evaluate(STORED)
    assert await rows_of(chat, session) == []


async def test_a_message_that_a_polling_page_sends_as_its_chat_is_erased_does_not_begin_another(
    chat: Site, between: Network, tab: Visitor
) -> None:
    async def erased_before(route: Route) -> None:
        if "A secret" in (route.request.post_data or ""):
            await erase(chat, await session_of(tab.page))
        await route.continue_()

    await polling(tab, between, erased_before)
    chat.script.put("Whole.", None)
    await say(tab.page, "Hello")
    await expect(answers(tab.page)).to_have_text(["Whole."])
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_hidden()
    await say(tab.page, "A secret")
    await expect(tab.page.get_by_text("This chat was deleted.")).to_be_visible()
    assert await rows_of(chat, await session_of(tab.page)) == []


@pytest.mark.parametrize("transport", ["socket", "polling"])
async def test_a_chat_that_the_backends_database_has_lost_is_not_said_to_be_deleted(
    chat: Site, between: Network, tab: Visitor, tmp_path_factory: pytest.TempPathFactory, transport: str
) -> None:
    if transport == "polling":
        await polling(tab, between, Route.continue_)
    await tab.page.goto(between.url + CHAT)
    await shows(tab.page, "Connected")
    await converse(tab.page, chat, "Hello", "Good morning.")
    await chat.stop_backend()
    await shows(tab.page, "Reconnecting" if transport == "socket" else "Disconnected")
    await say(tab.page, "Keep this")
    await chat.start_backend(tmp_path_factory.mktemp("empty"))
    await expect(tab.page.get_by_text("The server cannot find this chat")).to_be_visible()
    await shows(tab.page, "Disconnected")
    await expect(answers(tab.page)).to_have_text(["Good morning."])
    await expect(questions(tab.page)).to_have_text(["Hello", "Keep this"])
    assert "Keep this" in await tab.page.evaluate(STORED)
    assert await rows_of(chat, await session_of(tab.page)) == []
    # The operator has found the fault.
    await chat.stop_backend()
    chat.script.put("Kept.", None)
    await chat.start_backend()
    await expect(answers(tab.page)).to_have_text(["Good morning.", "Kept."])
    await expect(questions(tab.page)).to_have_text(["Hello", "Keep this"])
    await expect(tab.page.get_by_text("The server cannot find this chat")).to_be_hidden()


async def test_a_page_that_is_shown_again_does_not_send_what_another_took_back(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    await lose(page, backend, socket)
    await page.evaluate("client.send('take back')")
    # No event tells a page of it that the browser keeps for the way back, nor the page that has done it.
    await page.evaluate("localStorage.clear()")
    backend.status = 200
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    returned = await backend.socket()
    await returned.send_hello()
    await until(page, "client.state.status === 'connected' && client.unsent[0].failed === 'unconfirmed'")
    assert returned.received_nothing()


async def test_a_request_that_a_sign_in_or_time_can_mend_is_repeated(url: str, page: Page) -> None:
    await page.goto(url + "/client/reconnect.js")
    repeated = await page.evaluate(
        """async (statuses) => {
            const { HttpError } = await import('/client/polling.js');
            return statuses.filter((status) => new HttpError(status, 'forbidden').refusal.retryable);
        }""",
        [400, 401, 403, 404, 408, 409, 413, 421, 429, 500, 502, 503, 504],
    )
    assert repeated == [401, 408, 429, 500, 502, 503, 504]


async def test_a_message_that_another_tab_finds_expired_stays_in_view_as_not_sent(url: str, page: Page) -> None:
    await page.goto(url + "/client/reconnect.js")
    shown = await page.evaluate(
        """async () => {
            const { KEPT, Outbox } = await import('/client/outbox.js');
            const outbox = new Outbox('s1', localStorage);
            const { clientMsgId } = outbox.add({ text: 'Hello' });
            outbox.entries[0].order -= KEPT + 1;
            const key = `moorline:unsent:s1:${clientMsgId}`;
            outbox.storageChanged({ key, newValue: null, storageArea: localStorage });
            return outbox.messages.map((entry) => [entry.text, entry.failed]);
        }"""
    )
    assert shown == [["Hello", "expired"]]


async def test_a_clock_that_is_set_back_does_not_keep_a_dead_socket(backend: Played, url: str, page: Page) -> None:
    await connected(page, url, backend)
    await page.clock.set_system_time(await page.evaluate("Date.now() / 1000 - 3600"))
    await page.clock.fast_forward(1_000)
    await page.clock.fast_forward(42_000)
    await again(page, backend)


async def test_enter_that_an_input_method_has_taken_sends_nothing(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await box(tab.page).fill("にほんご")
    # As Safari says it.
    await box(tab.page).dispatch_event("keydown", {"key": "Enter", "keyCode": 229, "bubbles": True})
    await expect(box(tab.page)).to_have_value("にほんご")
    await expect(questions(tab.page)).to_have_count(0)


# What is kept, and what is erased -------------------------------------------------------------------------------------


async def test_new_chat_in_another_tab_takes_neither_chat_nor_draft_from_this_one(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    await box(tab.page).fill("Half a thought")
    other = await tab.page.context.new_page()
    await opened(other, chat)
    await expect(questions(other)).to_have_text(["Hello"])
    await new_chat(other)
    await tab.page.reload()
    await expect(questions(tab.page)).to_have_text(["Hello"])
    await expect(box(tab.page)).to_have_value("Half a thought")


FULL = """for (const storage of [localStorage, sessionStorage])
    for (let size = 1 << 22; size >= 1; size >>= 1)
        try { for (let n = 0; ; n++) storage.setItem(`filler ${size} ${n}`, 'x'.repeat(size)); } catch {}"""
"""Until not one more byte is taken."""
CLOSES = "dispatchEvent(new Event('beforeunload', { cancelable: true }))"
"""Whether the page would close without asking."""


async def test_where_the_storage_is_full_closing_the_page_with_a_draft_asks_first(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await tab.page.evaluate(FULL)
    assert await tab.page.evaluate(CLOSES) is True
    await box(tab.page).fill("Half a thought")
    assert await tab.page.evaluate(CLOSES) is False


async def test_where_the_storage_is_full_closing_the_page_with_an_unsent_message_asks_first(
    chat: Site, tab: Visitor
) -> None:
    await opened(tab.page, chat)
    await tab.page.evaluate(FULL)
    await chat.stop_backend()
    await say(tab.page, "Keep this")
    await expect(questions(tab.page)).to_have_text(["Keep this"])
    assert await tab.page.evaluate(CLOSES) is False


async def test_an_erased_chat_leaves_the_list_before_its_socket_says_so(chat: Site, tab: Visitor) -> None:
    await tab.page.route("**/api/chat/*", lambda route: route.fulfill(status=204))
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    session = await tab.page.evaluate("localStorage['moorline:session:patient:demo']")
    listed = await chats(tab.page)
    await listed.get_by_role("button", name="Erase").click()
    await listed.get_by_role("button", name="Erase").click()
    await expect(listed).to_have_text(["None yet."])
    assert session not in await tab.page.evaluate(STORED)


# What is shown --------------------------------------------------------------------------------------------------------


async def test_keeping_a_chat_returns_the_focus_to_its_button(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    listed = await chats(tab.page)
    await listed.get_by_role("button", name="Erase").press("Enter")
    await listed.get_by_role("button", name="Keep").press("Enter")
    await expect(listed.get_by_role("button", name="Erase")).to_be_focused()


async def test_chats_of_one_minute_are_told_apart_by_their_first_words(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "About my knee", "Good morning.")
    await new_chat(tab.page)
    await converse(tab.page, chat, "About my back", "Good evening.")
    listed = await chats(tab.page)
    knee = listed.filter(has_text="About my knee")
    await expect(knee).to_have_count(1)
    await knee.get_by_role("button", name=re.compile("^Erase the chat of .*: About my knee$")).press("Enter")
    await expect(knee).to_contain_text("for everyone, for good?")
    await knee.get_by_role("button", name="Keep").press("Enter")
    await expect(knee.get_by_role("button", name="Erase")).to_be_focused()


async def test_the_title_of_a_source_reorders_nothing(backend: Played, url: str, tab: Visitor) -> None:
    await tab.page.goto(url + CHAT)
    socket = await backend.socket()
    await socket.send_hello(recovered=False)
    await socket.send_snapshot(0)
    await socket.send("status", seq=1, run_id="r1", status="thinking")
    source = {"kind": "source", "title": "\u202egm 05", "url": "https://a.example"}
    await socket.send("part", seq=2, run_id="r1", part=source)
    await expect(tab.page.get_by_role("list", name="Sources").get_by_role("link")).to_have_text("\ufffdgm 05")


async def test_a_phone_on_its_side_keeps_some_of_the_chat_in_view(chat: Site, chromium: Browser) -> None:
    async with visitor(chromium, viewport={"width": 640, "height": 320}) as phone:
        await phone.page.goto(chat.url + CHAT)
        await shows(phone.page, "Connected")
        await chat.stop_backend()
        await say(phone.page, "Keep this")
        await new_chat(phone.page)
        await expect(phone.page.get_by_text("1 message of an earlier chat")).to_be_visible()
        await expect(phone.page.locator("#remark")).to_be_visible(timeout=2 * STEP)
        region = await phone.page.get_by_role("region", name="Messages").bounding_box()
        assert region is not None
        assert region["height"] >= 120


async def test_a_long_list_of_chats_can_be_closed_without_scrolling_to_its_end(chat: Site, tab: Visitor) -> None:
    async def many(route: Route) -> None:
        rows = [{"session_id": f"s{n}", "at": "2026-01-31T12:00:00Z", "first_words": f"{n}."} for n in range(50)]
        await route.fulfill(json={"sessions": rows, "next": None})

    await tab.page.route("**/api/patients/patient:demo/sessions*", many)
    await opened(tab.page, chat)
    listed = await chats(tab.page)
    await expect(listed).to_have_count(50)
    close = tab.page.get_by_role("button", name="Close")
    await expect(close).to_be_in_viewport(ratio=1)
    fixed = await close.bounding_box()
    assert fixed is not None
    await listed.first.get_by_role("button", name="Open").focus()
    for _ in range(30):
        await tab.page.keyboard.press("Tab")
        focused = await tab.page.locator(":focus").bounding_box()
        assert focused is not None
        assert focused["y"] + focused["height"] <= fixed["y"], "what has the focus is below it"
    await close.click()
    await expect(tab.page.get_by_role("dialog")).to_be_hidden()


async def test_ranges_and_products_of_doses_are_shown_as_they_were_written(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    doses = "5~10 mg, later 10~20 mg; 2*5 mg or 4*5 mg"
    await converse(tab.page, chat, "How much?", doses)
