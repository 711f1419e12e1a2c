"""One-use tickets, for clients whose sockets can send no credentials: a request with credentials gets one, and a socket
offers it within half a minute.

The ticket is kept in the log's database, by its hash, so that any backend redeems it and a copy of the database opens
nothing. It stands for what the authorize hook said about the patient that it names.
"""

import asyncio
import contextlib
import functools
import hashlib
import json
import secrets
import time

from aiohttp import web

from moorline.backend.api import answer, parsed_body
from moorline.backend.audit import Access, Audit
from moorline.backend.errors import ErrorCode, Refusal
from moorline.backend.eventlog.base import Ticket
from moorline.backend.eventlog.log import EventLog
from moorline.backend.protocol.models import IssuedTicket, TicketBody
from moorline.backend.rights import Rights
from moorline.backend.settings import Settings
from moorline.gateway.common.access.authorize import Principal
from moorline.gateway.common.access.rate import Rate
from moorline.gateway.common.access.rights import Right

__all__ = ["LIFE_SECONDS", "Tickets"]

#: From its issue to the socket's handshake.
LIFE_SECONDS = 30.0
#: Of one principal or, without a hook, address: as many as half a minute's reconnects of some tabs, and a bound of what
#: the database holds.
PER_MINUTE = 60
#: From this process to the database: another process may revoke in between, before there is the ticket. A ticket of the
#: first moment after a revocation is refused, too, and the client takes another.
_ON_ITS_WAY_SECONDS = 0.1


class Tickets:
    """The handler of /api/ticket, and what redeems them."""

    def __init__(self, log: EventLog, audit: Audit, rights: Rights, settings: Settings) -> None:
        self._log = log
        self._audit = audit
        self._rights = rights
        self._settings = settings
        self._rate = Rate(PER_MINUTE)

    async def issue(self, request: web.Request) -> web.Response:
        """POST /api/ticket"""
        body = await parsed_body(request, TicketBody, self._settings)
        with self._audit.access("ticket", body.session_id, patient_id=body.patient_id) as access:
            asked = time.monotonic()
            ask = functools.partial(self._rights.ask, request, body.patient_id, body.session_id)
            right = await self._rights.enter_request(request, access, ask)
            principal = right.principal
            client = self._rights.client(request, principal)
            self._count(client.principal or client.address)
            text = secrets.token_urlsafe(32)
            ticket = Ticket(
                body.patient_id,
                body.session_id,
                principal.name,
                _metadata(principal),
                principal.expires,
                # Without a time of theirs the ticket is itself the credential that may be revoked.
                principal.issued,
            )
            age = time.monotonic() - asked + _ON_ITS_WAY_SECONDS
            await self._log.add_ticket(_digest(text), ticket, lifetime=LIFE_SECONDS, age=age)
            # It was closed meanwhile; the ticket is known to no client.
            right.check()
        return answer(IssuedTicket(ticket=text, expires_in=LIFE_SECONDS))

    async def enter(
        self, access: Access, held: contextlib.ExitStack, text: str, patient_id: str, session_id: str
    ) -> Right:
        """The right that a ticket gives to a socket, held until `held` ends; `redeem` the ticket before the upgrade.

        Raises:
            web.HTTPUnauthorized: it was used, is too old, or is none.
            web.HTTPForbidden: it is for another patient or session.
            Refusal: `rate_limited`, its principal has too much open.
        """
        principal = await self._rights.decide(lambda: self._principal(text, patient_id, session_id))
        access.who = principal.name
        # The hook cannot be asked again without the credentials: the right ends in time, and the client takes another.
        return self._rights.hold(held, principal, None)

    async def redeem(self, text: str) -> None:
        """Spend the ticket.

        Raises:
            web.HTTPUnauthorized: another handshake was faster, or it has become too old.
        """
        if not await self._log.take_ticket(_digest(text)):
            raise _unknown()

    async def _principal(self, text: str, patient_id: str, session_id: str) -> Principal:
        asked = time.monotonic()
        found = await self._log.find_ticket(_digest(text))
        if found is None:
            raise _unknown()
        ticket, age = found.ticket, LIFE_SECONDS - found.left
        expires = self._expires(ticket, age)
        if self._rights.closed_since(ticket.principal, asked - age) or _is_over(expires):
            # The hook decides whether it may come back, and was asked before.
            raise web.HTTPUnauthorized(text="The ticket is not valid any more.")
        if ticket.patient_id != patient_id or ticket.session_id not in (None, session_id):
            raise web.HTTPForbidden
        return Principal(ticket.principal, expires, json.loads(ticket.metadata), ticket.issued)

    def _count(self, name: str) -> None:
        now = asyncio.get_running_loop().time()
        if wait := self._rate.wait(name, now):
            raise Refusal(ErrorCode.RATE_LIMITED, "Too many tickets; please wait a moment.", retry_after=wait)
        self._rate.add(name, now)

    def _expires(self, ticket: Ticket, age: float) -> float | None:
        """As the principal does, and when the hook would be asked again: it must be able to withdraw the right."""
        due = None if self._rights.again is None else time.time() - age + self._rights.again
        return min((each for each in (ticket.expires, due) if each is not None), default=None)


def _unknown() -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(text="The ticket is not valid: it was used, or is too old.")


def _is_over(expires: float | None) -> bool:
    return expires is not None and expires <= time.time()


def _digest(text: str) -> str:
    # Of 256 random bits: no slow hash is needed.
    return hashlib.sha256(text.encode()).hexdigest()


def _metadata(principal: Principal) -> str:
    try:
        return json.dumps(dict(principal.metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(f"authorize: the metadata of a principal with a ticket must be JSON ({error})") from error
