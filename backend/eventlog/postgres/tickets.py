"""One-use tickets in PostgreSQL, each by one statement.

A ticket that was taken by a statement whose result is lost is lost, too: the client asks for another one.
"""

from moorline.backend.eventlog.base import Ticket
from moorline.backend.eventlog.postgres.connection import Connection

__all__ = ["add_ticket", "take_ticket"]


async def add_ticket(db: Connection, digest: str, ticket: Ticket, now: float) -> None:
    """Keep a ticket, and remove those that are not valid any more."""
    await db.execute(
        "WITH gone AS (DELETE FROM tickets WHERE valid_until < %s)"
        " INSERT INTO tickets (digest, patient_id, session_id, principal, metadata, expires, valid_until, issued)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (digest) DO NOTHING",
        (now, digest, *ticket),
    )


async def take_ticket(db: Connection, digest: str) -> Ticket | None:
    """Remove the ticket, and return it if it was there."""
    found = await db.execute(
        "DELETE FROM tickets WHERE digest = %s"
        " RETURNING patient_id, session_id, principal, metadata, expires, valid_until, issued",
        (digest,),
    )
    row = await found.fetchone()
    return None if row is None else Ticket(*row)
