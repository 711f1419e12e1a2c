"""What the handlers take from a request: the ids that it names, and its body."""

import asyncio

from aiohttp import hdrs, web

from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.protocol.models import is_id
from moorline.gateway.common.access.middleware import client_address
from moorline.gateway.common.access.rules import client_network
from moorline.gateway.common.web.deadline import latest_end
from moorline.gateway.common.web.messages import MESSAGE_LIMITS

__all__ = ["checked_id", "path_id", "read_body"]


def path_id(request: web.Request, name: str) -> str:
    """The id called `name` in the request's path; Refusal `bad_request` where it is none."""
    return checked_id(name, request.match_info[name])


def checked_id(name: str, value: str) -> str:
    """`value`, if it is an id; Refusal `bad_request` where it is not."""
    if not is_id(value):
        raise Refusal(ErrorCode.BAD_REQUEST, f"{name}: is not an id; see /docs.")
    return value


async def read_body(request: web.Request, *, most: int) -> bytes:
    """The whole body, in time and within the room that there is for bodies that are not complete.

    Raises:
        web.HTTPException: 408, 413 or 503; it is over one of its limits.
    """
    limits, body = request.app[MESSAGE_LIMITS], bytearray()
    client = client_network(client_address(request))
    began = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(limits.timeout) as timeout:
            while chunk := await request.content.readany():
                size = len(body) + len(chunk)
                if size > most:
                    raise web.HTTPRequestEntityTooLarge(max_size=most, actual_size=size)
                if not limits.unfinished.grow(len(body), size, client):
                    text = "There is no room for another message at the moment (max_unfinished)."
                    raise web.HTTPServiceUnavailable(text=text, headers={hdrs.RETRY_AFTER: "1"})
                body += chunk
                if limits.timeout is not None:
                    timeout.reschedule(latest_end(began, size, limits.timeout))
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The body took too long (message_timeout).") from None
    finally:
        limits.unfinished.grow(len(body), 0, client)
    return bytes(body)
