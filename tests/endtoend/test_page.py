"""The built-in page in a real browser, on a real gateway and backend."""

from playwright.async_api import Browser, expect

from tests.endtoend.conftest import Site
from tests.support import needs
from tests.support.browser import (
    CHAT,
    SHARED,
    STEP,
    Visitor,
    answers,
    box,
    check_conversation,
    questions,
    say,
    shows,
    visitor,
)
from tests.support.played import Played

SOURCES = (("Guideline", "/guidelines/1.pdf"), ("On paper", ""), ("Bad", "javascript:alert(1)"))

pytestmark = [needs.chromium, SHARED]


async def test_a_conversation_survives_a_reload(chat: Site, tab: Visitor) -> None:
    chat.script.put("Good ", "morning.", None)
    await check_conversation(tab.page, chat.url)


async def test_the_page_talks_to_its_own_host_alone_and_complains_about_nothing(chat: Site, tab: Visitor) -> None:
    chat.script.put("Good morning.", None)
    await check_conversation(tab.page, chat.url)
    assert tab.hosts == {chat.url.removeprefix("http://")}
    assert tab.complaints == []


async def test_an_answer_is_announced_at_once_and_streams_in(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    await say(tab.page, "Hello")
    await expect(tab.page.get_by_text("Thinking")).to_be_visible()
    chat.script.put("Good ")
    await expect(answers(tab.page)).to_have_text(["Good "])
    chat.script.put("morning.", None)
    await expect(answers(tab.page)).to_have_text(["Good morning."])
    await expect(tab.page.get_by_text("Thinking")).to_be_hidden()


async def test_markup_is_shown_as_text_and_keeps_its_whitespace(chat: Site, tab: Visitor) -> None:
    markup = '<img src=x onerror="document.title=1">\n  two  spaces <script>document.title=2</script>'
    chat.script.put(markup, None)
    await tab.page.goto(chat.url + CHAT)
    await say(tab.page, markup)
    await expect(answers(tab.page)).to_have_count(1)
    await expect(answers(tab.page)).not_to_be_empty()
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_hidden()
    assert await questions(tab.page).inner_text() == markup
    assert await answers(tab.page).inner_text() == markup
    assert await tab.page.title() == "patient:demo · Moorline"


async def test_an_answer_is_shown_as_markdown_while_it_is_written(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    chat.script.put("Bring:\n\n- your **card**\n- [the form](https://a.exa")
    await say(tab.page, "What do I *need*?")
    await expect(answers(tab.page).locator("strong")).to_have_text("card")
    chat.script.put("mple)\n", None)
    await expect(answers(tab.page).get_by_role("link")).to_have_attribute("href", "https://a.example/")
    await expect(answers(tab.page).get_by_role("listitem")).to_have_text(["your card", "the form"])
    await expect(questions(tab.page)).to_have_text("What do I *need*?")


async def test_what_the_responder_does_and_its_sources_are_shown(backend: Played, url: str, tab: Visitor) -> None:
    await tab.page.goto(url + CHAT)
    socket = await backend.socket()
    await socket.send_hello(recovered=False)
    await socket.send_snapshot(0)
    await socket.send("status", seq=1, run_id="r1", status="thinking")
    await socket.send("part", seq=2, run_id="r1", part={"kind": "status", "text": "Reading the guideline"})
    await expect(tab.page.get_by_text("Reading the guideline")).to_be_visible()
    for seq, (title, address) in enumerate(SOURCES, 3):
        await socket.send("part", seq=seq, run_id="r1", part={"kind": "source", "title": title, "url": address})
    await socket.send("delta", seq=6, run_id="r1", message_id="m1", text="As it says.")
    await expect(tab.page.get_by_text("Reading the guideline")).to_be_hidden()
    sources = tab.page.get_by_role("list", name="Sources")
    await expect(sources.get_by_role("listitem")).to_have_text(["Guideline", "On paper", "Bad"])
    await expect(sources.get_by_role("link")).to_have_count(1)
    await expect(sources.get_by_role("link")).to_have_attribute("href", url + "/guidelines/1.pdf")


async def test_a_backend_that_returns_is_found_by_itself_with_the_same_conversation(chat: Site, tab: Visitor) -> None:
    chat.script.put("Good morning.", None)
    await check_conversation(tab.page, chat.url)
    await chat.stop_backend()
    await expect(tab.page.locator("#status")).not_to_have_attribute("data-status", "connected", timeout=STEP)
    await say(tab.page, "Are you there?")
    await expect(tab.page.get_by_text("Not sent yet.")).to_be_visible()

    chat.script.put("I am back.", None)
    await chat.start_backend()
    await expect(questions(tab.page)).to_have_text(["Hello", "Are you there?"], timeout=2 * STEP)
    await expect(answers(tab.page)).to_have_text(["Good morning.", "I am back."], timeout=STEP)
    await shows(tab.page, "Connected")


async def test_the_page_says_when_no_model_is_configured(chat: Site, tab: Visitor) -> None:
    words = tab.page.get_by_text("No model is configured")
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    await expect(words).to_be_hidden()
    await chat.stop_backend()
    chat.script.scripted = True
    await chat.start_backend()
    await tab.page.reload()
    await expect(words).to_be_visible()


async def test_an_unreachable_backend_is_shown_as_disconnected(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    await chat.stop_backend()
    await shows(tab.page, "Disconnected")


async def test_an_unsent_message_survives_a_reload(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    await chat.stop_backend()
    await say(tab.page, "Keep this")
    await tab.page.reload()
    await expect(tab.page.get_by_text("Not sent yet.")).to_be_visible()
    chat.script.put("Kept.", None)
    await chat.start_backend()
    await expect(answers(tab.page)).to_have_text(["Kept."], timeout=2 * STEP)
    await expect(questions(tab.page)).to_have_text(["Keep this"])


async def test_two_tabs_show_the_same_conversation(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    other = await tab.page.context.new_page()
    await other.goto(chat.url + CHAT)
    await shows(other, "Connected")
    chat.script.put("Good morning.", None)
    await say(tab.page, "Hello")
    for page in (tab.page, other):
        await expect(questions(page)).to_have_text(["Hello"])
        await expect(answers(page)).to_have_text(["Good morning."])


async def test_stop_keeps_what_was_written_and_try_again_asks_anew(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    chat.script.put("Half")
    await say(tab.page, "Hello")
    await expect(answers(tab.page)).to_have_text(["Half"])
    await tab.page.get_by_role("button", name="Stop").click()
    await expect(tab.page.get_by_text("Stopped.")).to_be_visible()
    chat.script.put("Whole.", None)
    await tab.page.get_by_role("button", name="Try again").click()
    await expect(answers(tab.page).last).to_have_text("Whole.")


async def test_an_answer_without_text_is_told_from_one_that_has_not_come(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    chat.script.put(None)
    await say(tab.page, "Hello")
    await expect(tab.page.get_by_role("article").last).to_have_text("Assistant: The answer has no text.")
    await expect(tab.page.get_by_role("button", name="Try again")).to_have_count(0)


async def test_the_keyboard_is_enough(chat: Site, tab: Visitor) -> None:
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    await expect(box(tab.page)).to_be_focused()
    await tab.page.keyboard.type("one")
    await tab.page.keyboard.press("Shift+Enter")
    await tab.page.keyboard.type("two")
    chat.script.put("Half")
    await tab.page.keyboard.press("Enter")
    await expect(questions(tab.page)).to_have_text(["one\ntwo"])
    await expect(answers(tab.page)).to_have_text(["Half"])
    await tab.page.keyboard.press("Tab")
    await expect(tab.page.get_by_role("button", name="Stop")).to_be_focused()
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_text("Stopped.")).to_be_visible()


async def test_a_new_chat_starts_empty(chat: Site, tab: Visitor) -> None:
    chat.script.put("Good morning.", None)
    await check_conversation(tab.page, chat.url)
    await tab.page.get_by_role("button", name="New chat").click()
    await expect(tab.page.get_by_text("How can I help?")).to_be_visible()
    await expect(questions(tab.page)).to_have_count(0)


async def test_a_narrow_phone_needs_no_sideways_scrolling(chat: Site, chromium: Browser) -> None:
    async with visitor(chromium, viewport={"width": 320, "height": 560}) as phone:
        chat.script.put("Donaudampfschifffahrtsgesellschaft" * 8, None)
        await check_conversation(phone.page, chat.url)
        assert await phone.page.evaluate("document.documentElement.scrollWidth") == 320


async def test_a_network_that_blocks_websockets_still_chats(chat: Site, tab: Visitor) -> None:
    await tab.page.add_init_script(
        "window.WebSocket = class extends WebSocket { constructor(url) { super(url.replace('/ws/', '/blocked/')); } }"
    )
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    chat.script.put("Good morning.", None)
    await say(tab.page, "Hello")
    await expect(answers(tab.page)).to_have_text(["Good morning."])
