"""One-use tickets in the SQLite file. Each function is one command in the transaction that it is given."""

import time

from moorline.backend.eventlog.base import TakenTicket, Ticket
from moorline.backend.eventlog.sqlite.committer import Transaction

__all__ = ["add_ticket", "prune", "take_ticket"]


def add_ticket(tx: Transaction, digest: str, ticket: Ticket, lifetime: float, age: float) -> None:
    """See Store.add_ticket."""
    now = time.time()
    if ticket.issued is None:
        ticket = ticket._replace(issued=now - age)
    tx.db.execute(
        "INSERT INTO tickets (digest, patient_id, session_id, principal, metadata, expires, issued, valid_until)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (digest, *ticket, now + lifetime),
    )


def take_ticket(tx: Transaction, digest: str) -> TakenTicket | None:
    """Remove the ticket, and return it if it was there and valid."""
    found = tx.db.execute(
        "DELETE FROM tickets WHERE digest = ?"
        " RETURNING patient_id, session_id, principal, metadata, expires, issued, valid_until - ?",
        (digest, time.time()),
    ).fetchone()
    return None if found is None or found[-1] < 0 else TakenTicket(Ticket(*found[:-1]), found[-1])


def prune(tx: Transaction) -> None:
    """Remove those that are not valid any more: they name patients."""
    tx.db.execute("DELETE FROM tickets WHERE valid_until < ?", (time.time(),))
