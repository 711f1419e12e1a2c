"""The text of answers under way that is not in the table `events` yet.

A commit of text adds to many sessions at once. In `events`, which is ordered by session, it would write a page for each
of them, and another for some of their rows in `sessions`. So it writes one row with all of it to the table `recent`,
which is one page or two. After some thousand pieces these are merged: those of a session go to `events` together, and
`recent` is emptied.

What `recent` holds of the answers under way is in memory as well, where reads find it behind the session's events. The
end of a run stands for all its pieces and drops it; the rows stay in the table until the next merge, which passes over
them. An erasure merges first, so that nothing of the chat is left; and so does opening the file.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from moorline.backend.eventlog.records import Kind
from moorline.backend.events import PartAdded, TextAdded
from moorline.backend.parts import decode_part, encode_part

__all__ = ["MAX_BYTES", "MAX_PIECES", "Growing", "Recent"]

#: Pieces in `recent`, and characters of its rows, above which they are merged: every second at 500 answers. A merge has
#: to be rare to be worth it; the bound is what is held in memory, and what the next start or an erasure has to merge.
MAX_PIECES: Final = 10_000
MAX_BYTES: Final = 2 << 20

_UNDER_WAY = """
SELECT sessions.id, session_id, epoch, active_run_id, message_id, fence, head, written
FROM sessions JOIN runs ON runs.run_id = active_run_id
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

Addition = TextAdded | PartAdded
# The number of the session, the seq, the text, and the part where there is one.
_Stored = tuple[int, int, str, str | None]


@dataclass(slots=True)
class Growing:
    """A session with an answer under way: how far it reaches, and what of that is not in `events`."""

    id: int
    session_id: str
    epoch: str
    run_id: str
    message_id: str
    fence: int
    head: int
    written: int
    unmerged: list[Addition] = field(default_factory=list)

    def add(self, addition: Addition) -> None:
        """Append the next event."""
        self.head = addition.seq
        self.written += len(addition.text) if isinstance(addition, TextAdded) else 1
        self.unmerged.append(addition)


class Recent:
    """The table `recent` of one connection, which alone writes the file, and its copy in memory.

    Where a transaction that changed the copy is rolled back, the table is read anew.
    """

    def __init__(self) -> None:
        self._sessions: dict[str, Growing] = {}
        self._unwritten: list[_Stored] = []
        self._is_read = False
        self._pieces = 0
        self._bytes = 0
        self.changes = 0
        """Grows with each change of the copy."""

    def ensure(self, db: sqlite3.Connection) -> None:
        """Read the table, where that was not done or the copy was forgotten."""
        if self._is_read:
            return
        rows = [pieces for (pieces,) in db.execute("SELECT pieces FROM recent ORDER BY id")]
        found = self._query(db, "active_run_id IS NOT NULL") if rows else []
        under_way = {session.id: session for session in found}
        for session_id, seq, text, part in (piece for pieces in rows for piece in json.loads(pieces)):
            session = under_way.get(session_id)
            # Others are of runs that have ended.
            if session is not None and seq == session.head + 1:
                session.add(_addition(session, seq, text, part))
        self._sessions = {session.session_id: session for session in found}
        self._bytes = sum(map(len, rows))
        self._pieces = sum(len(session.unmerged) for session in found)
        self._is_read = True
        self.changes += 1

    def rolled_back(self, changes: int) -> None:
        """What was changed since there were so many changes is undone: read the table anew before the next use."""
        if self.changes != changes:
            self._is_read = False
            self._sessions, self._unwritten = {}, []

    def find(self, session_id: str) -> Growing | None:
        """The session, where its answer under way has grown."""
        return self._sessions.get(session_id)

    def unmerged(self, session_id: str, epoch: str | None = None) -> Sequence[Addition]:
        """The events of the session, if it is of `epoch`, that are not in `events`."""
        session = self._sessions.get(session_id)
        return () if session is None or epoch not in (None, session.epoch) else session.unmerged

    def growing(self, db: sqlite3.Connection, session_ids: Iterable[str]) -> dict[str, Growing]:
        """Those of the sessions that have an answer under way."""
        wanted = list(session_ids)
        if missing := [session_id for session_id in wanted if session_id not in self._sessions]:
            self.changes += 1
            found = self._query(db, "session_id IN (SELECT value FROM json_each(?))", _json(missing))
            self._sessions.update({session.session_id: session for session in found})
        return {session_id: session for session_id in wanted if (session := self._sessions.get(session_id))}

    def append(self, session: Growing, addition: Addition) -> None:
        """Append the next event to a session that `growing` has returned; `write` comes before the commit."""
        self.changes += 1
        session.add(addition)
        self._unwritten.append(_stored(session, addition))

    def write(self, db: sqlite3.Connection) -> None:
        """Write what was appended: to a row of the table, or with all that is in it to `events`."""
        if not self._unwritten:
            return
        row = _json(self._unwritten)
        self._pieces += len(self._unwritten)
        self._bytes += len(row)
        self._unwritten = []
        if self._pieces > MAX_PIECES or self._bytes > MAX_BYTES:
            self.merge(db)
        else:
            db.execute("INSERT INTO recent (pieces) VALUES (?)", (row,))

    def drop(self, session_id: str) -> None:
        """The answer of the session has ended, or it was erased."""
        if self._sessions.pop(session_id, None) is not None:
            self.changes += 1

    def merge(self, db: sqlite3.Connection) -> None:
        """Write to `events` what is not there, and empty the table."""
        if not self._bytes:
            return
        self.changes += 1
        grown = [session for session in self._sessions.values() if session.unmerged]
        # Before the insertions, which then need no more room on a full disk.
        db.execute("DELETE FROM recent")
        if grown:
            db.execute(_MOVE, (_json([(session.id, session.head, session.written) for session in grown]),))
            db.execute(_INSERT, (_json([event for session in grown for event in _events(session)]),))
        for session in grown:
            session.unmerged = []
        self._pieces = self._bytes = 0

    def _query(self, db: sqlite3.Connection, where: str, *arguments: str) -> list[Growing]:
        return [Growing(*row) for row in db.execute(f"{_UNDER_WAY} WHERE {where}", arguments)]


def _stored(session: Growing, addition: Addition) -> _Stored:
    if isinstance(addition, TextAdded):
        return session.id, addition.seq, addition.text, None
    return session.id, addition.seq, "", encode_part(addition.part)


def _addition(session: Growing, seq: int, text: str, part: str | None) -> Addition:
    if part is None:
        return TextAdded(seq, session.run_id, session.message_id, text)
    return PartAdded(seq, session.run_id, session.message_id, decode_part(part))


def _events(session: Growing) -> list[tuple[int, int, str, str, str, str | None]]:
    stored = [_stored(session, addition) for addition in session.unmerged]
    return [(id_, seq, session.run_id, session.message_id, text, part) for id_, seq, text, part in stored]


def _json(value: object) -> str:
    # Not escaped: text that is not valid Unicode is refused here, as sqlite3 refuses it.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
