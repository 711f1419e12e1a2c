"""Group commit of text and parts: the pieces of many runs are written by three statements, whatever their number.

Python's sqlite3 releases the interpreter's lock for each step of a statement and competes with the event loop for it
afterwards, for up to `sys.getswitchinterval()` each time. With statements of their own a thousand pieces cost seconds.
So the batch is passed to SQLite as one JSON text, and returned by it as one row.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from moorline.backend.eventlog.base import Commit, Piece, RunLost
from moorline.backend.eventlog.records import Kind
from moorline.backend.eventlog.sqlite.committer import Transaction
from moorline.backend.parts import encode_part

__all__ = ["add_texts"]

_PROGRESS = """
SELECT json_group_array(json_array(id, session_id, epoch, active_run_id, fence, written, head))
FROM sessions WHERE session_id IN (SELECT value FROM json_each(?))
"""

_MOVE = """
UPDATE sessions SET head = json_extract(moved.value, '$[1]'), written = json_extract(moved.value, '$[2]')
FROM json_each(?) AS moved WHERE sessions.id = json_extract(moved.value, '$[0]')
"""

_INSERT = f"""
INSERT INTO events (session, seq, kind, run_id, message_id, content, parts, at)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), {Kind.TEXT:d}, json_extract(value, '$[2]'),
    json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'), 0.0
FROM json_each(?)
"""


@dataclass(slots=True)
class _Session:
    """How far a session reaches, with what this batch adds to it."""

    id: int
    session_id: str
    epoch: str
    run_id: str | None
    fence: int
    written: int
    head: int


def add_texts(tx: Transaction, pieces: Sequence[Piece]) -> list[int | Exception]:
    """The seq of each of `pieces`, in this order, or why it has none."""
    sessions = _sessions(tx, {piece.run.session_id for piece in pieces})
    outcomes: list[int | Exception] = []
    added: list[tuple[int, int, str, str, str, str | None]] = []
    commits: list[Commit] = []
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
            session.head += 1
            session.written += missing.size
            part = None if missing.part is None else encode_part(missing.part)
            added.append((session.id, session.head, run.run_id, run.message_id, missing.text, part))
            commits.append(Commit(run.session_id, session.epoch, missing.as_event(session.head)))
        outcomes.append(session.head)
    if added:
        moved = [(session.id, session.head, session.written) for session in sessions.values()]
        tx.db.execute(_MOVE, (_json(moved),))
        tx.db.execute(_INSERT, (_json(added),))
        tx.commits += commits
    return outcomes


def _sessions(tx: Transaction, session_ids: set[str]) -> dict[str, _Session]:
    (found,) = tx.db.execute(_PROGRESS, (_json(list(session_ids)),)).fetchone()
    return {session.session_id: session for session in (_Session(*row) for row in json.loads(found))}


def _json(value: object) -> str:
    # Not escaped: text that is not valid Unicode is refused here, as sqlite3 refuses it.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
