"""Every refusal as an `application/problem+json` document (RFC 9457)."""

import logging
import math

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from moorline.backend.errors import CATALOGUE, ErrorCode, Refusal
from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.protocol.codec import encode
from moorline.backend.protocol.models import Problem
from moorline.gateway.common.access.authorize import CHALLENGE, HookFailed
from moorline.gateway.common.web.statuses import UNAUTHORIZED

__all__ = ["bad_request_handler", "problem_middleware"]

logger = logging.getLogger("moorline.backend.problems")

# Refusals of aiohttp, the access middleware and the hook, as codes of the protocol; any other 4xx is a bad request.
_CODES = {
    401: ErrorCode.FORBIDDEN,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    413: ErrorCode.TOO_LARGE,
    429: ErrorCode.RATE_LIMITED,
}


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn each error of a handler into a problem document. Details stay in the log."""
    try:
        response = await handler(request)
    except Refusal as refusal:
        return _problem(CATALOGUE[refusal.code].status, refusal)
    except LogUnavailable as error:
        logger.debug("event log unavailable: %s", error)
        return _problem(503, Refusal(ErrorCode.INTERNAL))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = _translate(error)
        # aiohttp keeps the error of a path that does not exist with the request, which its traceback refers to.
        error.__traceback__ = None
        return response
    except HookFailed as error:
        logger.error("a request failed: %s", error)
        return _problem(500, Refusal(ErrorCode.INTERNAL))
    except Exception:
        logger.exception("a request failed")
        return _problem(500, Refusal(ErrorCode.INTERNAL))
    if not response.prepared:
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    return response


def bad_request_handler(_: web.BaseRequest, status: int) -> web.Response:
    """The response where the headers could not be parsed, or there was no room for them (503)."""
    if status < 500:
        return _problem(status, Refusal(ErrorCode.BAD_REQUEST))
    text = "There is no room for another request at the moment (max_unfinished)."
    return _problem(status, Refusal(ErrorCode.INTERNAL, text, retry_after=1.0))


def _translate(error: web.HTTPException) -> web.Response:
    default = ErrorCode.INTERNAL if error.status >= 500 else ErrorCode.BAD_REQUEST
    code = _CODES.get(error.status, default)
    # aiohttp's default text is "403: Forbidden"; one of the access middleware or the hook is meant for the client.
    message = "" if error.text == f"{error.status}: {error.reason}" else error.text or ""
    response = _problem(error.status, Refusal(code, message))
    for name, value in error.headers.items():
        if name not in (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH):
            response.headers.add(name, value)
    if error.status == UNAUTHORIZED:
        response.headers.setdefault(hdrs.WWW_AUTHENTICATE, CHALLENGE)
    return response


def _problem(status: int, refusal: Refusal) -> web.Response:
    """It has the members of an error frame."""
    body = Problem(
        title=refusal.message,
        status=status,
        code=refusal.code,
        retryable=CATALOGUE[refusal.code].retryable,
        retry_after=refusal.retry_after,
    )
    response = web.Response(status=status, body=encode(body), content_type="application/problem+json", charset="utf-8")
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    if refusal.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = str(math.ceil(refusal.retry_after))
    return response
