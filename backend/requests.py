"""What the handlers take from a request: ids from its path, and who sends it."""

from aiohttp import web
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.protocol.models import is_id
from moorline.gateway.common.access.authorize import Authorize, Principal

__all__ = ["AUTHORIZE", "authorize", "checked_id", "path_id"]

AUTHORIZE = web.AppKey[Authorize]("authorize")


def path_id(request: web.Request, name: str) -> str:
    """The id called `name` in the request's path; Refusal `bad_request` where it is none."""
    return checked_id(name, request.match_info[name])


def checked_id(name: str, value: str) -> str:
    """`value`, if it is an id; Refusal `bad_request` where it is not."""
    if not is_id(value):
        raise Refusal(ErrorCode.BAD_REQUEST, f"{name}: is not an id; see /docs.")
    return value


async def authorize(request: web.Request, patient_id: str | None, session_id: str) -> Principal:
    """Ask the authorize hook who sends this; it refuses by raising `web.HTTPException`."""
    return await request.app[AUTHORIZE](request, patient_id, session_id)
