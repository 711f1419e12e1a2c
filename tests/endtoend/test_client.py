"""moorline-client.js against a server that a test plays frame by frame, and a clock that it turns."""

from typing import Any

import pytest
from playwright.async_api import Page

from tests.support import needs
from tests.support.browser import SHARED, open_client
from tests.support.client import again, connected, lose, until
from tests.support.played import Played, PlayedSocket

pytestmark = [needs.chromium, SHARED]


QUESTION = {"message_id": "m1", "role": "user", "content": "Hello", "seq": 1, "client_msg_id": "c1", "at": ""}


async def start_answer(socket: PlayedSocket, run_id: str = "r1", seq: int = 0) -> None:
    """A question of another tab, and the beginning of its answer."""
    await socket.send(
        "user", seq=seq + 1, message_id=f"m{seq + 1}", client_msg_id=f"c{seq + 1}", content="Hello", at=""
    )
    await socket.send("status", seq=seq + 2, run_id=run_id, status="thinking")
    await socket.send("delta", seq=seq + 3, run_id=run_id, message_id=f"a{seq}", text="Half")


async def end_answer(socket: PlayedSocket, seq: int, finish: str = "stop", run_id: str = "r1") -> None:
    row = {"run_id": run_id, "message_id": "a0", "role": "assistant", "content": "Half", "finish": finish, "at": ""}
    await socket.send("message", seq=seq, from_seq=seq, **row)


# A socket that says nothing -------------------------------------------------------------------------------------------


async def test_a_server_that_goes_silent_is_left_after_two_heartbeats(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await start_answer(socket)
    await until(page, "client.transcript.seq === 3")
    await page.clock.fast_forward(30_000)
    assert await page.evaluate("client.state.status") == "connected"
    await page.clock.fast_forward(12_000)
    returned = await again(page, backend)
    assert returned.hello["resume"] == {"epoch": "e1", "seq": 3}


async def test_pings_keep_a_socket(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    for seq in (1, 2, 3):
        await page.clock.fast_forward(30_000)
        await socket.send("ping")
        await socket.send("status", seq=seq, run_id="r1", status="thinking")
        await until(page, f"client.transcript.seq === {seq}")
    assert backend.no_socket_waits()


async def test_a_machine_that_wakes_up_with_a_dead_socket_reconnects_at_once(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    socket.alive = False
    await page.clock.fast_forward(600_000)
    await (await again(page, backend)).send_hello()
    await until(page, "client.state.status === 'connected'")


async def test_a_socket_that_receives_after_a_wake_is_kept(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("dispatchEvent(new Event('pageshow'))")
    await socket.send("status", seq=1, run_id="r1", status="thinking")
    await until(page, "client.transcript.seq === 1")
    await page.clock.fast_forward(7_000)
    assert await page.evaluate("client.state.status") == "connected"


async def test_a_socket_that_does_not_answer_after_a_wake_is_replaced(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    socket.alive = False
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await page.clock.fast_forward(7_000)
    await again(page, backend)


async def test_a_message_without_an_acknowledgement_is_sent_again_elsewhere(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("client.send('Hello')")
    sent = await socket.receive("send")
    await page.clock.fast_forward(11_000)
    returned = await again(page, backend)
    await returned.send_hello()
    assert await returned.receive("send") == sent


async def test_a_server_that_accepts_and_says_nothing_is_given_up(backend: Played, url: str, page: Page) -> None:
    await open_client(page, url)
    await backend.socket()
    await page.clock.fast_forward(22_000)
    assert "resume" not in (await again(page, backend)).hello


async def test_a_server_that_sends_something_else_is_disconnected(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await socket.send_text("<html>")
    await again(page, backend)


# What was missed ------------------------------------------------------------------------------------------------------


async def test_a_missing_seq_is_asked_for_and_the_second_time_everything(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await start_answer(socket)
    await socket.send("delta", seq=5, run_id="r1", message_id="a0", text="lost")
    returned = await again(page, backend)
    assert returned.hello["resume"] == {"epoch": "e1", "seq": 3}
    await returned.send_hello()
    await returned.send("delta", seq=5, run_id="r1", message_id="a0", text="lost")
    returned = await again(page, backend)
    assert "resume" not in returned.hello
    await returned.send_hello(recovered=False)
    await returned.send_snapshot(5, run={"run_id": "r1", "message_id": "a0", "text": "Half found"})
    await until(page, "client.transcript.rows.at(-1).content === 'Half found'")


async def test_a_message_that_stands_for_the_missing_ones_is_no_gap(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await start_answer(socket)
    row = {"run_id": "r1", "message_id": "a0", "role": "assistant", "content": "Whole", "finish": "stop", "at": ""}
    await socket.send("message", seq=9, from_seq=4, **row)
    await until(page, "client.transcript.seq === 9 && client.transcript.rows.at(-1).content === 'Whole'")
    assert backend.no_socket_waits()


async def test_events_that_are_known_change_nothing(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await start_answer(socket)
    await start_answer(socket)
    await socket.send("delta", seq=4, run_id="r1", message_id="a0", text=".")
    await until(page, "client.transcript.seq === 4")
    assert await page.evaluate("client.transcript.rows.map((row) => row.content)") == ["Hello", "Half."]


async def test_another_epoch_holds_from_its_snapshot_on(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await start_answer(socket)
    await until(page, "client.transcript.seq === 3")
    await socket.close(1012)
    other = await again(page, backend)
    await other.send_hello(epoch="e2", recovered=False)
    await other.close(1011)
    last = await again(page, backend)
    # As after a backup was restored. Position 3 of the log e2 would be something else.
    assert last.hello["resume"] == {"epoch": "e1", "seq": 3}
    await last.send_hello(epoch="e2", recovered=False)
    await last.send_snapshot(1, QUESTION)
    await until(page, "client.transcript.epoch === 'e2' && client.transcript.seq === 1")


# Commands -------------------------------------------------------------------------------------------------------------


async def test_what_was_not_acknowledged_is_sent_again_under_its_id(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("client.send('one'), client.send('two')")
    first = await socket.receive("send")
    await socket.close(1011)
    returned = await again(page, backend)
    await returned.send_hello()
    assert await returned.receive("send") == first
    # Its answer was given long ago; the next one need not wait for it.
    await returned.send("ack", client_msg_id=first["client_msg_id"], seq=1, run_id="r1", duplicate=True)
    assert (await returned.receive("send"))["message"] == "two"


async def test_the_next_message_waits_for_the_answer(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("client.send('one'), client.send('two')")
    sent = await socket.receive("send")
    await socket.send("ack", client_msg_id=sent["client_msg_id"], seq=1, run_id="r1", duplicate=False)
    await start_answer(socket)
    await until(page, "client.transcript.seq === 3")
    assert socket.received_nothing()
    await end_answer(socket, 4)
    assert (await socket.receive("send"))["message"] == "two"


async def test_a_message_refused_for_now_goes_again_by_itself(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("client.send('Hello')")
    sent = await socket.receive("send")
    refusal = {"code": "rate_limited", "message": "", "retryable": True, "retry_after": 30}
    await socket.send("error", client_msg_id=sent["client_msg_id"], **refusal)
    await until(page, "client.unsent[0].deferred === 'rate_limited'")
    await page.clock.fast_forward(20_000)
    await socket.send("ping")
    assert socket.received_nothing()
    await page.clock.fast_forward(11_000)
    assert await socket.receive("send") == sent


async def test_a_message_refused_for_good_waits_for_the_person(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("client.send('long'), client.send('short')")
    sent = await socket.receive("send")
    refusal = {"code": "too_large", "message": "", "retryable": False}
    await socket.send("error", client_msg_id=sent["client_msg_id"], **refusal)
    await until(page, "client.unsent[0].failed === 'too_large'")
    await page.clock.fast_forward(1)
    assert (await socket.receive("send"))["message"] == "short"
    assert await page.evaluate("client.unsent.map((entry) => entry.failed ?? null)") == ["too_large", None]


async def test_trying_again_twice_is_once_and_a_refusal_is_told(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("client.addEventListener('refused', (event) => (window.refused = event.detail.code))")
    assert await page.evaluate("client.retry('r1') === client.retry('r1') && client.retrying('r1')") is True
    sent = await socket.receive("retry")
    await socket.send("error", client_msg_id=sent["client_msg_id"], code="not_found", message="", retryable=False)
    await until(page, "window.refused === 'not_found' && !client.retrying('r1')")
    assert socket.received_nothing()


async def test_stop_is_said_again_until_the_answer_has_ended(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await start_answer(socket)
    await until(page, "client.transcript.runId === 'r1'")
    await page.evaluate("void client.cancel()")
    assert await socket.receive("cancel") == {"type": "cancel", "run_id": "r1"}
    await socket.close(1011)
    returned = await again(page, backend)
    await returned.send_hello()
    await returned.receive("cancel")
    await end_answer(returned, 4, "cancelled")
    await until(page, "client.transcript.runId === null && client.stopping === null")
    await returned.close(1011)
    last = await again(page, backend)
    await last.send_hello()
    await page.evaluate("client.send('Hello')")
    assert (await last.receive("send"))["message"] == "Hello"


async def test_without_a_socket_stop_goes_over_http(backend: Played, url: str, page: Page) -> None:
    socket = await connected(page, url, backend)
    await start_answer(socket)
    await until(page, "client.transcript.runId === 'r1'")
    await socket.close(1011)
    await until(page, "client.state.status === 'reconnecting'")
    await page.evaluate("void client.cancel()")
    assert await backend.posts.get() == ("cancel", {"patient_id": "patient:demo", "run_id": "r1"})


async def test_a_message_taken_back_in_one_tab_is_sent_by_none(backend: Played, url: str, page: Page) -> None:
    await open_client(page, url)
    await page.evaluate("client.close(), window.kept = client.send('keep'), window.taken = client.send('take back')")
    other = await page.context.new_page()
    await open_client(other, url)
    await until(other, "client.unsent.length === 2")
    await page.evaluate("client.discard(taken)")
    await until(other, "client.unsent.length === 1")
    assert await other.evaluate("client.unsent[0].text") == "keep"


STORED = "Object.keys(localStorage).filter((key) => key.startsWith('moorline:unsent:')).length"


async def test_all_that_is_unsent_can_be_taken_back_and_leaves_the_storage(
    backend: Played, url: str, page: Page
) -> None:
    await open_client(page, url)
    await page.evaluate("client.close(), client.send('one'), client.send('two')")
    assert await page.evaluate(STORED) == 2
    await page.evaluate("client.discard()")
    assert await page.evaluate(f"[client.unsent.length, {STORED}]") == [0, 0]


async def test_nothing_is_stored_where_there_is_no_storage(backend: Played, url: str, page: Page) -> None:
    await open_client(page, url, storage=None)
    await page.evaluate("client.close(), client.send('one')")
    assert await page.evaluate(f"[client.unsent.length, {STORED}]") == [1, 0]


async def test_a_message_that_failed_goes_again_under_its_id_when_the_person_says_so(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    await page.evaluate("client.send('Hello')")
    sent = await socket.receive("send")
    refusal = {"code": "forbidden", "message": "", "retryable": False}
    await socket.send("error", client_msg_id=sent["client_msg_id"], **refusal)
    await until(page, "client.unsent[0].failed === 'forbidden'")
    await page.evaluate("client.resend(client.unsent[0].clientMsgId)")
    assert await socket.receive("send") == sent


async def test_an_erased_chat_leaves_the_server_and_the_storage(backend: Played, url: str, page: Page) -> None:
    await open_client(page, url)
    await page.evaluate("client.close(), client.send('one')")
    await page.evaluate("client.erase()")
    assert backend.erased == ["/api/chat/s1 patient:demo"]
    assert await page.evaluate(STORED) == 0


async def test_a_chat_that_the_server_did_not_erase_is_kept(backend: Played, url: str, page: Page) -> None:
    await open_client(page, url)
    await page.evaluate("client.close(), client.send('one')")
    backend.status = 503
    assert await page.evaluate("client.erase().catch((error) => error.status)") == 503
    assert await page.evaluate(STORED) == 1


async def written_while_away(page: Page, url: str, backend: Played) -> None:
    """A chat with an answer, and a message to it that is written while the connection is lost."""
    socket = await connected(page, url, backend)
    await start_answer(socket)
    await end_answer(socket, 4)
    await until(page, "client.transcript.seq === 4")
    await lose(page, backend, socket)
    await page.evaluate("client.send('A secret')")
    backend.status = 200


@pytest.mark.parametrize("begun", [[], [{**QUESTION, "message_id": "another"}]])
async def test_a_chat_that_was_erased_while_the_client_was_away_gets_nothing_more(
    backend: Played, url: str, page: Page, begun: list[dict[str, Any]]
) -> None:
    await written_while_away(page, url, backend)
    returned = await again(page, backend)
    await returned.send_hello(epoch="e2", recovered=False)
    await returned.send_snapshot(len(begun), *begun)
    await until(page, "client.state.reason === 'This chat was deleted.' && client.state.final")
    assert await page.evaluate(f"[client.transcript.rows.length, client.unsent[0].text, {STORED}]") == [
        0,
        "A secret",
        0,
    ]
    assert returned.received_nothing()


@pytest.mark.parametrize(
    ("epoch", "database", "begun"),
    [("e2", "d2", []), ("e2", "d2", [{**QUESTION, "message_id": "another"}]), ("e1", "d1", [])],
    ids=["another", "another in which it has begun", "an earlier state"],
)
async def test_a_chat_that_its_server_lost_stays_in_view_and_goes_on_when_the_server_has_it_again(
    backend: Played, url: str, page: Page, epoch: str, database: str, begun: list[dict[str, Any]]
) -> None:
    await written_while_away(page, url, backend)
    returned = await again(page, backend)
    await returned.send_hello(epoch=epoch, recovered=False)
    await returned.send_snapshot(len(begun), *begun, database=database)
    await until(page, "client.state.status === 'disconnected' && /cannot find/.test(client.state.reason)")
    assert await page.evaluate(f"[client.state.final, client.transcript.seq, client.unsent[0].text, {STORED}]") == [
        False,
        4,
        "A secret",
        1,
    ]
    assert returned.received_nothing()
    found = await again(page, backend)
    assert found.hello["resume"] == {"epoch": "e1", "seq": 4}
    await found.send_hello()
    assert (await found.receive("send"))["message"] == "A secret"


async def test_a_chat_that_its_server_lost_is_not_said_to_be_erased(backend: Played, url: str, page: Page) -> None:
    await written_while_away(page, url, backend)
    returned = await again(page, backend)
    await returned.send_hello(epoch="e2", recovered=False)
    await returned.send_snapshot(0, database="d2")
    await until(page, "/cannot find/.test(client.state.reason)")
    assert "cannot find" in await page.evaluate("client.erase().catch((error) => error.message)")
    assert await page.evaluate(f"[client.unsent[0].text, {STORED}]") == ["A secret", 1]
    assert backend.erased == []


async def test_what_was_written_to_a_chat_is_sent_to_it_also_when_a_backup_has_been_restored(
    backend: Played, url: str, page: Page
) -> None:
    await written_while_away(page, url, backend)
    returned = await again(page, backend)
    await returned.send_hello(epoch="e2", recovered=False)
    await returned.send_snapshot(1, QUESTION)
    assert (await returned.receive("send"))["message"] == "A secret"


async def test_what_was_written_to_a_chat_before_a_reload_does_not_begin_another_one(
    backend: Played, url: str, page: Page
) -> None:
    await written_while_away(page, url, backend)
    await open_client(page, url)
    returned = await backend.socket()
    await returned.send_hello(epoch="e2", recovered=False)
    await returned.send_snapshot(0)
    await until(page, "client.unsent[0]?.failed === 'not_found'")
    # What is written from now on does.
    await page.evaluate("client.send('Hello')")
    assert (await returned.receive("send"))["message"] == "Hello"


@pytest.mark.parametrize("headers", ["{ 'X-Ward': '7' }", "async () => ({ 'X-Ward': '7' })"])
async def test_requests_carry_the_headers_that_were_asked_for(
    backend: Played, url: str, page: Page, headers: str
) -> None:
    await page.goto(url + "/client/reconnect.js")
    await page.evaluate(
        f"""async () => {{
            const {{ MoorlineClient }} = await import('/client/moorline-client.js');
            await new MoorlineClient({{ patientId: 'p', sessionId: 's1', headers: {headers} }}).erase();
        }}"""
    )
    assert backend.headers[-1]["X-Ward"] == "7"


async def test_a_message_that_waits_for_a_day_on_an_open_page_is_not_sent_and_leaves_the_storage(
    backend: Played, url: str, page: Page
) -> None:
    socket = await connected(page, url, backend)
    await lose(page, backend, socket)
    await page.evaluate("client.send('old')")
    await page.clock.fast_forward("25:00:00")
    await until(page, "client.unsent[0].failed === 'expired'")
    assert await page.evaluate(STORED) == 0
