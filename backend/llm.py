"""A model behind any server that speaks OpenAI's Chat Completions. It knows `openai`, with two others: its errors
become the codes of the protocol in `llm_errors.py`, and what streams in is read in `llm_stream.py`.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httpx2
import openai

from moorline.backend import provider
from moorline.backend.errors import LLMError
from moorline.backend.llm_errors import FAILURES, llm_error
from moorline.backend.llm_stream import bound_error, pieces
from moorline.backend.llm_transport import http_client
from moorline.backend.responder import Done, Piece, Prompt, Turn
from moorline.backend.settings import Settings
from moorline.gateway.common import tracing
from moorline.gateway.common.errors import UsageError
from moorline.gateway.common.logs import hashed

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

__all__ = ["OpenAIResponder"]


class OpenAIResponder:
    """One client, with its connections, for all runs of the process."""

    scripted = False

    def __init__(self, settings: Settings | None = None, *, api_key: str = "", base_url: str = "") -> None:
        """`api_key` and `base_url` are those of the environment where they are not given.

        Raises:
            UsageError: there is no key, or the address is none.
        """
        settings = settings or Settings()
        api_key = api_key or provider.api_key(os.environ)
        if not api_key:
            raise UsageError("OPENAI_API_KEY: it is not set; a server that needs none takes any")
        base_url = provider.base_url(base_url or os.environ.get("OPENAI_BASE_URL", ""))
        self.name = settings.model
        self._settings = settings
        # `_ask` and `pieces` bound the reading; the transport's timer, restarted by each packet, would add nothing.
        clock = httpx2.Timeout(None, connect=settings.llm_connect_timeout)
        # `max_runs` bounds the answers at once; 0 is aiohttp's value for no limit.
        limits = httpx2.Limits(max_connections=0)
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            # A retry by the library would be charged twice and hide the outage; the user decides, with `retry`.
            max_retries=0,
            # aiohttp's parser of HTTP is in C; with httpx's own transport a token costs a third more.
            http_client=http_client(timeout=clock, limits=limits, on_response=bound_error),
            timeout=clock,
            # Of text in small events nothing is gained by compression, and 2 MiB of gzip can hold 2 GiB.
            default_headers={"Accept-Encoding": "identity"},
        )
        # OpenAI's newer models refuse `max_tokens`; many other servers accept nothing else.
        host = urlsplit(base_url).hostname
        self._max_tokens = "max_completion_tokens" if host == urlsplit(provider.OPENAI).hostname else "max_tokens"

    async def answer(self, turn: Turn) -> AsyncIterator[Piece]:
        """See `Responder.answer`. A responder of yours may call it, and yield what it yields: `str`, then `Done`."""
        with self._span(turn) as span:
            try:
                stream = await self._ask(turn, span.headers())
            except FAILURES as error:
                raise llm_error(error) from error
            # Entered, so that the provider's connection is closed however this generator ends.
            async with (
                stream,
                contextlib.aclosing(pieces(stream.response, timeout=self._settings.llm_read_timeout)) as answer,
            ):
                async for piece in answer:
                    if isinstance(piece, Done):
                        _describe(span, piece)
                    yield piece

    @contextlib.contextmanager
    def _span(self, turn: Turn) -> Iterator[tracing.Span]:
        """The call by the names of OpenTelemetry's conventions for generative AI, without text of the chat."""
        settings, target = self._settings, urlsplit(str(self._client.base_url))
        span = tracing.begin(
            f"chat {settings.model}",
            "client",
            gen_ai__operation__name="chat",
            gen_ai__provider__name="openai",
            gen_ai__request__model=settings.model,
            gen_ai__request__max_tokens=settings.max_tokens,
            gen_ai__request__temperature=settings.temperature,
            gen_ai__conversation__id=hashed(turn.session_id),
            server__address=target.hostname,
            server__port=target.port or (443 if target.scheme == "https" else 80),
        )
        try:
            yield span
        except LLMError as error:
            span.fail(error.code)
            raise
        except Exception as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()

    async def shutdown(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _ask(self, turn: Turn, headers: Mapping[str, str]) -> "openai.AsyncStream[ChatCompletionChunk]":
        settings = self._settings
        system = settings.system_prompt if turn.system is None else turn.system
        options: dict[str, int | float] = {self._max_tokens: settings.max_tokens}
        if settings.temperature is not None:
            options["temperature"] = settings.temperature
        # From connecting to the end of the response's headers, also where they arrive byte by byte.
        async with asyncio.timeout(settings.llm_connect_timeout + settings.llm_read_timeout):
            stream: openai.AsyncStream[ChatCompletionChunk] = await self._client.chat.completions.create(
                model=settings.model,
                messages=_messages(system, turn.prompts),
                stream=True,
                stream_options={"include_usage": True},
                extra_headers=headers,
                **cast("Any", options),
            )
            return stream


def _describe(span: tracing.Span, done: Done) -> None:
    span.set(gen_ai__response__finish_reasons=[done.finish.value])
    if done.usage is not None:
        span.set(gen_ai__usage__input_tokens=done.usage.input_tokens)
        span.set(gen_ai__usage__output_tokens=done.usage.output_tokens)


def _messages(system_prompt: str, chat: Iterable[Prompt]) -> "list[ChatCompletionMessageParam]":
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    said = [{"role": prompt.role, "content": prompt.content} for prompt in chat]
    return cast("list[ChatCompletionMessageParam]", [*system, *said])
