"""/-/moorline in a browser: a thousand sockets, and each way to end with its sentence."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from moorline.gateway.app import create_app
from moorline.gateway.common.web.server import running
from moorline.gateway.settings import Settings
from tests.support import needs
from tests.support.browser import SHARED, Visitor, visitor
from tests.support.faulty_upstream import HANDSHAKE, SWITCH, Peer, Upstream, dial
from tests.support.raw import Connection, listening
from tests.support.websocket_frames import BINARY, TEXT, close_frame, frame

pytestmark = [needs.chromium, SHARED]

TOKEN = "a token of the test"
KEY = b"mask"
# A second, and more for a loaded machine.
_SHOWN_WITHIN = 8.0
# Where a side does not answer the gateway's Close frame: it is not waited for.
UNANSWERED = {"close_timeout": 0.2}
QUICK = {"client_heartbeat": 0.3, "upstream_heartbeat": None, "heartbeat_timeout": 0.3, **UNANSWERED}


class Rig:
    """A gateway before an upstream that the test plays."""

    def __init__(self, upstream: Upstream, url: str, port: int) -> None:
        self._upstream = upstream
        self.url = url
        self.port = port

    async def open(self, stack: contextlib.AsyncExitStack) -> tuple[Peer, Peer]:
        client = await stack.enter_async_context(dial(self.port))
        await client.send(HANDSHAKE)
        backend = await self._upstream.accept()
        await backend.send(SWITCH)
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        return client, backend


@contextlib.asynccontextmanager
async def rig(**options: object) -> AsyncIterator[Rig]:
    async with Upstream() as upstream:
        # The page is open still when the gateway ends, which does not wait for it.
        defaults = {"port": 0, "upstream": (f"http://127.0.0.1:{upstream.port}",), "drain": 0.2}
        settings = Settings(**{**defaults, **options})  # type: ignore[arg-type]
        async with running(create_app(settings), settings) as gateway:
            yield Rig(upstream, gateway.addresses[0], gateway.port)


@pytest_asyncio.fixture(loop_scope="package")
async def tab(chromium: Browser) -> AsyncIterator[Visitor]:
    async with visitor(chromium) as opened:
        yield opened


# By code: which side ends first, what it sends, and how it ends. A part of a frame or a Close frame reaches the other.
ENDS: dict[str, tuple[str, bytes, str]] = {
    "UR-idle": ("upstream", b"", "reset"),
    "UF-idle": ("upstream", b"", "close"),
    "CR-idle": ("client", b"", "reset"),
    "CF-idle": ("client", b"", "close"),
    "UR-mid-frame": ("upstream", frame(TEXT, b"hello")[:4], "reset"),
    "CF-mid-frame": ("client", frame(TEXT, b"hello", key=KEY)[:7], "close"),
    "CC-closing": ("client", close_frame(1000, key=KEY), "fin"),
    "UC-closing": ("upstream", close_frame(1000), "fin"),
    "UV-closing": ("client", close_frame(1002, key=KEY), "fin"),
    "CV-closing": ("upstream", close_frame(1009), "fin"),
    "CS-idle": ("client", frame(BINARY, bytes(2000), key=KEY), "fin"),
    "US-idle": ("upstream", frame(BINARY, bytes(2000)), "fin"),
}
# By code: what each side sends; then nothing more happens until a timer ends the socket.
TIMERS: dict[str, tuple[bytes, bytes]] = {
    "CL-closing": (b"", close_frame(1000)),
    "UL-closing": (close_frame(1000, key=KEY), b""),
    "CM-mid-frame": (frame(TEXT, b"hello", key=KEY)[:7], b""),
    "GT-idle": (b"", b""),
}
QUICK_TIMERS = {
    "client_heartbeat": None,
    "upstream_heartbeat": None,
    "close_timeout": 0.2,
    "message_timeout": 0.2,
    "proxy_read_timeout": 0.6,
}


async def test_each_end_appears_within_a_second_with_its_sentence(tab: Visitor) -> None:
    async with rig(max_frame_size=1000) as gateway, contextlib.AsyncExitStack() as stack:
        await tab.page.goto(f"{gateway.url}/-/moorline")
        for code, (side, data, way) in ENDS.items():
            client, backend = await gateway.open(stack)
            await expect(tab.page.locator("#open-count")).to_have_text("(1)")
            first, other = (client, backend) if side == "client" else (backend, client)
            await first.send(data)
            await other.exactly(min(4, len(data)))
            getattr(first, way)()
            # It ends with both connections, as a browser and a server end theirs.
            await other.ended()
            other.close()
            if way == "fin":
                await first.ended()
                first.close()
            await appears(tab.page, code)
    assert tab.complaints == []


async def test_each_timer_s_end_appears(tab: Visitor) -> None:
    async with rig(**QUICK_TIMERS) as gateway, contextlib.AsyncExitStack() as stack:
        await tab.page.goto(f"{gateway.url}/-/moorline")
        for code, (from_client, from_upstream) in TIMERS.items():
            client, backend = await gateway.open(stack)
            await client.send(from_client)
            await backend.send(from_upstream)
            for peer in (client, backend):
                await peer.ended()
                peer.close()
            await appears(tab.page, code)


async def test_a_fault_is_armed_and_disarmed_by_keyboard(tab: Visitor) -> None:
    async with rig(faults=True, **UNANSWERED) as gateway, contextlib.AsyncExitStack() as stack:
        _, backend = await gateway.open(stack)
        await shown(tab.page, gateway)
        chosen = tab.page.get_by_role("combobox", name="Fault")
        await chosen.focus()
        # A letter selects, as in any list.
        await tab.page.keyboard.type("vanish")
        await expect(chosen).to_have_value("vanish")
        await expect(tab.page.locator("#fault-does")).to_contain_text("neither end is told")
        await tab.page.keyboard.press("Enter")
        armed = tab.page.get_by_role("list", name="Armed faults").get_by_role("listitem")
        await tab.page.get_by_role("button", name="Arm").press("Enter")
        await expect(armed).to_have_text(["Disarm vanish on the side of the client, /ws/: met by 1 connection"])
        await armed.get_by_role("button", name="Disarm vanish").press("Enter")
        await expect(armed).to_have_count(0)
        assert await tab.page.evaluate("document.activeElement.id") == "arm"
        await chosen.select_option("reset")
        await tab.page.get_by_label("Side").select_option("upstream")
        await tab.page.get_by_role("button", name="Arm").press("Enter")
        await backend.ended()
        await expect(tab.page.locator("#ended li code").first).to_have_text("UR-idle")
    assert tab.complaints == []


async def test_a_client_that_answers_no_ping_appears(tab: Visitor) -> None:
    async with rig(**QUICK) as gateway, contextlib.AsyncExitStack() as stack:
        await gateway.open(stack)
        # On busy cores it has ended before the page shows it.
        await tab.page.goto(f"{gateway.url}/-/moorline")
        await expect(tab.page.locator("#ended li code").first).to_have_text("CH-idle")


async def test_a_thousand_sockets_are_shown_filtered_and_removed(tab: Visitor) -> None:
    async with listening(switch_and_read) as port, contextlib.AsyncExitStack() as stack:
        settings = Settings(
            port=0,
            upstream=(f"http://127.0.0.1:{port}",),
            max_connections_per_address=None,
            # A client that closes with a Ping unread sends a reset, where busy cores need longer than to the first one.
            client_heartbeat=None,
        )
        gateway = await stack.enter_async_context(running(create_app(settings), settings))
        clients: list[Peer] = []
        # Not all at once: on busy cores the last would wait for longer than a step, or client_header_timeout, allows.
        for _ in range(10):
            some = [await stack.enter_async_context(dial(gateway.port)) for _ in range(100)]
            for client in some:
                await client.send(HANDSHAKE)
            await asyncio.gather(*(client.head() for client in some))
            clients += some
        await tab.page.goto(f"{gateway.addresses[0]}/-/moorline")
        await expect(tab.page.locator("#open-count")).to_have_text("(1000)")
        assert await tab.page.evaluate("document.querySelectorAll('#open tr').length") == 1000
        await clients[500].send(frame(TEXT, b"hello", key=KEY))
        await expect(tab.page.locator("#open")).to_contain_text("11 B / 1")
        await tab.page.get_by_role("searchbox", name="Filter").fill("no such socket")
        assert await tab.page.evaluate("document.querySelectorAll('#open tr:not([hidden])').length") == 0
        began = asyncio.get_running_loop().time()
        clients[0].close()
        await expect(tab.page.locator("#ended li code").first).to_have_text("CF-idle")
        assert asyncio.get_running_loop().time() - began < _SHOWN_WITHIN
        for client in clients[1:100]:
            client.close()
        await expect(tab.page.locator("#open-count")).to_have_text("(900)")
        await expect(tab.page.locator("#ended-count")).to_have_text("(the last 100)")


async def switch_and_read(connection: Connection) -> None:
    await connection.head()
    await connection.send(SWITCH)
    await connection.rest()


async def test_it_works_by_keyboard_and_tells_a_screen_reader_of_an_end(tab: Visitor) -> None:
    async with rig(**UNANSWERED) as gateway, contextlib.AsyncExitStack() as stack:
        _, backend = await gateway.open(stack)
        await shown(tab.page, gateway)
        for expected in ("A", "INPUT", "DIV"):
            await tab.page.keyboard.press("Tab")
            assert await tab.page.evaluate("document.activeElement.tagName") == expected
        backend.close()
        await expect(tab.page.locator("[aria-live=polite]")).to_have_text(
            "A socket ended: the upstream closed its connection without a Close frame."
        )


async def test_from_elsewhere_it_asks_for_the_token(chromium: Browser) -> None:
    async with rig(inspector_token=TOKEN) as gateway, contextlib.AsyncExitStack() as stack:
        await gateway.open(stack)
        # As a proxy in front says it.
        headers = {"X-Forwarded-For": "203.0.113.9"}
        async with visitor(chromium, extra_http_headers=headers) as opened:
            await opened.page.goto(f"{gateway.url}/-/moorline")
            await opened.page.get_by_label("Token of the inspector").fill(TOKEN)
            await opened.page.keyboard.press("Enter")
            await expect(opened.page.locator("#open-count")).to_have_text("(1)")
            assert TOKEN not in opened.page.url


async def test_on_the_gateway_s_own_machine_it_asks_for_the_token_to_break_connections(tab: Visitor) -> None:
    options = {"inspector_token": TOKEN, "faults": True, **UNANSWERED}
    async with rig(**options) as gateway, contextlib.AsyncExitStack() as stack:
        _, backend = await gateway.open(stack)
        await shown(tab.page, gateway)
        asked = tab.page.get_by_label("Token of the inspector")
        for given in ("a wrong one", TOKEN):
            await expect(tab.page.locator("#fault-form")).to_be_hidden()
            await asked.fill(given)
            await asked.press("Enter")
        await expect(asked).to_be_hidden()
        await tab.page.get_by_role("combobox", name="Fault").select_option("reset")
        await tab.page.get_by_role("button", name="Arm").press("Enter")
        await backend.ended()
        await expect(tab.page.locator("#ended li")).to_have_count(1)


async def shown(page: Page, gateway: Rig) -> None:
    await page.goto(f"{gateway.url}/-/moorline")
    await expect(page.locator("#open-count")).to_have_text("(1)")


async def appears(page: Page, code: str) -> None:
    """It is shown in time."""
    began = asyncio.get_running_loop().time()
    await expect(page.locator("#ended li code").first).to_have_text(code)
    assert asyncio.get_running_loop().time() - began < _SHOWN_WITHIN
    item = page.locator("#ended li").first
    await expect(item).to_contain_text("Usual cause:")
    await expect(item).to_contain_text("Next step:")
    await expect(page.locator("#open-count")).to_have_text("(0)")
