"""Group commit of text and parts: the pieces of many runs are written by one statement, whatever their number.

Python's sqlite3 releases the interpreter's lock for each step of a statement and competes with the event loop for it
afterwards, for up to `sys.getswitchinterval()` each time. With statements of their own a thousand pieces cost seconds.
So the batch is passed to SQLite as one JSON text.
"""

from collections.abc import Sequence

from moorline.backend.eventlog.base import Commit, Piece, RunLost
from moorline.backend.eventlog.sqlite.committer import Transaction

__all__ = ["add_texts"]


def add_texts(tx: Transaction, pieces: Sequence[Piece]) -> list[int | Exception]:
    """The seq of each of `pieces`, in this order, or why it has none."""
    recent = tx.recent
    sessions = recent.growing(tx, [piece.run.session_id for piece in pieces])
    outcomes: list[int | Exception] = []
    for piece in pieces:
        run, session = piece.run, sessions.get(piece.run.session_id)
        try:
            if session is None or session.run_id != run.run_id or session.fence != run.fence:
                raise RunLost(run.run_id)
            missing = piece.beyond(session.written)
        except RunLost as lost:
            outcomes.append(lost)
            continue
        if missing is not None:
            event = missing.as_event(session.head + 1)
            recent.append(session, event)
            tx.commits.append(Commit(session.session_id, session.epoch, event))
        outcomes.append(session.head)
    recent.write(tx)
    return outcomes
