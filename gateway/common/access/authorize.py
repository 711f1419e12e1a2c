"""The one hook that says who may use a chat. Both parts ask it; the default lets everybody in."""

import dataclasses
import ipaddress
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

__all__ = ["Authorize", "Principal", "everybody", "warn_if_open"]


@dataclasses.dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from, in the words of whoever wrote the hook."""

    name: str


Authorize = Callable[[web.Request, str | None, str], Awaitable[Principal]]
"""`async (request, patient_id, session_id) -> Principal`, asked before anything is read, written or dialled.

It refuses by raising `web.HTTPForbidden` or another `web.HTTPException`. `patient_id` is None where the request does
not name it: on `/api` it is optional in the query, and in a body it is the backend that reads it.
"""


async def everybody(request: web.Request, patient_id: str | None, session_id: str) -> Principal:
    """The default: no sign-in, as in development."""
    return Principal("anonymous")


def warn_if_open(logger: logging.Logger, host: str, authorize: Authorize | None) -> None:
    """Say at start that other machines reach every chat, when nobody decided who may."""
    if authorize is None and not _is_loopback(host):
        logger.warning("every chat is open to whoever reaches %s: no authorize hook is set", host)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
