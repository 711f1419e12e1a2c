"""What the handlers take from a request: the ids that it names."""

from aiohttp import web

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.protocol.models import is_id

__all__ = ["checked_id", "path_id"]


def path_id(request: web.Request, name: str) -> str:
    """The id called `name` in the request's path; Refusal `bad_request` where it is none."""
    return checked_id(name, request.match_info[name])


def checked_id(name: str, value: str) -> str:
    """`value`, if it is an id; Refusal `bad_request` where it is not."""
    if not is_id(value):
        raise Refusal(ErrorCode.BAD_REQUEST, f"{name}: is not an id; see /docs.")
    return value
