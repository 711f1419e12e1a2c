"""One-use tickets in the SQLite file. Each function is one command in the transaction that it is given."""

from moorline.backend.eventlog.base import Ticket
from moorline.backend.eventlog.sqlite.committer import Transaction

__all__ = ["add_ticket", "take_ticket"]


def add_ticket(tx: Transaction, digest: str, ticket: Ticket, now: float) -> None:
    """Keep a ticket, and remove those that are not valid any more."""
    tx.db.execute("DELETE FROM tickets WHERE valid_until < ?", (now,))
    tx.db.execute(
        "INSERT INTO tickets (digest, patient_id, session_id, principal, metadata, expires, valid_until, issued)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (digest, *ticket),
    )


def take_ticket(tx: Transaction, digest: str) -> Ticket | None:
    """Remove the ticket, and return it if it was there."""
    found = tx.db.execute(
        "DELETE FROM tickets WHERE digest = ?"
        " RETURNING patient_id, session_id, principal, metadata, expires, valid_until, issued",
        (digest,),
    ).fetchone()
    return None if found is None else Ticket(*found)
