"""One-use tickets in the SQLite file. Each function is one command in the transaction that it is given."""

import time

from moorline.backend.eventlog.base import FoundTicket, Ticket
from moorline.backend.eventlog.sqlite.committer import Transaction

__all__ = ["add_ticket", "find_ticket", "prune", "take_ticket"]


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


def find_ticket(tx: Transaction, digest: str) -> FoundTicket | None:
    """See Store.find_ticket."""
    found = tx.db.execute(
        "SELECT patient_id, session_id, principal, metadata, expires, issued, valid_until - ?"
        " FROM tickets WHERE digest = ?",
        (time.time(), digest),
    ).fetchone()
    return None if found is None or found[-1] < 0 else FoundTicket(Ticket(*found[:-1]), found[-1])


def take_ticket(tx: Transaction, digest: str) -> bool:
    """See Store.take_ticket."""
    found = tx.db.execute(
        "DELETE FROM tickets WHERE digest = ? RETURNING valid_until >= ?", (digest, time.time())
    ).fetchone()
    return found is not None and bool(found[0])


def prune(tx: Transaction) -> None:
    """Remove those that are not valid any more: they name patients."""
    tx.db.execute("DELETE FROM tickets WHERE valid_until < ?", (time.time(),))
