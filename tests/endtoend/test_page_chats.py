"""What the built-in page keeps: drafts, unsent messages, the chats of this browser, or nothing at all."""

import json
import re

import aiohttp
from playwright.async_api import Dialog, Locator, Page, Route, expect

from tests.endtoend.conftest import Site, converse, opened
from tests.support import needs
from tests.support.browser import SHARED, STEP, Visitor, answers, box, chats, new_chat, questions, say, shows

pytestmark = [needs.chromium, SHARED]

STORED = "JSON.stringify([localStorage, sessionStorage])"


def keeps(page: Page) -> Locator:
    return page.get_by_role("checkbox", name=re.compile("^Keep this list"))


# New chat -------------------------------------------------------------------------------------------------------------


async def test_a_message_that_is_unsent_at_new_chat_is_still_sent_once(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await chat.stop_backend()
    await say(tab.page, "Keep this")
    await new_chat(tab.page)
    await expect(questions(tab.page)).to_have_count(0)
    waiting = tab.page.get_by_text("1 message of an earlier chat: not sent yet")
    await expect(waiting).to_be_visible()
    chat.script.put("Kept.", None)
    await chat.start_backend()
    await expect(waiting).to_be_hidden(timeout=2 * STEP)
    await shows(tab.page, "Connected")
    await expect(questions(tab.page)).to_have_count(0)
    assert [str(asked[-1].content) for asked in chat.script.chats] == ["Keep this"]
    assert "Keep this" not in await tab.page.evaluate(STORED)


async def test_a_reload_after_new_chat_does_not_lose_the_message(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await chat.stop_backend()
    await say(tab.page, "Keep this")
    await new_chat(tab.page)
    await tab.page.reload()
    await expect(tab.page.get_by_text("1 message of an earlier chat: not sent yet")).to_be_visible()
    # Before the backend is there: the message is sent at once then, and the button is no longer needed.
    await tab.page.get_by_role("button", name="Open that chat").click()
    chat.script.put("Kept.", None)
    await chat.start_backend()
    await expect(answers(tab.page)).to_have_text(["Kept."], timeout=2 * STEP)
    await expect(questions(tab.page)).to_have_text(["Keep this"])
    assert len(chat.script.chats) == 1


async def test_a_message_that_was_refused_can_still_be_edited_after_new_chat(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await say(tab.page, "x" * 70_000)
    await expect(tab.page.get_by_text("This message is too long.")).to_be_visible()
    await new_chat(tab.page)
    await expect(tab.page.get_by_text("1 message of an earlier chat: not sent.")).to_be_visible()
    await tab.page.get_by_role("button", name="Open that chat").click()
    await tab.page.get_by_role("button", name="Edit").click()
    await expect(box(tab.page)).to_have_value("x" * 70_000)
    await expect(tab.page.get_by_text("1 message of an earlier chat")).to_be_hidden()


# Drafts ---------------------------------------------------------------------------------------------------------------


async def test_a_draft_survives_a_reload_and_is_erased_when_it_is_sent(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await box(tab.page).fill("Half a thought")
    await tab.page.reload()
    await expect(box(tab.page)).to_have_value("Half a thought")
    chat.script.put("Whole.", None)
    await box(tab.page).press("Enter")
    await expect(answers(tab.page)).to_have_text(["Whole."])
    assert "Half a thought" not in await tab.page.evaluate(STORED)


async def test_a_draft_goes_along_to_a_new_chat(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    await box(tab.page).fill("Half a thought")
    await new_chat(tab.page)
    await tab.page.reload()
    await expect(box(tab.page)).to_have_value("Half a thought")
    await expect(questions(tab.page)).to_have_count(0)
    assert (await tab.page.evaluate(STORED)).count("Half a thought") == 1


# The chats of this browser --------------------------------------------------------------------------------------------


async def test_an_earlier_chat_is_found_again(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    await new_chat(tab.page)
    await converse(tab.page, chat, "Again", "Good evening.")
    listed = await chats(tab.page)
    await expect(listed).to_have_count(2)
    await expect(listed.first).to_contain_text("(this chat)")
    await listed.last.get_by_role("button", name="Open").click()
    await expect(questions(tab.page)).to_have_text(["Hello"])
    await expect(answers(tab.page)).to_have_text(["Good morning."])


async def test_a_chat_of_another_browser_is_listed_with_its_first_words_and_can_be_opened(
    chat: Site, tab: Visitor
) -> None:
    chat.script.put("Good morning.", None)
    body = {"patient_id": "patient:demo", "message": "From another browser", "client_msg_id": "c1"}
    async with aiohttp.request("POST", f"{chat.url}/api/chat/elsewhere/messages", json=body) as sent:
        assert sent.status == 202
    await opened(tab.page, chat)
    listed = await chats(tab.page)
    await expect(listed).to_have_count(1)
    await expect(listed).to_contain_text("From another browser")
    await listed.get_by_role("button", name="Open").click()
    await expect(answers(tab.page)).to_have_text(["Good morning."])
    assert "From another browser" not in await tab.page.evaluate(STORED)


async def test_older_chats_come_page_by_page(chat: Site, tab: Visitor) -> None:
    sessions = [{"session_id": f"s{n}", "at": f"2026-01-{n:02}T00:00:00.000Z", "first_words": f"{n}."} for n in (2, 1)]

    async def page(route: Route) -> None:
        is_first = "before=" not in route.request.url
        shown = {"sessions": sessions[:1], "next": "1.5~s2"} if is_first else {"sessions": sessions[1:]}
        await route.fulfill(json=shown)

    await tab.page.route("**/api/patients/patient:demo/sessions*", page)
    await opened(tab.page, chat)
    listed = await chats(tab.page)
    await expect(listed.locator(".words")).to_have_text(["2."])
    await tab.page.get_by_role("button", name="Older chats").click()
    await expect(listed.locator(".words")).to_have_text(["2.", "1."])
    await expect(tab.page.get_by_role("button", name="Older chats")).to_be_hidden()


async def test_where_the_server_lists_no_chats_those_of_this_browser_are(chat: Site, tab: Visitor) -> None:
    await tab.page.route("**/api/patients/**", lambda route: route.fulfill(status=404, body="<p>no such page</p>"))
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    await expect(await chats(tab.page)).to_have_count(1)


async def test_the_list_holds_no_text_and_no_chat_without_a_message(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "A secret", "Another one.")
    await new_chat(tab.page)
    await expect(await chats(tab.page)).to_have_count(1)
    stored = await tab.page.evaluate(STORED)
    assert "A secret" not in stored
    assert "Another one" not in stored


async def test_an_earlier_chat_is_erased_on_the_server_and_here(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    session = await tab.page.evaluate("localStorage['moorline:session:patient:demo']")
    await new_chat(tab.page)
    listed = await chats(tab.page)
    await listed.get_by_role("button", name="Erase").click()
    await expect(listed.get_by_role("button", name="Keep")).to_be_focused()
    async with tab.page.expect_response(lambda response: response.request.method == "DELETE") as erased:
        await listed.get_by_role("button", name="Erase").click()
    assert (await erased.value).status == 204
    await expect(listed).to_have_text(["None yet."])
    assert session not in await tab.page.evaluate(STORED)


async def test_erasing_the_chat_that_is_shown_begins_a_new_one(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    listed = await chats(tab.page)
    await listed.get_by_role("button", name="Erase").click()
    await listed.get_by_role("button", name="Erase").click()
    await tab.page.get_by_role("button", name="Close").click()
    await expect(questions(tab.page)).to_have_count(0)
    await shows(tab.page, "Connected")
    await converse(tab.page, chat, "Again", "Good evening.")


async def test_a_chat_that_the_server_did_not_erase_stays_in_the_list(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    await new_chat(tab.page)
    await chat.stop_backend()
    listed = await chats(tab.page)
    await listed.get_by_role("button", name="Erase").click()
    await listed.get_by_role("button", name="Erase").click()
    await expect(listed).to_contain_text("The server has not erased this chat.")
    await chat.start_backend()
    await listed.get_by_role("button", name="Try again").click()
    await expect(listed).to_have_text(["None yet."])


# Keeping nothing ------------------------------------------------------------------------------------------------------


async def test_nothing_is_kept_once_it_is_switched_off(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await converse(tab.page, chat, "Hello", "Good morning.")
    await box(tab.page).fill("A draft")
    await chats(tab.page)
    await keeps(tab.page).uncheck()
    await tab.page.get_by_role("button", name="Close").click()
    await expect(answers(tab.page)).to_have_text(["Good morning."])
    await expect(box(tab.page)).to_have_value("A draft")
    chat.script.put("Good evening.", None)
    await box(tab.page).press("Enter")
    await expect(answers(tab.page)).to_have_text(["Good morning.", "Good evening."])
    assert json.loads(await tab.page.evaluate(STORED)) == [{"moorline:keep": "off"}, {}]
    await tab.page.reload()
    await shows(tab.page, "Connected")
    await expect(questions(tab.page)).to_have_count(0)


async def test_the_choice_reaches_the_other_tabs(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    other = await tab.page.context.new_page()
    await opened(other, chat)
    await box(other).fill("A draft")
    await other.evaluate("sessionStorage['moorline:draft:s2'] = 'of another chat'")
    async with other.expect_websocket():
        await chats(tab.page)
        await keeps(tab.page).uncheck()
    await chat.stop_backend()
    await box(other).press("Enter")
    await expect(other.get_by_text("Not sent yet.")).to_be_visible()
    assert json.loads(await other.evaluate(STORED)) == [{"moorline:keep": "off"}, {}]


async def test_the_choice_waits_for_unsent_messages(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await chat.stop_backend()
    await say(tab.page, "Keep this")
    await chats(tab.page)
    await expect(keeps(tab.page)).to_be_disabled()
    await expect(tab.page.get_by_text("once no message is unsent")).to_be_visible()


async def test_where_nothing_is_kept_closing_the_page_with_unsent_text_asks_first(chat: Site, tab: Visitor) -> None:
    await opened(tab.page, chat)
    await chats(tab.page)
    await keeps(tab.page).uncheck()
    await tab.page.get_by_role("button", name="Close").click()
    await box(tab.page).press_sequentially("Half a thought")
    asked: list[str] = []

    async def stay(dialog: Dialog) -> None:
        asked.append(dialog.type)
        await dialog.dismiss()

    tab.page.on("dialog", stay)
    await tab.page.close(run_before_unload=True)
    await expect(box(tab.page)).to_have_value("Half a thought")
    while not asked:
        await tab.page.wait_for_event("dialog")
    assert asked == ["beforeunload"]
