"""What there is of a patient beyond one chat: the list of the sessions."""

import functools

from aiohttp import web

from moorline.backend.api import answer
from moorline.backend.audit import Audit
from moorline.backend.eventlog.base import ListCursor
from moorline.backend.eventlog.log import EventLog
from moorline.backend.protocol.codec import parse
from moorline.backend.protocol.http import SessionsQuery
from moorline.backend.protocol.v2 import session_page
from moorline.backend.requests import path_id
from moorline.backend.rights import Rights

__all__ = ["Patients"]

#: Sessions of one page.
MAX_SESSIONS = 50


class Patients:
    """The handlers of /api/patients."""

    def __init__(self, log: EventLog, audit: Audit, rights: Rights) -> None:
        self._log = log
        self._audit = audit
        self._rights = rights

    async def sessions(self, request: web.Request) -> web.Response:
        """GET /api/patients/{patient_id}/sessions"""
        patient_id = path_id(request, "patient_id")
        with self._audit.access("list", patient_id=patient_id) as access:
            ask = functools.partial(self._rights.ask, request, patient_id, None)
            right = await self._rights.enter_request(request, access, ask)
            self._rights.check_list(request)
            query = parse(SessionsQuery, dict(request.query))
            limit = min(query.limit or MAX_SESSIONS, MAX_SESSIONS)
            found = await self._log.sessions(patient_id, query.before or ListCursor(), limit=limit)
            right.check()
        return answer(session_page(found, limit=limit))
