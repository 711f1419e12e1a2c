"""Asks the `authorize` hook about every request that leaves the gateway, but for the front end's, and about all under
/api and /ws, before a handler sees it.
"""

import asyncio
import contextlib
import re
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from moorline.gateway.common.access.middleware import REFUSAL
from moorline.gateway.common.access.paths import segments
from moorline.gateway.common.web.request_limits import REQUEST_LIMITS
from moorline.gateway.errors import Malformed
from moorline.gateway.keys import DESTINATION, HELD_RIGHT, RIGHTS, SETTINGS
from moorline.gateway.proxy.handshake import asks_for_upgrade
from moorline.gateway.proxy.headers import origin_form
from moorline.gateway.proxy.held_right import HeldRight
from moorline.gateway.proxy.routes import Owner

__all__ = ["authorize_middleware", "note_begun"]

BEGUN = web.RequestKey("begun", bool)
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9:._-]{1,128}")


@web.middleware
async def authorize_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle what the hook allows, and while it does."""
    rights = request.app[RIGHTS]
    if (ids := _ids(request)) is None:
        return await handler(request)
    with _counted(request):
        try:
            principal = await rights.ask(request, *ids)
        except web.HTTPException:
            # Its own words may name the patient.
            request[REFUSAL] = "authorize"
            raise
    right = request[HELD_RIGHT] = HeldRight(rights, principal, request, ids)
    try:
        async with asyncio.timeout(None) as limit:
            right.on_end(lambda: limit.reschedule(0))
            return await handler(request)
    except TimeoutError:
        if not limit.expired():
            raise
        if request.get(BEGUN) and request.transport is not None:
            # The rest of the response must not look like another one.
            request.transport.abort()
        request[REFUSAL] = "authorize"
        raise (web.HTTPUnauthorized if right.expired else web.HTTPForbidden) from None
    finally:
        if not right.kept:
            right.release()


def _counted(request: web.Request) -> contextlib.AbstractContextManager[None]:
    """Count the request as under way: what has come of its body waits for the hook, which may take long. A handshake
    has none, and many come at once after a restart."""
    if asks_for_upgrade(request.headers):
        return contextlib.nullcontext()
    return request.app[REQUEST_LIMITS].place(request)


async def note_begun(request: web.Request, response: web.StreamResponse) -> None:
    """A handler of `on_response_prepare`: the response to a request that may be ended has begun."""
    request[BEGUN] = True


def _ids(request: web.Request) -> tuple[str | None, str | None] | None:
    """The patient and the session that the path or the query names; None where the hook is not asked.

    A session is named by `/ws/chat/{patient}/{session}` and `/api/chat/{session}/…`, a patient by the first and by
    `/api/patients/{patient}/sessions`. The path is read as the most lenient backend would, so that no spelling of it
    gets past the hook; `common.access.paths` refuses the ambiguous. A route may lead to the backend by another path:
    then the one that the backend gets counts.
    """
    destination = request.get(DESTINATION)
    owner = Owner.GATEWAY if destination is None else destination.route.owner
    if owner is Owner.BACKEND and request.app[SETTINGS].backend_asks:
        return None
    names = _names(request.raw_path)
    if destination is not None and _names_chats(sent := _names(destination.route.sent(origin_form(request.raw_path)))):
        names = sent
    if not _names_chats(names):
        return (None, None) if owner is Owner.USER else None
    if names == ["ws"] and owner is Owner.FRONTEND:
        # The dev server's own socket.
        return None
    if "" in names:
        raise Malformed("The path must not hold empty segments.")
    patient: str | None = None
    session: str | None = None
    match [name.lower() for name in names[:2]], names[2:]:
        case ["api", "chat"], [session, *_]:
            patient = _one(request.query.getall("patient_id", ()))
        case ["api", "patients"], [patient, below] if below.lower() == "sessions":
            pass
        case ["ws", "chat"], [patient, session]:
            pass
    if not all(_ID.fullmatch(name) for name in (patient, session) if name is not None):
        raise Malformed("An id may hold letters, digits and : . _ - only, at most 128 of them.")
    return patient, session


def _one(patients: Sequence[str]) -> str | None:
    if len(set(patients)) > 1:
        # Of two some servers take the first and some the last.
        raise Malformed("The query must not name two patients.")
    return patients[0] if patients else None


def _names(target: str) -> list[str]:
    names = segments(target)
    return names[:-1] if names[-1:] == [""] else names


def _names_chats(names: list[str]) -> bool:
    return bool(names) and names[0].lower() in ("api", "ws")
