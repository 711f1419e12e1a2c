"""Whose credentials were revoked, and when, in the SQLite file. Each function is one command in the transaction that it
is given."""

import time

from moorline.backend.eventlog.sqlite.committer import Transaction

__all__ = ["prune", "revocations", "revoke"]


def revoke(tx: Transaction, principal: str) -> float:
    """Note that what the principal has until now is revoked; the time."""
    now = time.time()
    tx.db.execute("INSERT OR REPLACE INTO revocations (principal, at) VALUES (?, ?)", (principal, now))
    return now


def revocations(tx: Transaction) -> dict[str, float]:
    """All of them."""
    return dict(tx.db.execute("SELECT principal, at FROM revocations").fetchall())


def prune(tx: Transaction, within: float) -> None:
    """Remove those that are older than so many seconds."""
    tx.db.execute("DELETE FROM revocations WHERE at < ?", (time.time() - within,))
