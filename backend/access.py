"""Who asks for what: ids, the authorize hook, and every refusal as an `application/problem+json` document."""

import logging
import math

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from moorline.backend.errors import CATALOGUE, ErrorCode, Refusal
from moorline.backend.eventlog.base import LogUnavailable
from moorline.backend.protocol.commands import is_id
from moorline.backend.protocol.wire import encode, error_object
from moorline.gateway.common.access.authorize import Authorize, Principal

__all__ = ["AUTHORIZE", "authorize", "bad_request_handler", "checked_id", "path_id", "problems"]

logger = logging.getLogger("moorline.backend.access")

AUTHORIZE = web.AppKey[Authorize]("authorize")

# Refusals of aiohttp, the access middleware and the hook, as codes of the protocol; any other 4xx is a bad request.
_CODES = {
    401: ErrorCode.FORBIDDEN,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    413: ErrorCode.TOO_LARGE,
    429: ErrorCode.RATE_LIMITED,
}


def path_id(request: web.Request, name: str) -> str:
    """The id called `name` in the request's path; Refusal `bad_request` where it is none."""
    return checked_id(name, request.match_info[name])


def checked_id(name: str, value: object) -> str:
    """`value`, if it is an id; Refusal `bad_request` where it is not."""
    if not isinstance(value, str) or not is_id(value):
        raise Refusal(ErrorCode.BAD_REQUEST, f"{name}: is not an id; see /docs.")
    return value


async def authorize(request: web.Request, patient_id: str | None, session_id: str) -> Principal:
    """Ask the hook who this is; it refuses by raising `web.HTTPException`."""
    return await request.app[AUTHORIZE](request, patient_id, session_id)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever goes wrong into a problem document. Details stay in the log."""
    try:
        response = await handler(request)
    except Refusal as refusal:
        return _problem(CATALOGUE[refusal.code].status, refusal)
    except LogUnavailable as error:
        logger.warning("the log is away: %s", error)
        return _problem(503, Refusal(ErrorCode.INTERNAL))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _translate(error)
    except Exception:
        logger.exception("a request failed")
        return _problem(500, Refusal(ErrorCode.INTERNAL))
    if not response.prepared:
        response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    return response


def bad_request_handler(_: web.BaseRequest, status: int) -> web.Response:
    """The answer to a head that became no request."""
    return _problem(status, Refusal(ErrorCode.BAD_REQUEST))


def _translate(error: web.HTTPException) -> web.Response:
    default = ErrorCode.INTERNAL if error.status >= 500 else ErrorCode.BAD_REQUEST
    code = _CODES.get(error.status, default)
    # aiohttp's default text is "403: Forbidden"; one of the access middleware or the hook is meant for the client.
    words = "" if error.text == f"{error.status}: {error.reason}" else error.text or ""
    response = _problem(error.status, Refusal(code, words))
    for name, value in error.headers.items():
        if name not in (hdrs.CONTENT_TYPE, hdrs.CONTENT_LENGTH):
            response.headers.add(name, value)
    return response


def _problem(status: int, refusal: Refusal) -> web.Response:
    """RFC 9457, with the members of an error frame."""
    members = error_object(refusal)
    body = {"type": "about:blank", "title": members.pop("message"), "status": status, **members}
    response = web.Response(status=status, text=encode(body), content_type="application/problem+json", charset="utf-8")
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    if refusal.retry_after is not None:
        response.headers[hdrs.RETRY_AFTER] = str(math.ceil(refusal.retry_after))
    return response
