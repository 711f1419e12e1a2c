"""The real `openai` client against a server that speaks the API over real HTTP."""

import asyncio
import functools
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from moorline.backend import llm_stream, llm_transport
from moorline.backend.events import Finish, Usage
from moorline.backend.llm import OpenAIResponder
from moorline.backend.llm_stream import _decode
from moorline.backend.llm_transport import http_client
from moorline.backend.provider import base_url
from moorline.backend.read_pace import ReadPace
from moorline.backend.responder import Done
from moorline.backend.responder_factory import create_responder
from moorline.backend.settings import Settings
from moorline.gateway.common.errors import UsageError
from tests.support.models import CHAT, pieces, responder
from tests.support.openai_server import DONE, Fault, OpenAIServer, error, finish, openai_server, says, usage


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with openai_server() as server:
        yield server


# What is asked --------------------------------------------------------------------------------------------------------


async def test_the_request_has_the_chat_the_model_and_the_limits(server: OpenAIServer) -> None:
    await pieces(server, finish("stop"), DONE, model="m1", system_prompt="Be kind.", max_tokens=7, temperature=0.5)
    assert server.keys == ["sk-secret"]
    assert server.asked == [
        {
            "model": "m1",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello."},
                {"role": "user", "content": "A private word"},
            ],
            "max_tokens": 7,
            "temperature": 0.5,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


async def test_a_compressed_answer_is_not_asked_for(server: OpenAIServer) -> None:
    await pieces(server, finish("stop"), DONE)
    assert server.encodings == ["identity"]


async def test_no_system_prompt_and_no_temperature_are_no_members(server: OpenAIServer) -> None:
    await pieces(server, finish("stop"), DONE, system_prompt="")
    assert [message["role"] for message in server.asked[0]["messages"]] == ["user", "assistant", "user"]
    assert "temperature" not in server.asked[0]


async def test_openai_itself_gets_the_limit_under_its_new_name() -> None:
    model = create_responder(Settings(), {"OPENAI_API_KEY": "sk-secret"})
    assert isinstance(model, OpenAIResponder)
    assert model._max_tokens == "max_completion_tokens"
    await model.shutdown()


@pytest.mark.parametrize("text", ["localhost:11434", "ftp://x/v1", "http://", "http://[::1", "http://x:99999/"])
def test_a_base_url_that_is_none_is_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"OPENAI_BASE_URL: .*http://localhost:11434/v1"):
        base_url(text)


@pytest.mark.parametrize(
    "text",
    ["ftp://me:secret@x/v1", "http://me:se@cret@x:99999", "me:secret@x/v1", "http:x?key=secret", "http://s:secret@"],
)
def test_a_base_url_is_shown_without_its_password(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        base_url(text)
    assert "cret" not in str(caught.value)


# Answers --------------------------------------------------------------------------------------------------------------


async def test_an_answer_streams_and_ends_with_its_usage(server: OpenAIServer) -> None:
    *texts, done = await pieces(server, says("Good "), says("morning."), finish("stop"), usage(12, 3), DONE)
    assert "".join(piece for piece in texts if isinstance(piece, str)) == "Good morning."
    assert done == Done(Finish.STOP, Usage(12, 3))


async def test_text_is_there_before_the_answer_ends(server: OpenAIServer) -> None:
    gate = asyncio.Event()
    server.reply(says("Good"), gate, finish("stop"), DONE)
    model = responder(server)
    stream = model.answer(CHAT)
    assert await anext(stream) == "Good"
    gate.set()
    assert await anext(stream) == Done(Finish.STOP)
    await model.shutdown()


async def test_an_answer_without_usage_is_whole(server: OpenAIServer) -> None:
    assert await pieces(server, says("Hi"), finish("stop"), DONE) == ["Hi", Done(Finish.STOP)]


async def test_length_is_distinguished_from_stop(server: OpenAIServer) -> None:
    assert await pieces(server, says("Hi"), finish("length"), DONE) == ["Hi", Done(Finish.LENGTH)]


async def test_other_words_for_the_end_count_as_stop(server: OpenAIServer) -> None:
    assert (await pieces(server, says("Hi"), finish("eos"), DONE))[-1] == Done(Finish.STOP)


async def test_the_refusal_of_a_model_is_its_text(server: OpenAIServer) -> None:
    refusal = says("")
    refusal["choices"][0]["delta"] = {"refusal": "I cannot help with that."}
    assert (await pieces(server, refusal, finish("stop"), DONE))[0] == "I cannot help with that."


async def test_an_end_without_finish_reason_is_not_done(server: OpenAIServer) -> None:
    assert await pieces(server, says("Good "), DONE) == ["Good ", Done(Finish.INTERRUPTED)]


async def test_a_stream_that_just_ends_is_not_done(server: OpenAIServer) -> None:
    assert await pieces(server, says("Good ")) == ["Good ", Done(Finish.INTERRUPTED)]


@pytest.mark.parametrize("after", [Fault.RESET, "data: {broken\n\n", error("server_error")])
async def test_an_error_behind_the_end_withdraws_nothing(server: OpenAIServer, after: Any) -> None:
    assert await pieces(server, says("Hi"), finish("stop"), after) == ["Hi", Done(Finish.STOP)]


async def test_a_server_that_stays_silent_behind_the_end_does_not_hold_it_back(server: OpenAIServer) -> None:
    done = await pieces(server, says("Hi"), finish("stop"), Fault.STALL, llm_read_timeout=0.6)
    assert done == ["Hi", Done(Finish.STOP)]


async def test_a_server_that_goes_on_behind_the_end_does_not_hold_it_back(server: OpenAIServer) -> None:
    more: list[Any] = [0.1, says("more")] * 8
    done = await pieces(server, says("Hi"), finish("stop"), *more, usage(12, 3), llm_read_timeout=0.3)
    assert done == ["Hi", Done(Finish.STOP)]


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": []},
        {"choices": None},
        {},
        {"choices": [{}]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"content": 7}}]},
        {"choices": [None]},
        {"choices": {"0": {}}},
        {"usage": {"prompt_tokens": "many"}, "choices": []},
        {"usage": {"prompt_tokens": 1 << 63, "completion_tokens": 1}, "choices": []},
        {"usage": {"prompt_tokens": -1, "completion_tokens": True}, "choices": []},
        [],
        7,
        'data: "text"\n\n',
        None,
    ],
)
async def test_events_of_an_odd_shape_say_nothing(server: OpenAIServer, odd: Any) -> None:
    assert await pieces(server, odd, says("Hi"), odd, finish("stop"), DONE) == ["Hi", Done(Finish.STOP)]


def with_text(**members: Any) -> dict[str, Any]:
    """An event of text that has other members as well, of the event or of its choice."""
    event = says("Hi")
    choice = event["choices"][0]
    delta = {"content": "Hi", "refusal": members.pop("refusal", None)}
    event["choices"] = [choice | {"delta": delta, "finish_reason": members.pop("finish_reason", None)}]
    return event | members


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (with_text(finish_reason="length"), ["Hi", Done(Finish.LENGTH)]),
        (with_text(refusal="!"), ["Hi!", Done(Finish.STOP)]),
        (
            with_text(usage={"prompt_tokens": 3, "completion_tokens": 1}),
            ["Hi", Done(Finish.STOP, Usage(3, 1))],
        ),
    ],
)
async def test_what_an_event_holds_beside_its_text_counts(server: OpenAIServer, event: Any, expected: Any) -> None:
    assert await pieces(server, event, finish("stop"), DONE) == expected


@pytest.mark.parametrize("data", [' {"a": 1} ', "\t[]\n"])
def test_white_space_around_the_json_of_an_event_is_none_of_it(data: str) -> None:
    assert _decode(data) == json.loads(data)


# The transport --------------------------------------------------------------------------------------------------------


async def test_the_body_is_read_directly_unless_the_environment_names_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def keep(_: httpx2.Response) -> None:
        pass

    found = []
    for proxy in ("", "http://127.0.0.1:9"):
        monkeypatch.setenv("http_proxy", proxy)
        client = http_client(timeout=httpx2.Timeout(1), limits=httpx2.Limits(), on_response=keep)
        found.append(type(client) is httpx2.AsyncClient)
        await client.aclose()
    assert found == [True, False]


async def test_an_answer_through_a_proxy_of_the_environment_is_the_same(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A server takes the absolute URL that a proxy is asked for.
    monkeypatch.setenv("http_proxy", server.base_url.removesuffix("/v1"))
    assert await pieces(server, says("Hi"), finish("stop"), DONE) == ["Hi", Done(Finish.STOP)]


def pace_reads(monkeypatch: pytest.MonkeyPatch, *, wait: float) -> None:
    """Have all reads but the first wait so long for their turn."""
    monkeypatch.setattr(llm_transport, "ReadPace", functools.partial(ReadPace, per_second=1 / wait, longest=wait))


async def test_what_comes_before_the_turn_of_an_answer_is_read_together(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace_reads(monkeypatch, wait=0.3)
    first, second = asyncio.Event(), asyncio.Event()
    server.reply(says("a"), first, says("b"), second, says("c"), says("d"), finish("stop"), DONE)
    model = responder(server)
    stream = model.answer(CHAT)
    assert await anext(stream) == "a"
    first.set()
    assert await anext(stream) == "b"
    second.set()
    assert [piece async for piece in stream] == ["cd", Done(Finish.STOP)]
    await model.shutdown()


async def test_the_end_of_an_answer_waits_for_no_turn(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pace_reads(monkeypatch, wait=60.0)
    monkeypatch.setattr(llm_stream, "_USAGE_SECONDS", 60.0)
    model, gate = responder(server), asyncio.Event()
    ended = "".join(f"data: {json.dumps(event)}\n\n" for event in (says("a"), finish("stop")))
    for steps in ((says("first"), gate, ended, DONE), (ended, gate, usage(1, 2), DONE)):
        gate.clear()
        server.reply(*steps)
        async with asyncio.timeout(20):
            stream = model.answer(CHAT)
            await anext(stream)
            gate.set()
            *_, done = [piece async for piece in stream]
    assert done == Done(Finish.STOP, Usage(1, 2))
    await model.shutdown()


async def test_an_answer_that_waits_for_its_turn_can_be_stopped(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace_reads(monkeypatch, wait=0.1)
    model, gate = responder(server), asyncio.Event()
    server.reply(says("a"), gate, says("b"), Fault.STALL)
    stream = model.answer(CHAT)
    await anext(stream)
    gate.set()
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    async with asyncio.timeout(20):
        await server.gone.wait()
    gate.clear()
    server.reply(says("c"), gate, says("d"), finish("stop"), DONE)
    stream = model.answer(CHAT)
    assert await anext(stream) == "c"
    gate.set()
    # Its turn comes behind that of the connection that is closed.
    assert [piece async for piece in stream] == ["d", Done(Finish.STOP)]
    await model.shutdown()


async def test_a_connection_that_has_just_been_lost_waits_for_no_turn(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace_reads(monkeypatch, wait=60.0)
    host, _, port = urlsplit(server.base_url).netloc.partition(":")
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, int(port))
    held = llm_transport._Held()
    held.hold(transport)
    transport.abort()
    held.hold(transport)
    assert not held._waiting
    held.close()
