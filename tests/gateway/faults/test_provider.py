"""The model's server that fails, asked by OpenAI's own client."""

from collections.abc import AsyncIterator

import httpx2
import openai
import pytest

from moorline.gateway.common.errors import UsageError
from moorline.gateway.faults.provider import Provider, provider


@pytest.fixture
async def model() -> AsyncIterator[Provider]:
    async with provider(["Good ", "morning."]) as started:
        yield started


@pytest.fixture
async def client(model: Provider) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=model.base_url, api_key="any", max_retries=0, timeout=30.0) as started:
        yield started


async def whole(client: openai.AsyncOpenAI) -> str | None:
    answer = await client.chat.completions.create(model="test", messages=[{"role": "user", "content": "Hello"}])
    return answer.choices[0].message.content


async def streamed(client: openai.AsyncOpenAI) -> list[tuple[str | None, str | None]]:
    """The pieces, and the reason of the end."""
    stream = await client.chat.completions.create(
        model="test", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    async with stream:
        return [(chunk.choices[0].delta.content, chunk.choices[0].finish_reason) async for chunk in stream]


async def test_it_answers_whole_and_in_pieces(client: openai.AsyncOpenAI, model: Provider) -> None:
    assert await whole(client) == "Good morning."
    assert await streamed(client) == [("Good ", None), ("morning.", None), (None, "stop")]
    assert [request["messages"][0]["content"] for request in model.requests] == ["Hello", "Hello"]
    assert [each.id async for each in client.models.list()] == ["test"]


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("provider_401", openai.AuthenticationError, "invalid_api_key"),
        ("provider_404", openai.NotFoundError, "model_not_found"),
        ("provider_429", openai.RateLimitError, "rate_limit_exceeded"),
        ("provider_quota", openai.RateLimitError, "insufficient_quota"),
        ("provider_500", openai.InternalServerError, "server_error"),
    ],
)
async def test_a_refusal_has_its_status_and_code(
    client: openai.AsyncOpenAI, model: Provider, name: str, error: type[openai.APIStatusError], code: str
) -> None:
    async with model.faults.arm(name):
        with pytest.raises(error) as raised:
            await whole(client)
    assert raised.value.code == code
    assert await whole(client) == "Good morning."


@pytest.mark.parametrize("name", ["provider_stall", "provider_reset"])
async def test_a_stream_that_breaks_off_is_an_error(client: openai.AsyncOpenAI, model: Provider, name: str) -> None:
    async with model.faults.arm(name) as fault:
        with pytest.raises((openai.APIError, httpx2.TransportError)):
            # Alone what stalls has a short time, which is waited for.
            await streamed(client.with_options(timeout=0.5) if name == "provider_stall" else client)
    assert fault.met == 1


async def test_a_stream_that_is_cut_ends_without_a_reason(client: openai.AsyncOpenAI, model: Provider) -> None:
    async with model.faults.provider_cut():
        assert await streamed(client) == [("Good ", None)]


async def test_a_fault_of_a_gateway_is_none_of_a_providers(model: Provider) -> None:
    with pytest.raises(UsageError, match="reset: it is a fault of a gateway"):
        model.faults.reset()
