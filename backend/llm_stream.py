"""An answer as it streams in: bytes of Chat Completions -> pieces of text and the end.

The `openai` package has asked, and has judged the status; what follows is read here. It would build a model of each
event with all its members, where three are needed: that costs more than everything else between the provider and the
browser.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import cast

import httpx2
import openai

from moorline.backend.errors import ErrorCode, LLMError
from moorline.backend.events import Finish, Usage
from moorline.backend.llm_errors import FAILURES, llm_error, loggable
from moorline.backend.llm_transport import reader
from moorline.backend.responder import Done, Piece
from moorline.backend.silence import Silence
from moorline.backend.sse import MAX_EVENT, EventData

__all__ = ["bound_error", "pieces"]

# `usage` follows behind the finish_reason. A server that never ends its stream must not hold a whole answer back.
_USAGE_SECONDS = 2.0
# Behind [DONE] only the end of the body comes. Once that is read, the connection serves the next answer.
_DRAIN_SECONDS = 0.1
# More is malformed, and more than a database's integer holds.
_MOST_TOKENS = (1 << 31) - 1
# Of the body of a refusal. OpenAI's have less than 1 KiB; what is longer quotes the chat.
_MAX_ERROR = 64 << 10


async def bound_error(response: httpx2.Response) -> None:
    """A hook for the client, whose library reads the whole body of a refusal. One that is cut is no JSON; its status
    decides.
    """
    if not response.is_success:
        # It would be inflated as a whole.
        response.headers.pop("Content-Encoding", None)
        response.stream = _Bounded(cast("httpx2.AsyncByteStream", response.stream), _MAX_ERROR)


class _Bounded(httpx2.AsyncByteStream):
    """The first `limit` bytes of a stream."""

    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        async for piece in self._stream:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                break

    async def aclose(self) -> None:
        await self._stream.aclose()


async def pieces(response: httpx2.Response, *, timeout: float) -> AsyncGenerator[Piece, None]:
    """See `Responder.answer`. `timeout` bounds the silence between two events."""
    # Raw: 16 KiB that are read at once may be inflated to 16 MiB.
    answer, body, clock = _Answer(response), reader(response), asyncio.get_running_loop().time
    # Apart from the transport's clock: comments that keep a connection alive are bytes, but no answer.
    with contextlib.closing(Silence(clock() + timeout)) as silence:
        while True:
            text = ""
            failed: LLMError | None = None
            try:
                with silence:
                    received = await body.read()
                if not received:
                    break
                for event in answer.events.receive_data(received):
                    was_finished = answer.finished
                    text += answer.take(event)
                    due = clock() + min(timeout, answer.patience)
                    # What comes behind the end puts it off no further: a server that goes on must not hold it back.
                    silence.deadline = min(silence.deadline, due) if was_finished else due
                answer.check_size()
                if not answer.finished:
                    body.gather()
            except LLMError as error:
                failed = error
            except FAILURES as error:
                failed = llm_error(error)
            if text:
                yield text
            if failed is not None:
                if answer.finished:
                    break
                raise failed
    answer.check()
    # Without a reason the provider's connection ended in the middle.
    yield Done(answer.finish or Finish.INTERRUPTED, answer.usage)


class _Answer:
    """What has been read of one."""

    def __init__(self, response: httpx2.Response) -> None:
        self.events = EventData()
        self.finish: Finish | None = None
        self.finished = False
        """It may end in whatever way from here on."""
        self.usage: Usage | None = None
        self.patience = float("inf")
        self._response = response
        self._empty = True

    def take(self, data: bytes) -> str:
        """The text of an event.

        Raises:
            LLMError, FAILURES: it reports that the answer failed, or is malformed.
        """
        self._empty = False
        if data.startswith(b"[DONE]"):
            self.finished, self.patience = True, _DRAIN_SECONDS
            return ""
        chunk = _decode(data.decode())
        if not self.finished and (text := _plain_text(chunk)) is not None:
            return text
        if isinstance(chunk, dict) and chunk.get("error"):
            raise openai.APIError("in the stream", self._response.request, body=chunk["error"])
        self.usage = _usage(chunk) or self.usage
        if self.finished:
            return ""
        choice = _choice(chunk)
        text, self.finish = _text(choice), _finish(choice)
        if self.finish is not None:
            self.finished, self.patience = True, _USAGE_SECONDS
        return text

    def check_size(self) -> None:
        """Raises LLMError for an event that is too long."""
        if self.events.overflowed:
            raise LLMError(ErrorCode.LLM_UNAVAILABLE, f"an event of more than {MAX_EVENT} bytes")

    def check(self) -> None:
        """Raises LLMError for a body that is no stream."""
        if self._empty:
            headers = self._response.headers
            kind = "/".join(map(loggable, headers.get("Content-Type", "none").partition(";")[0].strip().split("/")[:2]))
            coding = loggable(headers.get("Content-Encoding", "none"))
            detail = f"an answer without any event (Content-Type: {kind}, Content-Encoding: {coding})"
            raise LLMError(ErrorCode.LLM_UNAVAILABLE, detail)


_JSON = json.JSONDecoder()


def _decode(text: str) -> object:
    """The JSON value in `text`. `json.loads` looks for white space around it by regular expressions, which take as long
    as the value itself; most events have none."""
    try:
        value, end = _JSON.raw_decode(text)
    except ValueError:
        end = -1
    return value if end == len(text) else json.loads(text)


def _plain_text(chunk: object) -> str | None:
    """The text of an event that has nothing else to say, as all but the last ones of an answer are."""
    try:
        choice = chunk["choices"][0]  # type: ignore[index]
        delta = choice["delta"]
        text = delta["content"]
        plain = (
            type(text) is str
            and choice["finish_reason"] is None
            and delta.get("refusal") is None
            and chunk.get("usage") is None  # type: ignore[attr-defined]
            and not chunk.get("error")  # type: ignore[attr-defined]
        )
    except (AttributeError, IndexError, KeyError, TypeError):
        return None
    return text if plain else None


# Reading an event: any member may be missing or of another type -------------------------------------------------------


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _choice(chunk: object) -> object:
    choices = _member(chunk, "choices")
    return choices[0] if isinstance(choices, list) and choices else None


def _text(choice: object) -> str:
    delta = _member(choice, "delta")
    # A model that declines writes its text there instead.
    content, refusal = _member(delta, "content"), _member(delta, "refusal")
    return (content if isinstance(content, str) else "") + (refusal if isinstance(refusal, str) else "")


def _finish(choice: object) -> Finish | None:
    match _member(choice, "finish_reason"):
        case "length":
            return Finish.LENGTH
        case "content_filter":
            raise LLMError(ErrorCode.FILTERED, "finish_reason content_filter")
        case "error":
            raise LLMError(ErrorCode.LLM_UNAVAILABLE, "finish_reason error")
        case str(reason) if reason:
            # `stop`, and what other servers call it.
            return Finish.STOP
        case _:
            return None


def _usage(chunk: object) -> Usage | None:
    usage = _member(chunk, "usage")
    if usage is None:
        return None
    counts = [_member(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    if not all(type(count) is int and 0 <= count <= _MOST_TOKENS for count in counts):
        return None
    return Usage(*cast("list[int]", counts))
