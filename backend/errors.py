"""The catalogue of refusals: every error code of the protocol with its HTTP status. Pure.

A `Refusal` rejects a client's command and changes nothing. An `LLMError` ends a run: it becomes the `error` of the
run's `message` event. Details of both go to the log, never to the client.
"""

import enum
from typing import NamedTuple

__all__ = ["CATALOGUE", "CloseCode", "ErrorCode", "LLMError", "Refusal"]


class ErrorCode(enum.StrEnum):
    """`code` of an error frame, of a failed run and of a problem document."""

    BAD_REQUEST = "bad_request"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    BUSY = "busy"
    REJECTED = "rejected"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    LLM_UNAVAILABLE = "llm_unavailable"
    LLM_BUSY = "llm_busy"
    LLM_MISCONFIGURED = "llm_misconfigured"
    TOO_LONG = "too_long"
    FILTERED = "filtered"
    INTERNAL = "internal"


class Meaning(NamedTuple):
    """What a code means to a client: HTTP status, whether retrying can help, and an explanation for a person."""

    status: int
    retryable: bool
    message: str


CATALOGUE = {
    ErrorCode.BAD_REQUEST: Meaning(400, False, "The request was not understood."),
    ErrorCode.FORBIDDEN: Meaning(403, False, "This chat is not open to you."),
    ErrorCode.NOT_FOUND: Meaning(404, False, "There is nothing under this id."),
    ErrorCode.BUSY: Meaning(409, True, "An answer is still being written."),
    ErrorCode.REJECTED: Meaning(409, False, "This message id was already used for another text."),
    ErrorCode.TOO_LARGE: Meaning(413, False, "The message is too long."),
    ErrorCode.RATE_LIMITED: Meaning(429, True, "Too many messages; please wait a moment."),
    ErrorCode.LLM_UNAVAILABLE: Meaning(503, True, "The assistant cannot be reached right now."),
    ErrorCode.LLM_BUSY: Meaning(503, True, "The assistant is busy; please try again shortly."),
    # The three below end a run and have no HTTP answer of their own; the status is for completeness of the table.
    ErrorCode.LLM_MISCONFIGURED: Meaning(500, False, "The assistant is not set up correctly."),
    ErrorCode.TOO_LONG: Meaning(500, False, "This chat has become too long for the assistant."),
    ErrorCode.FILTERED: Meaning(500, False, "The assistant declined to answer this."),
    ErrorCode.INTERNAL: Meaning(500, True, "Something went wrong on our side."),
}


class CloseCode(enum.IntEnum):
    """Close codes that this backend sends (RFC 6455 section 7.4; 44xx: come back, 45xx: stay away)."""

    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    SESSION_EXPIRED = 4401
    TOO_SLOW = 4408
    BAD_FRAMES = 4500
    FORBIDDEN = 4503
    DELETED = 4504


class Refusal(Exception):
    """A command is refused: `code`, and seconds after which to try again where that is known."""

    def __init__(self, code: ErrorCode, message: str = "", *, retry_after: float | None = None) -> None:
        self.code = code
        self.message = message or CATALOGUE[code].message
        self.retry_after = retry_after
        super().__init__(f"{code}: {self.message}")


class LLMError(Exception):
    """The model's stream failed. `detail` is for the log alone: it may quote the provider."""

    def __init__(self, code: ErrorCode, detail: str, *, retry_after: float | None = None) -> None:
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        super().__init__(f"{code}: {detail}")
