"""Erasing sessions from the SQLite file, and once more from a file that was restored from an earlier time.

The table `erasures` has one row: the number of the last line of the erasure log that this file has carried out, or, in
a copy that `backup` made, -1 minus that number. So a file that is older than the log shows it, however it was restored.
The lines that it misses are carried out when it is opened, before anything is read from it.

A restored file also lacks what was written after its copy, while clients still hold positions there. Every session gets
another epoch, so that they read anew instead of going on behind messages they have never seen.
"""

import logging
import sqlite3
from collections.abc import Collection

from moorline.backend.eventlog.sqlite.erasure_log import ErasureLog, erasure_key
from moorline.gateway.common.config.units import counted
from moorline.gateway.common.errors import UsageError

__all__ = ["catch_up", "delete_rows", "first_messages", "mark_as_copy"]

log = logging.getLogger("moorline.backend")


def first_messages(db: sqlite3.Connection, session_ids: Collection[int]) -> list[str]:
    """The id of the first message of each of these sessions, which each has."""
    return [
        message_id
        for session in session_ids
        for (message_id,) in db.execute("SELECT message_id FROM events WHERE session = ? AND seq = 1", (session,))
    ]


def delete_rows(db: sqlite3.Connection, session: int) -> None:
    """Delete the session with this number from every table."""
    for table in ("events", "commands", "runs"):
        db.execute(f"DELETE FROM {table} WHERE session = ?", (session,))
    db.execute("DELETE FROM sessions WHERE id = ?", (session,))


def mark_as_copy(db: sqlite3.Connection) -> None:
    """Have `catch_up` treat the file as restored, whatever the erasure log holds."""
    db.execute("UPDATE erasures SET applied = -1 - applied WHERE applied >= 0")


def catch_up(db: sqlite3.Connection, erasures: ErasureLog) -> int:
    """Carry out the lines of the log that the open transaction's database misses; how many sessions that erased.

    Raises:
        UsageError: it was restored from a backup, and the log of that time is missing.
    """
    (stored,) = db.execute("SELECT applied FROM erasures").fetchone()
    applied = stored if stored >= 0 else -1 - stored
    if applied > erasures.last:
        if stored < 0 and not erasures.path.exists():
            raise UsageError(
                f'erasure log: "{erasures.path}" is missing, and there was one when the backup was made; put it there, '
                "from beside the database's former place, or create an empty file if it is lost: "
                "chats that were erased since are then in the database again"
            )
        log.warning(
            'erasure log: "%s" ends at %d, and the database has carried out %d; '
            "chats that were erased in between cannot be recognized in an older backup",
            erasures.path,
            erasures.last,
            applied,
        )
        erasures.continue_after(applied)
    if stored == erasures.last:
        return 0
    erased = _erase_again(db, frozenset(erasures.after(applied)))
    db.execute("UPDATE sessions SET epoch = lower(hex(randomblob(16)))")
    db.execute("UPDATE epoch_seeds SET seed = lower(hex(randomblob(16)))")
    # One that was redeemed since may be in the copy.
    db.execute("DELETE FROM tickets")
    db.execute("UPDATE erasures SET applied = ?", (erasures.last,))
    log.info("the database was restored from an earlier time: %s erased again", counted(erased, "session"))
    return erased


def _erase_again(db: sqlite3.Connection, keys: frozenset[str]) -> int:
    if not keys:
        return 0
    # By the sessions: the events of one seq alone could only be found by reading them all.
    sessions = db.execute("SELECT s.id, e.message_id FROM sessions s JOIN events e ON e.session = s.id AND e.seq = 1")
    found = [session for session, message_id in sessions if erasure_key(message_id) in keys]
    for session in found:
        delete_rows(db, session)
    return len(found)
