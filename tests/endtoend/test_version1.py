"""The built-in page before a backend of version 1: FastAPI behind the gateway, as a front end's developer has it."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from playwright.async_api import Page, expect

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from tests.support import needs
from tests.support.backends import Script, backend
from tests.support.browser import CHAT, SHARED, Visitor, answers, open_client, questions, say, shows
from tests.support.client import until
from tests.support.version1 import Version1Server, version1

pytestmark = [needs.chromium, SHARED]


class Outage:
    """The backend, which a test stops and starts, and the gateway's address before it."""

    def __init__(self, backend: Version1Server, stack: contextlib.AsyncExitStack) -> None:
        self.backend = backend
        self.url = ""
        self._stack = stack

    async def begin(self) -> None:
        await self._stack.aclose()

    async def end(self) -> None:
        await self._stack.enter_async_context(version1(self.backend, int(self.backend.url.rpartition(":")[2])))


@pytest_asyncio.fixture(loop_scope="package")
async def chat() -> AsyncIterator[Outage]:
    async with contextlib.AsyncExitStack() as stack:
        outage = Outage(await stack.enter_async_context(version1(Version1Server())), stack)
        settings = Settings(
            host="127.0.0.1", port=0, upstream=(outage.backend.url,), connect_retry=0, drain=0.2, log_level="error"
        )
        async with running(create_app(settings), settings) as gateway:
            outage.url = gateway.addresses[0]
            yield outage


async def opened(chat: Outage, tab: Visitor) -> Page:
    await tab.page.goto(chat.url + CHAT)
    await shows(tab.page, "Connected")
    return tab.page


async def test_it_sends_shows_thinking_and_the_answer(chat: Outage, tab: Visitor) -> None:
    page = await opened(chat, tab)
    await say(page, "Hello")
    await expect(page.locator(".thinking")).to_be_visible()
    chat.backend.answers.put_nowait("Good morning.")
    await expect(answers(page)).to_have_text(["Good morning."])
    await expect(questions(page)).to_have_text(["Hello"])


async def test_the_server_gets_nothing_but_messages(chat: Outage, tab: Visitor) -> None:
    chat.backend.greeting = [{"type": "ping"}, {"type": "status", "status": "connected"}]
    page = await opened(chat, tab)
    await page.evaluate("dispatchEvent(new Event('pageshow')), dispatchEvent(new Event('offline'))")
    for text in ("one", "two"):
        chat.backend.answers.put_nowait(f"{text}!")
        await say(page, text)
        await expect(answers(page).last).to_have_text(f"{text}!")
    assert chat.backend.frames == [{"message": "one"}, {"message": "two"}]


async def test_the_page_says_that_this_server_cannot_resume_and_offers_no_stop(chat: Outage, tab: Visitor) -> None:
    page = await opened(chat, tab)
    await expect(page.get_by_text("This server cannot resume")).to_be_visible()
    await say(page, "Hello")
    await expect(page.locator(".thinking")).to_be_visible()
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden()


async def test_the_next_message_waits_for_the_answer(chat: Outage, tab: Visitor) -> None:
    page = await opened(chat, tab)
    await say(page, "one")
    await say(page, "two")
    await expect(page.get_by_text("Waiting for the answer above")).to_be_visible()
    assert chat.backend.frames == [{"message": "one"}]
    chat.backend.answers.put_nowait("One.")
    chat.backend.answers.put_nowait("Two.")
    await expect(answers(page)).to_have_text(["One.", "Two."])


async def test_an_answer_lost_with_its_socket_is_said_to_be_and_asked_for_again_by_the_person_alone(
    chat: Outage, tab: Visitor
) -> None:
    page = await opened(chat, tab)
    await say(page, "Hello")
    await expect(page.locator(".thinking")).to_be_visible()
    chat.backend.answers.put_nowait(None)
    await expect(page.get_by_text("The connection was lost before the answer came")).to_be_visible()
    await shows(page, "Connected")
    assert chat.backend.frames == [{"message": "Hello"}]
    chat.backend.answers.put_nowait("Good morning.")
    await page.get_by_role("button", name="Try again").click()
    await expect(answers(page).last).to_have_text("Good morning.")
    assert chat.backend.frames == [{"message": "Hello"}] * 2


async def test_an_answer_is_asked_for_again_also_before_a_client_that_was_closed_is_connected(
    chat: Outage, tab: Visitor
) -> None:
    await open_client(tab.page, chat.url)
    chat.backend.answers.put_nowait(None)
    await tab.page.evaluate("client.send('Hello')")
    await until(tab.page, "client.transcript.rows.at(-1)?.finish === 'error'")
    chat.backend.answers.put_nowait("Good morning.")
    await tab.page.evaluate("client.close(), client.connect(), client.retry(client.transcript.rows.at(-1).runId)")
    await until(tab.page, "client.transcript.rows.at(-1).content === 'Good morning.'")
    assert chat.backend.frames == [{"message": "Hello"}] * 2


async def test_a_message_that_may_have_arrived_is_sent_again_by_the_person_alone(chat: Outage, tab: Visitor) -> None:
    chat.backend.thinks = False
    page = await opened(chat, tab)
    chat.backend.answers.put_nowait(None)
    await say(page, "Hello")
    await expect(page.get_by_text("It may have been received or not.")).to_be_visible()
    await page.reload()
    await shows(page, "Connected")
    await expect(questions(page)).to_have_text(["Hello"])
    assert chat.backend.frames == [{"message": "Hello"}]
    chat.backend.answers.put_nowait("Good morning.")
    await page.get_by_role("button", name="Send again").click()
    await expect(answers(page)).to_have_text(["Good morning."])
    assert await page.evaluate("Object.keys(localStorage).filter((key) => key.includes('unsent'))") == []


async def test_what_is_written_during_an_outage_is_sent_once_after_it(chat: Outage, tab: Visitor) -> None:
    page = await opened(chat, tab)
    await chat.begin()
    await shows(page, "Reconnecting")
    await say(page, "Keep this")
    chat.backend.answers.put_nowait("Kept.")
    await chat.end()
    await expect(answers(page)).to_have_text(["Kept."])
    assert chat.backend.frames == [{"message": "Keep this"}]


async def test_what_another_tab_may_send_waits_for_the_person(chat: Outage, tab: Visitor) -> None:
    page = await opened(chat, tab)
    await chat.begin()
    await shows(page, "Reconnecting")
    await say(page, "Keep this")
    other = await page.context.new_page()
    await other.goto(chat.url + CHAT)
    await expect(questions(other)).to_have_text(["Keep this"])
    chat.backend.answers.put_nowait("Kept.")
    await chat.end()
    await expect(answers(page)).to_have_text(["Kept."])
    await shows(other, "Connected")
    assert chat.backend.frames == [{"message": "Keep this"}]


async def test_during_an_outage_it_says_why_and_asks_with_back_off(chat: Outage, tab: Visitor) -> None:
    requests: list[str] = []
    tab.page.on("request", lambda request: requests.append(request.url))
    page = await opened(chat, tab)
    await chat.begin()
    requests.clear()
    await shows(page, "Disconnected")
    await expect(page.get_by_text("The chat service is not available (502).")).to_be_visible()
    # One for each of the three sockets that failed, and perhaps the next.
    assert len(requests) <= 4


async def test_an_error_of_the_server_gives_the_text_back(chat: Outage, tab: Visitor) -> None:
    chat.backend.thinks = False
    page = await opened(chat, tab)
    chat.backend.answers.put_nowait({"type": "error", "code": "too_large", "message": "Too long."})
    await say(page, "Hello")
    await expect(page.get_by_text("This message is too long.")).to_be_visible()
    await page.get_by_role("button", name="Edit").click()
    await expect(page.get_by_role("textbox", name="Message")).to_have_value("Hello")


async def test_a_history_is_shown(chat: Outage, tab: Visitor) -> None:
    chat.backend.history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good morning."}]
    page = await opened(chat, tab)
    await expect(questions(page)).to_have_text(["Hello"])
    await expect(answers(page)).to_have_text(["Good morning."])


async def test_a_shorter_history_takes_nothing_out_of_view(chat: Outage, tab: Visitor) -> None:
    page = await opened(chat, tab)
    chat.backend.answers.put_nowait("Good morning.")
    await say(page, "Hello")
    await expect(answers(page)).to_have_text(["Good morning."])
    chat.backend.history = [{"role": "assistant", "content": "Welcome."}]
    await chat.begin()
    await shows(page, "Reconnecting")
    await chat.end()
    await shows(page, "Connected")
    await expect(answers(page)).to_have_text(["Good morning."])


async def test_a_server_without_a_history_is_spoken_to(chat: Outage, tab: Visitor) -> None:
    chat.backend.history = None
    chat.backend.answers.put_nowait("Good morning.")
    page = await opened(chat, tab)
    await say(page, "Hello")
    await expect(answers(page)).to_have_text(["Good morning."])


async def test_each_message_carries_the_token_of_its_socket(chat: Outage, tab: Visitor) -> None:
    await tab.page.goto(chat.url + "/client/reconnect.js")
    await tab.page.evaluate(
        """async () => {
            const { MoorlineClient } = await import('/client/moorline-client.js');
            let asked = 0;
            const token = async () => `t${++asked}`;
            window.client = new MoorlineClient({ patientId: 'patient:demo', sessionId: 's1', storage: null, token });
            client.connect();
        }"""
    )
    for message in ("one", "two"):
        chat.backend.answers.put_nowait(f"{message}!")
        await until(tab.page, "client.state.status === 'connected'")
        await tab.page.evaluate("(message) => client.send(message)", message)
        await until(tab.page, f"client.transcript.rows.at(-1)?.content === '{message}!'")
        await chat.begin()
        await until(tab.page, "client.state.status !== 'connected'")
        await chat.end()
    sent = chat.backend.frames
    assert [frame["message"] for frame in sent] == ["one", "two"]
    first, second = (frame["token"] for frame in sent)
    assert first != second


async def test_a_browser_that_opens_sockets_without_the_subprotocol_sends_no_hello(chat: Outage, tab: Visitor) -> None:
    # RFC 6455 allows it, and the HTML standard forbids it.
    await tab.page.add_init_script(
        "const Real = WebSocket; window.WebSocket = class extends Real { constructor(url) { super(url); } }"
    )
    page = await opened(chat, tab)
    chat.backend.answers.put_nowait("Good morning.")
    await say(page, "Hello")
    await expect(answers(page)).to_have_text(["Good morning."])
    assert chat.backend.frames == [{"message": "Hello"}]


async def test_a_backend_of_version_2_that_takes_its_place_is_found(chat: Outage, tab: Visitor, tmp_path: Path) -> None:
    page = await opened(chat, tab)
    await chat.begin()
    await shows(page, "Reconnecting")
    script = Script()
    async with backend(tmp_path, script, port=int(chat.backend.url.rpartition(":")[2]), drain=0.2):
        await shows(page, "Connected")
        await expect(page.get_by_text("This server cannot resume")).to_be_hidden()
        script.put("Good morning.", None)
        await say(page, "Hello")
        await expect(answers(page)).to_have_text(["Good morning."])
