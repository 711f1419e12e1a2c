"""When moorline-client.js comes back, when it does not, and how soon."""

import pytest
from playwright.async_api import Page

from tests.endtoend.conftest import Site
from tests.support import needs
from tests.support.browser import SHARED, Visitor, open_client
from tests.support.client import again, connected, until
from tests.support.played import Played

pytestmark = [needs.chromium, SHARED]


async def test_after_a_final_code_only_connect_comes_back(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    for code in (1000, 1003, 1008, 1009, 4500, 4503, 4504, 4599):
        await socket.close(code)
        await until(page, "client.state.status === 'disconnected' && client.state.final && client.state.reason")
        await page.clock.fast_forward(600_000)
        await page.evaluate("dispatchEvent(new Event('online')), client.reconnect()")
        assert backend.no_socket_waits()
        await page.evaluate("client.connect()")
        socket = await backend.socket()
        await socket.send_hello()
        await until(page, "client.state.status === 'connected' && !client.state.final && !client.state.reason")


async def test_after_other_codes_it_comes_back(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    for code in (1001, 1011, 1012, 1013, 1014, 4401, 4408, 4429):
        await socket.close(code)
        socket = await again(page, backend)
        await socket.send_hello()
        await until(page, "client.state.status === 'connected' && client.state.transport === 'socket'")


async def test_close_ends_it_all(backend: Played, url: str, page: Page) -> None:
    await connected(page, url, backend)
    await page.evaluate("client.close()")
    assert await page.evaluate("client.state.status") == "disconnected"
    await page.evaluate("dispatchEvent(new Event('online'))")
    await page.clock.fast_forward(600_000)
    assert backend.no_socket_waits()


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_refusal_that_the_socket_hides_is_asked_for(backend: Played, url: str, page: Page, status: int) -> None:
    backend.status = status
    await open_client(page, url)
    await until(page, "client.state.final && client.state.reason")


async def test_a_server_error_is_no_refusal(backend: Played, url: str, page: Page) -> None:
    backend.status = 503
    await open_client(page, url)
    for _ in range(3):
        await until(page, "client.state.retryAt !== null")
        await page.clock.fast_forward(60_000)
    await until(page, "client.state.status === 'disconnected' && client.state.retryAt !== null && !client.state.final")
    backend.status = 200
    await (await again(page, backend)).send_hello()
    await until(page, "client.state.status === 'connected'")


async def test_a_client_that_waits_after_goaway_reconnects_at_once_when_there_is_reason(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    for reason in (
        "dispatchEvent(new Event('online'))",
        "dispatchEvent(new Event('pageshow'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
        "client.reconnect()",
    ):
        await socket.send("goaway", reconnect_after=3600)
        await socket.close(1012)
        await until(page, "client.state.retryAt - Date.now() > 3500_000")
        await page.evaluate(reason)
        socket = await backend.socket()
        await socket.send_hello()
        await until(page, "client.state.status === 'connected' && client.state.retryAt === null")


async def test_after_a_restart_the_client_comes_back_within_the_time_that_the_server_tells_and_does_not_poll(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("Math.random = () => 0.75")
    await socket.send("goaway", reconnect_after=1, reconnect_within=3600)
    backend.status, asked = 503, len(backend.headers)
    await socket.close(1012)
    await until(page, "Math.abs(client.state.retryAt - Date.now() - 2701_000) < 60_000")
    await page.clock.fast_forward(2_710_000)
    # The server is not there yet: the next try is a socket, too.
    await until(page, "client.state.retryAt - Date.now() < 10_000")
    assert len(backend.headers) == asked
    backend.status = 200
    await (await again(page, backend)).send_hello()
    await until(page, "client.state.status === 'connected'")


async def test_a_gateway_that_restarts_tells_the_same_in_its_close_frame(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("Math.random = () => 0.75")
    await socket.close(1001, "gateway restarting; reconnect_after=100.0 reconnect_within=3600.0")
    await until(page, "Math.abs(client.state.retryAt - Date.now() - 2800_000) < 60_000")


async def test_the_browser_says_offline_and_the_socket_is_asked(backend: Played, url: str, page: Page) -> None:
    await connected(page, url, backend)
    await page.context.set_offline(True)
    await until(page, "client.state.offline")
    await page.clock.fast_forward(7_000)
    await until(page, "client.state.status === 'reconnecting'")
    await page.context.set_offline(False)
    await (await backend.socket()).send_hello()
    await until(page, "client.state.status === 'connected' && !client.state.offline")


async def test_a_page_that_may_open_no_socket_polls(chat: Site, tab: Visitor) -> None:
    await tab.page.add_init_script("window.WebSocket = class { constructor() { throw new Error('policy'); } }")
    await open_client(tab.page, chat.url)
    await until(tab.page, "client.state.transport === 'polling'")
    chat.script.put("Good morning.", None)
    await tab.page.evaluate("client.send('Hello')")
    await until(tab.page, "client.transcript.rows.at(-1)?.content === 'Good morning.' && client.unsent.length === 0")


async def test_a_listener_of_the_state_may_close_the_client(backend: Played, url: str, page: Page) -> None:
    await connected(page, url, backend)
    await page.evaluate("client.close()")
    # Playwright calls what an expression evaluates to, if that is a function.
    await page.evaluate("void client.subscribe(() => client.state.status === 'connected' && client.close())")
    await page.evaluate("client.connect()")
    await (await backend.socket()).send_hello()
    await until(page, "client.state.status === 'disconnected'")
    await page.evaluate("client.send('Hello')")
    assert await page.evaluate("[client.sending, client.unsent.length]") == [None, 1]


async def test_a_listener_of_the_snapshot_may_close_the_client(backend: Played, url: str, page: Page) -> None:
    await open_client(page, url)
    await page.evaluate("client.addEventListener('change', () => client.close(), { once: true })")
    socket = await backend.socket()
    await socket.send_hello(recovered=False)
    await socket.send_snapshot(0)
    await until(page, "client.transcript.epoch === 'e1'")
    assert await page.evaluate("client.state.status") == "disconnected"


@pytest.mark.parametrize("ends", ["its connection is lost", "its chat is missing"])
async def test_a_listener_that_closes_the_client_as_its_connection_ends_is_obeyed(
    backend: Played, url: str, page: Page, ends: str
) -> None:
    socket = await connected(page, url, backend)
    await socket.send("user", seq=1, message_id="m1", content="Hello")
    await until(page, "client.transcript.seq === 1")
    if ends == "its chat is missing":
        await socket.close(1012)
        socket = await again(page, backend)
    await page.evaluate("client.addEventListener('change', () => client.close(), { once: true })")
    if ends == "its chat is missing":
        await socket.send_hello(recovered=False)
        await socket.send_snapshot(0)
    else:
        await socket.close(1011)
    await until(page, "client.state.status === 'disconnected'")
    await page.clock.fast_forward(600_000)
    assert await page.evaluate("client.state.retryAt") is None
    assert backend.no_socket_waits()


# A token --------------------------------------------------------------------------------------------------------------

COUNTING = "let asked = 0; window.token = async () => `t${++asked}.x-y_z`;"


async def open_with_token(page: Page, url: str, token: str, options: str = "token: window.token") -> None:
    await page.goto(url + "/client/reconnect.js")
    await page.evaluate(
        f"""async () => {{
            const {{ MoorlineClient }} = await import('/client/moorline-client.js');
            {token}
            const ids = {{ patientId: 'patient:demo', sessionId: 's1' }};
            window.client = new MoorlineClient({{ ...ids, storage: null, {options} }});
            client.connect();
        }}"""
    )


async def test_each_socket_and_request_has_a_token_of_its_own(backend: Played, url: str, page: Page) -> None:
    await open_with_token(page, url, COUNTING)
    socket = await backend.socket()
    assert socket.offered == "moorline, moorline.jwt.t1.x-y_z"
    await socket.send_hello()
    await socket.close(4401)
    socket = await again(page, backend)
    assert socket.offered == "moorline, moorline.jwt.t2.x-y_z"


async def test_each_socket_has_a_ticket_of_its_own_that_a_request_with_the_headers_has_got(
    backend: Played, url: str, page: Page
) -> None:
    await open_with_token(page, url, "", "ticket: true, headers: { 'X-User': 'alice' }")
    socket = await backend.socket()
    assert socket.offered == "moorline, moorline.ticket.k1"
    assert backend.headers[-1]["X-User"] == "alice"
    await socket.send_hello()
    await socket.close(4401)
    assert (await again(page, backend)).offered == "moorline, moorline.ticket.k2"


async def test_a_request_carries_the_token_in_its_header(backend: Played, url: str, page: Page) -> None:
    backend.status = 503
    await open_with_token(page, url, COUNTING)
    await until(page, "client.state.retryAt !== null")
    while not backend.authorizations:
        await page.clock.fast_forward(60_000)
        await until(page, "client.state.retryAt !== null")
    assert backend.authorizations[0] is not None
    assert backend.authorizations[0].startswith("Bearer t")


@pytest.mark.parametrize("failing", ["() => { throw new Error() }", "() => Promise.reject(new Error())", "() => 'a b'"])
async def test_a_token_that_cannot_be_had_is_asked_for_again(
    backend: Played, url: str, page: Page, failing: str
) -> None:
    await open_with_token(
        page, url, f"window.fails = {failing}; window.token = () => window.fails ? window.fails() : 'good';"
    )
    await until(page, "client.state.status === 'reconnecting' && client.state.retryAt !== null")
    assert backend.no_socket_waits()
    await page.evaluate("window.fails = null")
    await page.clock.fast_forward(60_000)
    assert (await backend.socket()).offered == "moorline, moorline.jwt.good"


async def test_a_token_that_never_comes_holds_one_dial_and_close_ends_it(backend: Played, url: str, page: Page) -> None:
    await open_with_token(page, url, "window.token = () => new Promise(() => {});")
    await page.evaluate("client.reconnect(), client.reconnect()")
    await page.evaluate("client.close()")
    assert await page.evaluate("client.state.status") == "disconnected"
    await page.evaluate("client.connect()")
    assert await page.evaluate("client.state.status") == "connecting"
    assert backend.no_socket_waits()
