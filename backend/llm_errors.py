"""Failures of the provider and of the connection to it, as a code of the protocol and a detail for the log."""

import datetime
import email.utils
import math
import re
import ssl
import time
from collections.abc import Iterator, Mapping

import aiohttp
import httpx2
import openai

from moorline.backend.errors import ErrorCode, LLMError

__all__ = ["FAILURES", "llm_error", "loggable", "retry_after"]

# What the library and the layers of its transport raise for a connection that ends or never begins.
_CONNECTION = (openai.APIConnectionError, httpx2.RequestError, aiohttp.ClientError, ssl.SSLError)
#: These, the library's own for statuses and events, and the JSON decoder's: for malformed data, and for data that is
#: nested too deep.
FAILURES = (openai.APIError, *_CONNECTION, TimeoutError, ValueError, RecursionError)

# A `Retry-After` beyond a day is a mistake, or of no use to a person who waits.
_LONGEST_RETRY = 86_400.0
# A request rejected for one of these parameters is rejected for the configuration, not for the message.
# No set: what the library passes on for a name may be a list, which has no hash.
_OUR_PARAMETERS = ("model", "temperature", "max_tokens", "max_completion_tokens", "stream", "stream_options")
# What an error object within the stream is called, where its status is already spent on 200.
_CODES = {
    "rate_limit_exceeded": ErrorCode.LLM_BUSY,
    "context_length_exceeded": ErrorCode.TOO_LONG,
    "content_filter": ErrorCode.FILTERED,
    "invalid_api_key": ErrorCode.LLM_MISCONFIGURED,
    "model_not_found": ErrorCode.LLM_MISCONFIGURED,
}
_STATUS = re.compile(r"[1-5][0-9]{2}\Z")
# Names and numbers, as codes are; anything longer may be a sentence with a patient's words in it.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def llm_error(error: Exception) -> LLMError:
    """`error` as raised by the library, by its JSON decoder, or by a timeout."""
    if isinstance(error, openai.APIStatusError):
        wait = retry_after(error.response.headers, time.time())
        return LLMError(_code(error, error.status_code), _detail(error), retry_after=wait)
    # The library's transport reports most failures of a connection as timeouts, so their cause decides.
    causes = list(_causes(error))
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return LLMError(ErrorCode.LLM_UNAVAILABLE, "no answer in time")
    if isinstance(error, _CONNECTION):
        return LLMError(ErrorCode.LLM_UNAVAILABLE, f"connection: {type(causes[-1]).__name__}")
    if isinstance(error, openai.APIError):
        # In the stream. Some servers put a status where OpenAI has a word.
        code = error.code or error.type or ""
        status = int(code) if isinstance(code, str) and _STATUS.match(code) else 500
        return LLMError(_code(error, status), f"in the stream: {_detail(error)}")
    return LLMError(ErrorCode.LLM_UNAVAILABLE, f"a malformed event: {type(error).__name__}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and its causes."""
    while error is not None:
        yield error
        error = error.__cause__


def _code(error: openai.APIError, status: int) -> ErrorCode:
    for name in (error.code, error.type):
        # The library does not check what it passes on.
        if isinstance(name, str) and name in _CODES:
            return _CODES[name]
    if status == 429:
        return ErrorCode.LLM_BUSY
    if status in (400, 413, 422):
        return ErrorCode.LLM_MISCONFIGURED if error.param in _OUR_PARAMETERS else ErrorCode.TOO_LONG
    if status in range(300, 400):
        return ErrorCode.LLM_MISCONFIGURED
    # 408 and 409 are failures of the server; all other 4xx concern the key, the model or the account.
    return (
        ErrorCode.LLM_MISCONFIGURED if 401 <= status < 500 and status not in (408, 409) else ErrorCode.LLM_UNAVAILABLE
    )


def _detail(error: openai.APIError) -> str:
    """Facts for the operator. Not the provider's message, which may quote the chat; the codes suffice."""
    facts: dict[str, object] = {"code": error.code, "type": error.type, "param": error.param}
    if isinstance(error, openai.APIStatusError):
        facts = {"status": error.status_code, **facts, "provider_request_id": error.request_id}
    known = {name: str(fact) for name, fact in facts.items() if fact is not None}
    return " ".join(f"{name}={loggable(fact)}" for name, fact in known.items()) or "no code"


def loggable(name: str) -> str:
    """A code or name of the provider's if it is short and looks like one, else `unknown`."""
    return name if _NAME.fullmatch(name) else "unknown"


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds of `Retry-After` (RFC 9110 section 10.2.3: a number or a date) at the POSIX time `now`."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).replace(tzinfo=datetime.UTC).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _LONGEST_RETRY) if math.isfinite(seconds) else None
