"""Reading along on the built-in page: scrolling, the focus, and what is said when there is no connection or no chat."""

import pytest
from playwright.async_api import Browser, Page, expect

from tests.endtoend.conftest import Site
from tests.support import needs
from tests.support.browser import CHAT, SHARED, STEP, Visitor, answers, box, questions, say, shows, visitor
from tests.support.network import network

pytestmark = [needs.chromium, SHARED]

LINES = "\n\n".join(f"Line {number}." for number in range(60)) + "\n\n"
TO_END = (
    "(() => { const s = document.getElementById('scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight })()"
)
TOP = "document.getElementById('scroller').scrollTop"


# Two frames at the end: the page has nothing left to scroll itself, which would end a reader's smooth scrolling.
SETTLED = f"""new Promise((resolve) => {{
    let frames = 0;
    const look = () => {{
        frames = {TO_END} <= 1 ? frames + 1 : 0;
        frames > 2 ? resolve() : requestAnimationFrame(look);
    }};
    look();
}})"""


async def long_answer(page: Page, chat: Site) -> None:
    await page.goto(chat.url + CHAT)
    await shows(page, "Connected")
    chat.script.put(LINES)
    await say(page, "Hello")
    await expect(answers(page).get_by_text("Line 59.")).to_be_visible()
    await page.evaluate(SETTLED)


async def test_the_end_of_a_growing_answer_stays_in_view(chat: Site, tab: Visitor) -> None:
    await long_answer(tab.page, chat)
    await tab.page.set_viewport_size({"width": 500, "height": 400})
    chat.script.put("The end.", None)
    await expect(answers(tab.page).get_by_text("The end.")).to_be_in_viewport()
    assert await tab.page.evaluate(TO_END) <= 1


async def test_a_reader_who_scrolled_up_stays_there_until_they_go_to_the_newest(chat: Site, tab: Visitor) -> None:
    await long_answer(tab.page, chat)
    await tab.page.get_by_role("region", name="Messages").hover()
    await tab.page.mouse.wheel(0, -60)
    newest = tab.page.get_by_role("button", name="Newest")
    await expect(newest).to_be_visible()
    top = await tab.page.evaluate(TOP)
    chat.script.put(LINES, None)
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_hidden()
    assert await tab.page.evaluate(TOP) == top
    await newest.click()
    await expect(newest).to_be_hidden()
    assert await tab.page.evaluate(TO_END) <= 1


async def test_a_reader_who_scrolls_back_to_the_end_follows_again(chat: Site, tab: Visitor) -> None:
    await long_answer(tab.page, chat)
    await tab.page.get_by_role("region", name="Messages").focus()
    await tab.page.keyboard.press("Home")
    await expect(tab.page.get_by_role("button", name="Newest")).to_be_visible()
    await tab.page.keyboard.press("End")
    await expect(tab.page.get_by_role("button", name="Newest")).to_be_hidden()
    chat.script.put("The end.", None)
    await expect(answers(tab.page).get_by_text("The end.")).to_be_in_viewport()


async def test_the_focus_is_in_the_box_after_stop(chat: Site, tab: Visitor) -> None:
    await long_answer(tab.page, chat)
    await tab.page.get_by_role("button", name="Stop").focus()
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_text("Stopped.")).to_be_visible()
    await expect(box(tab.page)).to_be_focused()


async def test_stop_on_a_touch_screen_opens_no_keyboard(chat: Site, chromium: Browser) -> None:
    async with visitor(chromium, has_touch=True, is_mobile=True, viewport={"width": 360, "height": 640}) as phone:
        await long_answer(phone.page, chat)
        await phone.page.get_by_role("button", name="Stop").tap()
        await expect(phone.page.get_by_text("Stopped.")).to_be_visible()
        await expect(box(phone.page)).not_to_be_focused()


async def test_an_answer_is_read_out_when_it_is_whole(chat: Site, tab: Visitor) -> None:
    await long_answer(tab.page, chat)
    log = tab.page.get_by_role("log")
    await expect(log).to_have_attribute("aria-busy", "true")
    chat.script.put(None)
    await expect(log).to_have_attribute("aria-busy", "false")
    await expect(log).to_have_attribute("aria-live", "polite")


async def test_try_now_does_not_wait_for_the_countdown(chat: Site, tab: Visitor) -> None:
    # The longest back-off that chance allows.
    await tab.page.add_init_script("Math.random = () => 0.99")
    async with network(chat.url) as between:
        await tab.page.goto(between.url + CHAT)
        await shows(tab.page, "Connected")
        between.cut()
        await expect(tab.page.locator("#status")).to_contain_text("next try in")
        between.heal()
        await tab.page.get_by_role("button", name="Try now").click()
        await shows(tab.page, "Connected")
        await expect(tab.page.get_by_role("button", name="Try now")).to_be_hidden()


@pytest.mark.parametrize("path", ["/chat/%zz", "/chat/%", "/chat/a%20b"])
async def test_an_address_that_names_no_patient_is_said(chat: Site, tab: Visitor, path: str) -> None:
    await tab.page.goto(chat.url + path)
    await expect(tab.page.get_by_text("The address of this chat is not valid")).to_be_visible(timeout=STEP)
    await shows(tab.page, "Disconnected")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_wide_tables_and_code_scroll_in_themselves_on_a_phone(chat: Site, chromium: Browser, scheme: str) -> None:
    async with visitor(chromium, viewport={"width": 360, "height": 640}, color_scheme=scheme) as phone:
        await phone.page.goto(chat.url + CHAT)
        chat.script.put("| medicine | dose |\n|-|-|\n" + f"| {'x' * 80} | 1 |\n\n```\n{'y' * 200}\n```\n", None)
        await say(phone.page, "Hello")
        await expect(answers(phone.page).get_by_role("table")).to_be_visible()
        await expect(questions(phone.page)).to_have_text(["Hello"])
        assert await phone.page.evaluate("document.documentElement.scrollWidth") == 360
        assert await phone.page.evaluate("document.getElementById('scroller').scrollWidth") <= 360
