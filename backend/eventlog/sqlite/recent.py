"""The text of answers under way that is not in the table `events` yet.

A commit of text adds to many sessions at once. In `events`, which is ordered by session, it would write a page for each
of them, and another for some of their rows in `sessions`. So it writes one row with all of it to the table `recent`,
which is one page or two. Above some thousand pieces they are merged, a few sessions at a commit: those of a session go
to `events` together, and rows of which nothing is needed any more are deleted.

What `recent` holds of the answers under way is in memory as well, where reads find it behind the session's events. The
end of a run stands for all its pieces and drops it; its rows stay in the table until they are the oldest. An erasure
merges all first, so that nothing of the chat is left; and so does opening the file.
"""

import json
import sqlite3
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Final, NamedTuple, Protocol

from moorline.backend.eventlog.records import Kind
from moorline.backend.events import PartAdded, TextAdded
from moorline.backend.parts import decode_part, encode_part

__all__ = ["MAX_BYTES", "MAX_PIECES", "Growing", "Recent", "Statements"]

#: Pieces in `recent`, and characters of its rows, above which they are merged: what comes in a second at 500 answers. A
#: page of `events` is to be written for many pieces; the bound is what is held in memory, and what the next start or an
#: erasure has to merge.
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

# Of each session its number, the seq of its first text, the ids of the run and of the message, and the texts.
_INSERT = f"""
WITH grown (session, first, run_id, message_id, texts) AS MATERIALIZED (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
        json_extract(value, '$[3]'), json_extract(value, '$[4]')
    FROM json_each(?)
)
INSERT INTO events (session, seq, kind, run_id, message_id, content, at)
SELECT session, first + texts.key, {Kind.TEXT:d}, run_id, message_id, texts.value, 0.0
FROM grown JOIN json_each(grown.texts) AS texts
"""

# Pieces that are merged in one commit, beside twice as many as it adds.
_MERGED_PIECES = 256

Addition = TextAdded | PartAdded


class _Row(NamedTuple):
    id: int
    pieces: int
    size: int


class Statements(Protocol):
    """A transaction, which may not have begun. See `committer.Transaction`."""

    @property
    def db(self) -> sqlite3.Connection:
        """For statements, which begin it."""

    def execute_alone(self, statement: str, *arguments: object) -> None:
        """Execute a statement that may be the whole transaction."""


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
    first_row: int = 0
    """That of the first of these."""

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
        # Those of them that have unmerged events, the one whose oldest is in the oldest row first.
        self._order: OrderedDict[str, Growing] = OrderedDict()
        self._rows: deque[_Row] = deque()
        self._next_row = 1
        self._pieces = self._bytes = 0
        self._unwritten: list[tuple[Growing, Addition]] = []
        self.is_read = False
        """Whether the copy is the table's."""
        self.changes = 0
        """Grows with each change of the copy."""

    def read(self, db: sqlite3.Connection) -> None:
        """Read the table: at first, and where a transaction that has changed the copy was undone."""
        self._order.clear()
        self._rows.clear()
        self._unwritten = []
        self._next_row, self._pieces, self._bytes = 1, 0, 0
        rows = db.execute("SELECT id, pieces FROM recent ORDER BY id").fetchall()
        found = self._query(db, "active_run_id IS NOT NULL") if rows else []
        under_way = {session.id: session for session in found}
        for row, pieces in rows:
            stored = json.loads(pieces)
            for session_id, seq, text, part in stored:
                session = under_way.get(session_id)
                # Others are merged, or of runs that have ended.
                if session is not None and seq == session.head + 1:
                    self._add(session, _addition(session, seq, text, part), row)
            self._add_row(_Row(row, len(stored), len(pieces)))
        self._sessions = {session.session_id: session for session in found}
        self.is_read = True
        self.changes += 1

    def rolled_back(self, changes: int) -> None:
        """What was changed since there were so many changes is undone: the copy is read anew before the next use."""
        if self.changes != changes:
            self.is_read = False

    def find(self, session_id: str) -> Growing | None:
        """The session, where its answer under way has grown."""
        return self._sessions.get(session_id)

    def unmerged(self, session_id: str, epoch: str | None = None) -> Sequence[Addition]:
        """The events of the session, if it is of `epoch`, that are not in `events`."""
        session = self._sessions.get(session_id)
        return () if session is None or epoch not in (None, session.epoch) else session.unmerged

    def growing(self, tx: Statements, session_ids: Sequence[str]) -> Mapping[str, Growing]:
        """By id, sessions that have an answer under way: of these ids all that have one."""
        if missing := [session_id for session_id in session_ids if session_id not in self._sessions]:
            self.changes += 1
            found = self._query(tx.db, "session_id IN (SELECT value FROM json_each(?))", _json(missing))
            self._sessions.update({session.session_id: session for session in found})
        return self._sessions

    def append(self, session: Growing, addition: Addition) -> None:
        """Append the next event to a session that `growing` has returned; `write` comes before the commit."""
        self.changes += 1
        self._add(session, addition, self._next_row)
        self._unwritten.append((session, addition))

    def write(self, tx: Statements) -> None:
        """Write what was appended. Where the table is full, merge some of the sessions that have waited longest."""
        added, self._unwritten = self._unwritten, []
        if not added:
            return
        pieces = _stored(added)
        if self._is_full(len(added), len(pieces)):
            self._merge_oldest(tx.db, len(added), len(pieces))
            pieces = _stored([(session, addition) for session, addition in added if session.unmerged])
        if len(pieces) > len("[]"):
            tx.execute_alone("INSERT INTO recent (id, pieces) VALUES (?, ?)", self._next_row, pieces)
            self._add_row(_Row(self._next_row, len(added), len(pieces)))

    def drop(self, session_id: str) -> None:
        """The answer of the session has ended, or it was erased."""
        if self._sessions.pop(session_id, None) is not None:
            self._order.pop(session_id, None)
            self.changes += 1

    def merge(self, db: sqlite3.Connection) -> None:
        """Merge all sessions and empty the table."""
        if self._rows:
            sessions = list(self._order.values())
            self._order.clear()
            self._trim()
            self._store(db, sessions)

    def _is_full(self, pieces: int, size: int) -> bool:
        return self._pieces + pieces > MAX_PIECES or self._bytes + size > MAX_BYTES

    def _merge_oldest(self, db: sqlite3.Connection, pieces: int, size: int) -> None:
        """Make room for so many more pieces, of this size, and for those of the next commits.

        A few sessions at a time: to merge 10,000 pieces at once would hold up all other text for 0.1 s and more.
        """
        sessions: list[Growing] = []
        left = _MERGED_PIECES + 2 * pieces
        self._trim()
        while self._order and left > 0 and self._is_full(pieces, size):
            _, session = self._order.popitem(last=False)
            sessions.append(session)
            left -= len(session.unmerged)
            self._trim()
        self._store(db, sessions)

    def _trim(self) -> None:
        """Take off the rows of which nothing is needed any more."""
        first = next(iter(self._order.values())).first_row if self._order else self._next_row
        while self._rows and self._rows[0].id < first:
            row = self._rows.popleft()
            self._pieces -= row.pieces
            self._bytes -= row.size

    def _store(self, db: sqlite3.Connection, sessions: Sequence[Growing]) -> None:
        """Write what these sessions have, and delete the rows that were taken off."""
        self.changes += 1
        # Before the insertions, which then need no more room on a full disk.
        db.execute("DELETE FROM recent WHERE id < ?", (self._rows[0].id if self._rows else self._next_row,))
        if sessions:
            db.execute(_MOVE, (_json([(session.id, session.head, session.written) for session in sessions]),))
            db.execute(_INSERT, (_json([_texts(session) for session in sessions]),))
        for session in sessions:
            for event in session.unmerged:
                if isinstance(event, PartAdded):
                    part = encode_part(event.part)
                    db.execute(
                        "UPDATE events SET parts = ? WHERE session = ? AND seq = ?", (part, session.id, event.seq)
                    )
            session.unmerged = []

    def _add(self, session: Growing, addition: Addition, row: int) -> None:
        if not session.unmerged:
            session.first_row = row
            self._order[session.session_id] = session
        session.add(addition)

    def _add_row(self, row: _Row) -> None:
        self._rows.append(row)
        self._next_row = row.id + 1
        self._pieces += row.pieces
        self._bytes += row.size

    def _query(self, db: sqlite3.Connection, where: str, *arguments: str) -> list[Growing]:
        return [Growing(*row) for row in db.execute(f"{_UNDER_WAY} WHERE {where}", arguments)]


def _stored(added: Sequence[tuple[Growing, Addition]]) -> str:
    """Of each the number of the session, the seq, the text, and the part where there is one.

    By a template: to set up an encoder takes longer than all else that is done with a single piece.
    """
    pieces = [
        f"[{session.id},{addition.seq},{encode_basestring(addition.text)},null]"
        if isinstance(addition, TextAdded)
        else _json((session.id, addition.seq, "", encode_part(addition.part)))
        for session, addition in added
    ]
    return f"[{','.join(pieces)}]"


def _addition(session: Growing, seq: int, text: str, part: str | None) -> Addition:
    if part is None:
        return TextAdded(seq, session.run_id, session.message_id, text)
    return PartAdded(seq, session.run_id, session.message_id, decode_part(part))


def _texts(session: Growing) -> tuple[int, int, str, str, list[str]]:
    texts = [addition.text if isinstance(addition, TextAdded) else "" for addition in session.unmerged]
    return session.id, session.unmerged[0].seq, session.run_id, session.message_id, texts


def _json(value: object) -> str:
    # Not escaped: text that is not valid Unicode is refused here, as sqlite3 refuses it.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
