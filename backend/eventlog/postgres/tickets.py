"""One-use tickets in PostgreSQL, each by one statement and by its clock: the backends' clocks may differ.

A ticket that was taken by a statement whose result is lost is lost, too: the client asks for another one.
"""

from moorline.backend.eventlog.base import FoundTicket, Ticket
from moorline.backend.eventlog.postgres.connection import NOW, Connection

__all__ = ["add_ticket", "find_ticket", "prune", "take_ticket"]

_ADD = f"""
INSERT INTO tickets (digest, patient_id, session_id, principal, metadata, expires, issued, valid_until)
VALUES (%s, %s, %s, %s, %s, %s, coalesce(%s, {NOW} - %s), {NOW} + %s) ON CONFLICT (digest) DO NOTHING
"""

_FIND = f"""
SELECT patient_id, session_id, principal, metadata, expires, issued, valid_until - {NOW}
FROM tickets WHERE digest = %s
"""
_TAKE = f"DELETE FROM tickets WHERE digest = %s RETURNING valid_until >= {NOW}"


async def add_ticket(db: Connection, digest: str, ticket: Ticket, lifetime: float, age: float) -> None:
    """See Store.add_ticket."""
    await db.execute(_ADD, (digest, *ticket, age, lifetime))


async def find_ticket(db: Connection, digest: str) -> FoundTicket | None:
    """See Store.find_ticket."""
    found = await (await db.execute(_FIND, (digest,))).fetchone()
    return None if found is None or found[-1] < 0 else FoundTicket(Ticket(*found[:-1]), found[-1])


async def take_ticket(db: Connection, digest: str) -> bool:
    """See Store.take_ticket."""
    found = await (await db.execute(_TAKE, (digest,))).fetchone()
    return found is not None and bool(found[0])


async def prune(db: Connection) -> None:
    """Remove those that are not valid any more: they name patients."""
    await db.execute(f"DELETE FROM tickets WHERE valid_until < {NOW}")
