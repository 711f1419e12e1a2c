"""The pure parts of moorline-client.js, in the browser that runs them."""

import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from moorline.gateway.run import server
from moorline.gateway.settings import Settings
from tests.support import needs
from tests.support.browser import SHARED, visitor

pytestmark = [needs.chromium, SHARED]


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def page(chromium: Browser) -> AsyncIterator[Page]:
    """A page that serves as a place to import modules in."""
    settings = Settings(host="127.0.0.1", port=0, upstream=("http://127.0.0.1:9",), drain=0.2, log_level="error")
    async with server.running(settings) as gateway, visitor(chromium) as seen:
        await seen.page.goto(gateway.addresses[0] + "/client/reconnect.js")
        yield seen.page


async def run(page: Page, module: str, body: str, argument: Any = None) -> Any:
    """The value of a function body, with `module` imported and `given` the argument."""
    return await page.evaluate(
        f"async (given) => {{ const module = await import('/client/{module}.js'); {body} }}", argument
    )


# reconnect.js ---------------------------------------------------------------------------------------------------------


async def test_back_off_is_anything_up_to_twice_the_last_bound_from_half_a_second_to_twenty(page: Page) -> None:
    body = "return given.map((n) => [module.delay(n, 1006, 0), module.delay(n, 1006, 1)])"
    found = await run(page, "reconnect", body, [1, 2, 3, 4, 5, 6, 7, 100, 5000])
    assert found == [[0, most] for most in (500, 1000, 2000, 4000, 8000, 16000, 20000, 20000, 20000)]


@pytest.mark.parametrize("code", [1001, 1012])
async def test_all_clients_of_a_restart_return_within_a_second_and_not_at_once(page: Page, code: int) -> None:
    body = "return [module.delay(1, given, 0.25), module.delay(1, given, 1), module.delay(4, given, 1)]"
    assert await run(page, "reconnect", body, code) == [250, 1000, 4000]


async def test_the_final_codes_are_those_of_the_protocol(page: Page) -> None:
    codes = [1000, 1001, 1003, 1005, 1006, 1008, 1009, 1011, 1012, 1013, 1014, 4401, 4408, 4429, 4499, 4500, 4503, 4504]
    final = await run(
        page, "reconnect", "return given.filter((code) => module.finalReason(code))", [*codes, 4599, 4600]
    )
    assert final == [1000, 1003, 1008, 1009, 4500, 4503, 4504, 4599]


# outbox.js ------------------------------------------------------------------------------------------------------------


async def test_unsent_messages_come_back_in_the_order_they_were_written(page: Page) -> None:
    texts = [str(number) for number in range(20)]
    body = """
        localStorage.clear();
        const first = new module.Outbox('s1', localStorage);
        for (const text of given) first.add({ text });
        new module.Outbox('s2', localStorage).add({ text: 'of another session' });
        localStorage.setItem('moorline:unsent:s1:broken', '{');
        localStorage.setItem('moorline:unsent:s1:null', 'null');
        return new module.Outbox('s1', localStorage).entries.map((entry) => entry.text);
    """
    assert await run(page, "outbox", body, texts) == texts


async def test_what_was_not_sent_for_a_day_leaves_the_storage_and_is_shown_as_not_sent(page: Page) -> None:
    body = """
        localStorage.clear();
        const old = Date.now() - module.KEPT - 1;
        for (const session of ['s1', 's2']) {
            for (const command of [{ text: 'Hello' }, { runId: 'r1' }]) {
                const entry = { clientMsgId: session + Object.keys(command)[0], order: old, ...command };
                localStorage.setItem(`moorline:unsent:${session}:${entry.clientMsgId}`, JSON.stringify(entry));
            }
        }
        const { entries } = new module.Outbox('s1', localStorage);
        return [localStorage.length, entries.map((entry) => [entry.text, entry.failed])];
    """
    assert await run(page, "outbox", body) == [0, [["Hello", "expired"]]]


async def test_full_storage_keeps_messages_in_memory(page: Page) -> None:
    body = """
        localStorage.clear();
        localStorage.setItem('filler', 'x'.repeat(5 * 1024 * 1024 - 100));
        const outbox = new module.Outbox('s1', localStorage);
        outbox.add({ text: 'kept '.repeat(100) });
        localStorage.clear();
        return outbox.messages.length;
    """
    assert await run(page, "outbox", body) == 1


async def test_an_acknowledged_message_stays_in_view_and_out_of_storage(page: Page) -> None:
    body = """
        localStorage.clear();
        const outbox = new module.Outbox('s1', localStorage);
        const { clientMsgId } = outbox.add({ text: 'Hello' });
        const before = outbox.messages;
        outbox.acknowledge(clientMsgId);
        return [outbox.messages.length, outbox.messages !== before, outbox.next() ?? null, localStorage.length];
    """
    assert await run(page, "outbox", body) == [1, True, None, 0]


async def test_unsent_is_the_same_object_until_it_changes(page: Page) -> None:
    body = """
        const outbox = new module.Outbox('s1', null);
        outbox.add({ text: 'Hello' });
        const before = outbox.messages;
        outbox.remove('of another');
        return before === outbox.messages;
    """
    assert await run(page, "outbox", body) is True


# transcript.js --------------------------------------------------------------------------------------------------------


def session(rng: random.Random) -> list[dict[str, Any]]:
    """The events of a session with some runs that end in all ways."""
    events: list[dict[str, Any]] = []

    def log(kind: str, **members: Any) -> None:
        events.append({"type": kind, "seq": len(events) + 1, **members})

    for number in range(rng.randrange(1, 5)):
        run_id, text = f"r{number}", ""
        log("user", message_id=f"m{number}", client_msg_id=f"c{number}", content=f"Question {number}")
        log("status", run_id=run_id, status="thinking")
        for _ in range(rng.randrange(4)):
            text += "word "
            log("delta", run_id=run_id, message_id=f"a{number}", text="word ")
        finish = rng.choice(["stop", "length", "cancelled", "interrupted"])
        log("message", run_id=run_id, message_id=f"a{number}", role="assistant", content=text, finish=finish)
        events[-1]["from_seq"] = events[-1]["seq"]
    return events


def compacted(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the deltas, each message standing for its own."""
    kept: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "message":
            event = {**event, "from_seq": (kept[-1]["seq"] if kept else 0) + 1}
        if event["type"] != "delta":
            kept.append(event)
    return kept


FOLD = """
    const { EMPTY, fold, place } = module;
    const follow = (start, events) => events.reduce((transcript, event) => {
        const where = place(transcript, event);
        if (where === 'gap') throw new Error(`gap at ${event.seq}`);
        return where === 'next' ? fold(transcript, event) : transcript;
    }, start);
    const row = ({ id, content, finish }) => [id, content, finish];
    const shown = ({ seq, runId, rows }) => ({ seq, runId, rows: rows.map(row) });
"""


@pytest.mark.parametrize("seed", range(5))
async def test_the_same_session_is_shown_by_whichever_way_its_events_come(page: Page, seed: int) -> None:
    rng = random.Random(seed)
    events = session(rng)
    again = rng.randrange(len(events))
    ways = [events, [*events[: again + 3], *events[again:]], compacted(events)]
    body = FOLD + "return given.map((events) => JSON.stringify(shown(follow(EMPTY, events))))"
    shown = await run(page, "transcript", body, ways)
    assert len(set(shown)) == 1
    assert json.loads(shown[0])["seq"] == len(events)


@pytest.mark.parametrize("seed", range(5))
async def test_a_missing_event_is_a_gap_wherever_it_is(page: Page, seed: int) -> None:
    rng = random.Random(seed)
    events = session(rng)
    missing = rng.randrange(len(events) - 1)
    body = FOLD + "try { follow(EMPTY, given); return '' } catch (error) { return error.message }"
    found = await run(page, "transcript", body, events[:missing] + events[missing + 1 :])
    assert found == f"gap at {missing + 2}"


async def test_a_snapshot_in_the_middle_of_an_answer_and_its_rest_show_what_the_events_do(page: Page) -> None:
    events = [
        {"type": "user", "seq": 1, "message_id": "m1", "client_msg_id": "c1", "content": "Hello"},
        {"type": "status", "seq": 2, "run_id": "r1"},
        {"type": "delta", "seq": 3, "run_id": "r1", "text": "Half"},
        {"type": "delta", "seq": 4, "run_id": "r1", "text": " more"},
    ]
    row = {"message_id": "m1", "role": "user", "content": "Hello", "seq": 1, "client_msg_id": "c1"}
    run_ = {"run_id": "r1", "message_id": "a1", "text": "Half"}
    snapshot = {"type": "snapshot", "epoch": "e1", "messages": [row], "earlier": False, "run": run_, "through_seq": 3}
    body = FOLD + "return [follow(EMPTY, given[0]), follow(fold(EMPTY, given[1]), given[0])].map(shown)"
    by_events, by_snapshot = await run(page, "transcript", body, [events, snapshot])
    assert by_events == by_snapshot


async def test_rows_that_did_not_change_are_the_same_objects(page: Page) -> None:
    events = session(random.Random(1))
    body = (
        FOLD
        + """
        const before = follow(EMPTY, given.slice(0, -1));
        const after = fold(before, given.at(-1));
        return before.rows.slice(0, -1).every((row, at) => row === after.rows[at]) && after !== before;
    """
    )
    assert await run(page, "transcript", body, events) is True


# transcript.js --------------------------------------------------------------------------------------------------------

RUN = {"run_id": "r1", "message_id": "m2"}
LOOKING_UP = {"type": "part", "seq": 3, **RUN, "part": {"kind": "status", "text": "looking up"}}
SOURCE = {"kind": "source", "title": "Guideline", "url": "https://example.com/"}
TRANSCRIPT = """
    const folded = given.reduce(module.fold, module.EMPTY);
    const { content, parts, status, writing } = folded.rows.at(-1);
    return [folded.seq, content, parts, status, writing];
"""


async def test_a_status_stands_until_text_follows_and_a_source_stays(page: Page) -> None:
    begun = [
        {"type": "status", "seq": 2, "run_id": "r1"},
        LOOKING_UP,
        {"type": "part", "seq": 4, **RUN, "part": SOURCE},
    ]
    assert await run(page, "transcript", TRANSCRIPT, begun) == [4, "", [SOURCE], "looking up", True]
    written = [*begun, {"type": "delta", "seq": 5, **RUN, "text": "Good "}]
    assert await run(page, "transcript", TRANSCRIPT, written) == [5, "Good ", [SOURCE], "", True]
    ended = [*begun, {"type": "message", "seq": 5, **RUN, "role": "assistant", "content": "Good", "parts": [SOURCE]}]
    assert await run(page, "transcript", TRANSCRIPT, ended) == [5, "Good", [SOURCE], "", False]


async def test_a_snapshot_shows_the_parts_and_the_status_of_the_run_under_way(page: Page) -> None:
    under_way = {**RUN, "text": "", "parts": [SOURCE], "status": "looking up"}
    snapshot = {"type": "snapshot", "epoch": "e", "messages": [], "earlier": False, "run": under_way, "through_seq": 4}
    assert await run(page, "transcript", TRANSCRIPT, [snapshot]) == [4, "", [SOURCE], "looking up", True]


# version1.js ----------------------------------------------------------------------------------------------------------

TRANSLATE = "return module.translate(given[0], given[1], given[2]).map(({ type, seq }) => [type, seq ?? null])"


@pytest.mark.parametrize(
    ("run_id", "frame", "sent", "events"),
    [
        (None, {"type": "status", "status": "thinking"}, "Hello", [["ack", None], ["user", 5], ["status", 6]]),
        (None, {"type": "message", "content": "Hi"}, "Hello", [["ack", None], ["user", 5], ["message", 6]]),
        (None, {"type": "message", "role": "user", "content": "Hello"}, "Hello", [["ack", None], ["user", 5]]),
        (None, {"type": "message", "role": "user", "content": "of another tab"}, None, [["user", 5]]),
        (None, {"type": "message", "content": "Welcome."}, None, [["message", 5]]),
        ("v1:4", {"type": "status", "status": "thinking"}, None, []),
        ("v1:4", {"type": "error", "message": "no"}, None, [["message", 5]]),
        (None, {"type": "error"}, "Hello", [["error", None]]),
        (None, {"type": "ping"}, "Hello", []),
        (None, {"hello": 1}, "Hello", []),
    ],
)
async def test_a_frame_of_version_1_stands_for_events(
    page: Page, run_id: str | None, frame: dict[str, str], sent: str | None, events: list[list[Any]]
) -> None:
    command = sent and {"client_msg_id": "c1", "message": sent}
    assert await run(page, "version1", TRANSLATE, [{"seq": 4, "runId": run_id}, frame, command]) == events
