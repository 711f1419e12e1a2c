"""What the model's server or the way to it does wrong, as the codes of the protocol."""

import asyncio
import contextlib
import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from email.utils import formatdate
from typing import Any

import pytest

from moorline.backend.errors import ErrorCode, LLMError
from moorline.backend.events import Finish
from moorline.backend.llm_errors import retry_after
from moorline.backend.responder import Done, Piece
from tests.support.models import CHAT, pieces, responder
from tests.support.openai_server import DONE, Fault, OpenAIServer, Status, error, finish, openai_server, says


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with openai_server() as server:
        yield server


async def failure(server: OpenAIServer, *steps: Any, **options: Any) -> LLMError:
    with pytest.raises(LLMError) as caught:
        await pieces(server, *steps, **options)
    assert "private" not in str(caught.value)
    assert "quotes" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ErrorCode.TOO_LONG),
        (401, ErrorCode.LLM_MISCONFIGURED),
        (402, ErrorCode.LLM_MISCONFIGURED),
        (403, ErrorCode.LLM_MISCONFIGURED),
        (404, ErrorCode.LLM_MISCONFIGURED),
        (408, ErrorCode.LLM_UNAVAILABLE),
        (413, ErrorCode.TOO_LONG),
        (422, ErrorCode.TOO_LONG),
        (429, ErrorCode.LLM_BUSY),
        (500, ErrorCode.LLM_UNAVAILABLE),
        (503, ErrorCode.LLM_UNAVAILABLE),
    ],
)
async def test_a_status_becomes_a_code(server: OpenAIServer, status: int, code: ErrorCode) -> None:
    failed = await failure(server, Status(status, error("some_code")))
    assert failed.code == code
    assert f"status={status} code=some_code" in failed.detail
    # No second request: a retry is a person's to ask for.
    assert len(server.asked) == 1


async def test_a_redirect_is_not_followed(server: OpenAIServer) -> None:
    async with openai_server() as elsewhere:
        location = {"Location": f"{elsewhere.base_url}/chat/completions"}
        assert (await failure(server, Status(307, None, location))).code == ErrorCode.LLM_MISCONFIGURED
        assert elsewhere.asked == []


EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\n\r\n"


async def test_some_informational_responses_are_skipped_before_each_answer(server: OpenAIServer) -> None:
    model = responder(server)
    for _ in range(2):
        server.reply(16 * EARLY_HINTS, says("Hi"), finish("stop"), DONE)
        assert [piece async for piece in model.answer(CHAT)] == ["Hi", Done(Finish.STOP)]
    await model.shutdown()


async def test_informational_responses_without_end_are_no_answer(server: OpenAIServer) -> None:
    failed = await failure(server, 17 * EARLY_HINTS, says("Hi"), finish("stop"), DONE)
    assert (failed.code, failed.detail) == (ErrorCode.LLM_UNAVAILABLE, "connection: BadHttpMessage")


async def test_the_time_to_wait_is_passed_on(server: OpenAIServer) -> None:
    failed = await failure(server, Status(429, error("rate_limit_exceeded"), {"Retry-After": "7"}))
    assert (failed.code, failed.retry_after) == (ErrorCode.LLM_BUSY, 7.0)


async def test_our_own_option_refused_is_not_the_persons_fault(server: OpenAIServer) -> None:
    body = {"error": {"message": "quotes", "type": "invalid_request_error", "param": "temperature", "code": None}}
    assert (await failure(server, Status(400, body))).code == ErrorCode.LLM_MISCONFIGURED


async def test_a_code_that_is_a_sentence_stays_out_of_the_log(server: OpenAIServer) -> None:
    assert "code=unknown" in (await failure(server, Status(500, error("quotes private words")))).detail


async def test_a_reset_before_the_stream_is_unavailable(server: OpenAIServer) -> None:
    assert (await failure(server, Fault.RESET)).code == ErrorCode.LLM_UNAVAILABLE


async def test_a_provider_that_does_not_listen_is_unavailable(server: OpenAIServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        server.base_url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        failed = await failure(server)
    assert (failed.code, failed.detail) == (ErrorCode.LLM_UNAVAILABLE, "connection: ConnectionRefusedError")


async def test_a_server_that_never_answers_is_unavailable(server: OpenAIServer) -> None:
    never = asyncio.Event()
    failed = await failure(server, Fault.STALL, never, llm_read_timeout=0.2)
    assert (failed.code, failed.detail) == (ErrorCode.LLM_UNAVAILABLE, "no answer in time")


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Fault.RESET, ErrorCode.LLM_UNAVAILABLE),
        (Fault.STALL, ErrorCode.LLM_UNAVAILABLE),
        ("data: {broken\n\n", ErrorCode.LLM_UNAVAILABLE),
        ("data: " + "[" * 100_000 + "\n\n", ErrorCode.LLM_UNAVAILABLE),
        ({"error": {"message": "quotes", "code": ["a"], "type": {"a": 1}}}, ErrorCode.LLM_UNAVAILABLE),
        (error("9" * 5000), ErrorCode.LLM_UNAVAILABLE),
        (error("server_error"), ErrorCode.LLM_UNAVAILABLE),
        (error("rate_limit_exceeded"), ErrorCode.LLM_BUSY),
        (error(429), ErrorCode.LLM_BUSY),
        (error(502), ErrorCode.LLM_UNAVAILABLE),
        (error("context_length_exceeded"), ErrorCode.TOO_LONG),
        (finish("content_filter"), ErrorCode.FILTERED),
        (finish("error"), ErrorCode.LLM_UNAVAILABLE),
    ],
)
async def test_trouble_in_the_middle_comes_after_the_text(server: OpenAIServer, step: Any, code: ErrorCode) -> None:
    model = responder(server, llm_read_timeout=0.6)
    server.reply(says("Good "), step)
    stream = model.answer(CHAT)
    assert await anext(stream) == "Good "
    with pytest.raises(LLMError) as caught:
        await anext(stream)
    assert caught.value.code == code
    assert "quotes" not in str(caught.value)
    await model.shutdown()


async def test_comments_alone_do_not_count_as_an_answer(server: OpenAIServer) -> None:
    failed = await failure(server, *[": still here\n\n"] * 3, Fault.STALL, llm_read_timeout=0.2)
    assert failed.detail == "no answer in time"


# How much -------------------------------------------------------------------------------------------------------------

ZIPPED = gzip.compress(b"data: " + b"x" * (64 << 20), compresslevel=1)


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """The block never has more than so many bytes of memory beyond what it began with."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] <= size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("line", ["data: " + "x" * 65536, ": comment" * 8192, "data: " + "x" * 65536 + "\n"])
async def test_an_event_without_end_is_given_up(server: OpenAIServer, line: str) -> None:
    with at_most(16 << 20):
        failed = await failure(server, "data: {}\n\n", *[line] * 512)
    assert (failed.code, failed.detail) == (ErrorCode.LLM_UNAVAILABLE, "an event of more than 1048576 bytes")


async def test_an_event_without_end_behind_the_end_takes_nothing_back(server: OpenAIServer) -> None:
    got = await pieces(server, says("Hi"), finish("stop"), *["x" * 65536] * 64)
    assert got == ["Hi", Done(Finish.STOP)]


async def test_a_compressed_answer_is_not_inflated(server: OpenAIServer) -> None:
    with at_most(16 << 20):
        failed = await failure(server, Status(200, ZIPPED, {"Content-Encoding": "gzip"}))
    assert "Content-Encoding: gzip" in failed.detail


async def test_a_long_refusal_is_read_in_part_and_its_status_decides(server: OpenAIServer) -> None:
    failed = await failure(server, Status(429, error("some_code", "quotes " * 16384)))
    assert (failed.code, failed.detail) == (ErrorCode.LLM_BUSY, "status=429")


async def test_a_compressed_refusal_is_not_inflated(server: OpenAIServer) -> None:
    with at_most(16 << 20):
        failed = await failure(server, Status(429, ZIPPED, {"Content-Encoding": "gzip"}))
    assert (failed.code, failed.detail) == (ErrorCode.LLM_BUSY, "status=429")


@pytest.mark.parametrize("code", ["Fr\u00e4ulein", "x" * 65, "line\nbreak", ""])
async def test_a_code_that_is_no_code_is_unknown(server: OpenAIServer, code: str) -> None:
    assert "code=unknown" in (await failure(server, says("Hi"), error(code))).detail


@pytest.mark.parametrize("param", [["model"], {"model": 1}, 1])
async def test_a_parameter_that_is_no_name_is_none_of_ours(server: OpenAIServer, param: object) -> None:
    refusal = {"error": {"message": "quotes private", "code": "some_code", "param": param}}
    assert (await failure(server, Status(400, refusal))).code is ErrorCode.TOO_LONG


async def test_a_content_type_that_is_none_stays_out_of_the_log(server: OpenAIServer) -> None:
    failed = await failure(server, Status(200, b"{}", {"Content-Type": "quotes private/words; private=1"}))
    assert "Content-Type: unknown/words," in failed.detail


async def test_an_answer_that_is_no_stream_says_so(server: OpenAIServer) -> None:
    assert "application/json" in (await failure(server, Status(200, {"choices": []}))).detail


async def test_closing_the_iterator_closes_the_providers_connection(server: OpenAIServer) -> None:
    model = responder(server)
    server.reply(says("Good "), Fault.STALL)
    stream = model.answer(CHAT)
    assert await anext(stream) == "Good "
    await stream.aclose()  # type: ignore[attr-defined]
    await asyncio.wait_for(server.gone.wait(), 5)
    await model.shutdown()


async def test_cancelling_while_the_answer_has_not_begun_closes_it_too(server: OpenAIServer) -> None:
    model = responder(server)
    server.reply(asyncio.Event())
    asking = asyncio.ensure_future(anext(model.answer(CHAT)))
    await server.has(1)
    asking.cancel()
    await asyncio.wait_for(server.gone.wait(), 5)
    await asyncio.gather(asking, return_exceptions=True)
    await model.shutdown()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("1e9", 86_400.0),
        ("nan", None),
        ("", None),
        ("soon", None),
        (f"Mon, {'9' * 20} Jan 2026 00:00:00 GMT", None),
        (formatdate(1_000_060, usegmt=True), 60.0),
        (formatdate(999_000, usegmt=True), 0.0),
    ],
)
def test_retry_after_is_a_number_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": text}, 1_000_000) == seconds


async def test_many_answers_at_once_do_not_wait_for_each_other(server: OpenAIServer) -> None:
    model = responder(server)
    gate = asyncio.Event()
    for _ in range(150):
        server.reply(gate, says("Hi"), finish("stop"), DONE)

    async def whole() -> list[Piece]:
        return [piece async for piece in model.answer(CHAT)]

    began = [asyncio.ensure_future(whole()) for _ in range(150)]
    await server.has(150)
    gate.set()
    assert all(answer == ["Hi", Done(Finish.STOP)] for answer in await asyncio.gather(*began))
    await model.shutdown()
