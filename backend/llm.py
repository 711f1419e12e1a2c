"""A model behind any server that speaks OpenAI's Chat Completions. The only module that knows `openai`.

Its errors become the codes of the protocol in `llm_errors.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httpx2
import openai

from backend.errors import ErrorCode, LLMError
from backend.events import Finish, Usage
from backend.llm_errors import llm_error
from backend.responder import Done, Piece, Prompt, Text
from backend.settings import Settings
from gateway.common.errors import UsageError

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

__all__ = ["OpenAIResponder", "base_url"]

_OPENAI = "https://api.openai.com/v1"
# `usage` follows behind the finish_reason. A server that never ends its stream must not hold a whole answer back.
_USAGE_SECONDS = 2.0
# What the library raises, and what its JSON decoder does: for nonsense, and for nonsense nested 100,000 deep.
_FAILURES = (openai.APIError, TimeoutError, ValueError, RecursionError)
# No provider counts further; what does is nonsense, and more than a database's integer holds.
_MOST_TOKENS = (1 << 31) - 1
# Connections kept for the next answer; how many there are at once is for `max_runs` to say.
_IDLE_CONNECTIONS = 100


def base_url(text: str) -> str:
    """The provider's address as `OPENAI_BASE_URL` has it; empty stands for OpenAI's own.

    Raises:
        UsageError: no http(s) address.
    """
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if text.strip() and not valid:
        raise UsageError(
            f'OPENAI_BASE_URL: "{text}" is no http(s) address; write for example http://localhost:11434/v1'
        )
    return text.strip() or _OPENAI


class OpenAIResponder:
    """One client, with its connections, for all runs of the process."""

    scripted = False

    def __init__(self, settings: Settings, *, api_key: str, base_url: str) -> None:
        self.name = settings.model
        self._settings = settings
        # A whole answer may take long; what is bounded is the silence within it.
        clock = httpx2.Timeout(settings.llm_read_timeout, connect=settings.llm_connect_timeout)
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_IDLE_CONNECTIONS)
        self._client = openai.AsyncOpenAI(
            api_key=api_key,
            base_url=base_url,
            # A retry of the library's is a second bill for an answer that may be under way, and hides the outage. The
            # person decides, with `retry`.
            max_retries=0,
            # A redirect would take the chat to a host that nobody named.
            http_client=openai.DefaultAsyncHttpx2Client(timeout=clock, limits=limits, follow_redirects=False),
            timeout=clock,
        )
        # OpenAI's newer models refuse `max_tokens`; many other servers know nothing else.
        host = urlsplit(base_url).hostname
        self._max_tokens = "max_completion_tokens" if host == urlsplit(_OPENAI).hostname else "max_tokens"

    async def answer(self, chat: Sequence[Prompt]) -> AsyncIterator[Piece]:
        """See `Responder.answer`."""
        try:
            stream = await self._ask(chat)
        except _FAILURES as error:
            raise llm_error(error) from error
        # Entered, so that every way out of this generator closes the provider's connection.
        async with stream, contextlib.aclosing(self._chunks(stream)) as chunks:
            async for piece in _pieces(chunks):
                yield piece

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def _ask(self, chat: Sequence[Prompt]) -> "openai.AsyncStream[ChatCompletionChunk]":
        settings = self._settings
        options: dict[str, int | float] = {self._max_tokens: settings.max_tokens}
        if settings.temperature is not None:
            options["temperature"] = settings.temperature
        # httpx2 bounds each read, and a head that arrives byte by byte has many.
        async with asyncio.timeout(settings.llm_connect_timeout + settings.llm_read_timeout):
            stream: openai.AsyncStream[ChatCompletionChunk] = await self._client.chat.completions.create(
                model=settings.model,
                messages=_messages(settings.system_prompt, chat),
                stream=True,
                stream_options={"include_usage": True},
                **cast("Any", options),
            )
            return stream

    async def _chunks(
        self, stream: "openai.AsyncStream[ChatCompletionChunk]"
    ) -> AsyncGenerator["ChatCompletionChunk", None]:
        """The stream's events; after the one that ends the answer it may end in whatever way."""
        seconds, finished, empty = self._settings.llm_read_timeout, False, True
        while True:
            try:
                # Apart from httpx2's: comments that keep a connection alive are bytes, but no answer.
                async with asyncio.timeout(seconds):
                    chunk = await anext(stream)
            except StopAsyncIteration:
                break
            except _FAILURES as error:
                if finished:
                    return
                raise llm_error(error) from error
            empty = False
            yield chunk
            if _finish_reason(chunk):
                finished, seconds = True, min(seconds, _USAGE_SECONDS)
        if empty:
            kind = stream.response.headers.get("Content-Type", "none")
            raise LLMError(ErrorCode.LLM_UNAVAILABLE, f"an answer without any event (Content-Type: {kind})")


def _messages(system_prompt: str, chat: Iterable[Prompt]) -> "list[ChatCompletionMessageParam]":
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    said = [{"role": prompt.role, "content": prompt.content} for prompt in chat]
    return cast("list[ChatCompletionMessageParam]", [*system, *said])


# Reading an event: the library does not check what servers send. Any member may be missing or of another kind. -------


async def _pieces(chunks: AsyncIterator["ChatCompletionChunk"]) -> AsyncIterator[Piece]:
    finish: Finish | None = None
    usage: Usage | None = None
    async for chunk in chunks:
        usage = _usage(chunk) or usage
        if finish is None:
            if text := _text(chunk):
                yield Text(text)
            finish = _finish(_finish_reason(chunk))
    if finish is not None:
        yield Done(finish, usage)


def _choice(chunk: object) -> object:
    choices = getattr(chunk, "choices", None)
    return choices[0] if isinstance(choices, list) and choices else None


def _text(chunk: object) -> str:
    delta = getattr(_choice(chunk), "delta", None)
    # A model that declines writes its words there instead.
    words = (getattr(delta, name, None) for name in ("content", "refusal"))
    return "".join(word for word in words if isinstance(word, str))


def _finish_reason(chunk: object) -> str | None:
    reason = getattr(_choice(chunk), "finish_reason", None)
    return reason if isinstance(reason, str) and reason else None


def _finish(reason: str | None) -> Finish | None:
    match reason:
        case None:
            return None
        case "length":
            return Finish.LENGTH
        case "content_filter":
            raise LLMError(ErrorCode.FILTERED, "finish_reason content_filter")
        case "error":
            raise LLMError(ErrorCode.LLM_UNAVAILABLE, "finish_reason error")
        case _:
            # `stop`, and what other servers call it.
            return Finish.STOP


def _usage(chunk: object) -> Usage | None:
    usage = getattr(chunk, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    if not all(type(count) is int and 0 <= count <= _MOST_TOKENS for count in counts):
        return None
    return Usage(*cast("list[int]", counts))
