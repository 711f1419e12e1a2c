"""Asks the `authorize` hook about every request that names a session, before any handler sees it."""

import re
from urllib.parse import unquote

from aiohttp import web
from aiohttp.typedefs import Handler
from moorline.gateway.errors import Malformed
from moorline.gateway.keys import AUTHORIZE

__all__ = ["ask"]

_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9:._-]{1,128}")


@web.middleware
async def ask(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let through whoever the hook lets through; without a hook, everybody."""
    authorize = request.app.get(AUTHORIZE)
    if authorize is not None and (ids := _ids(request)) is not None:
        await authorize(request, *ids)
    return await handler(request)


def _ids(request: web.Request) -> tuple[str | None, str] | None:
    """The patient, where named, and the session of `/ws/chat/{patient}/{session}` and `/api/chat/{session}/…`.

    The path is read as the most lenient backend would, so that no spelling of it goes past the hook.
    """
    names = unquote(request.rel_url.raw_path).removesuffix("/").split("/")[1:]
    if not names or names[0].lower() not in ("api", "ws"):
        return None
    if "" in names or "." in names or ".." in names:
        raise Malformed("The path must not hold empty names or dots.")
    match [name.lower() for name in names[:2]], names[2:]:
        case ["api", "chat"], [session, *_]:
            patient = request.query.get("patient_id")
        case ["ws", "chat"], [patient, session]:
            pass
        case _:
            return None
    if not all(_ID.fullmatch(name) for name in (patient, session) if name is not None):
        raise Malformed("An id may hold letters, digits and : . _ - only, at most 128 of them.")
    return patient, session
