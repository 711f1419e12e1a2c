"""Databases of any size for a measurement, written by SQL: through the log a million messages would take an hour."""

import sqlite3

import psycopg

from tests.support.eventlogs import NOW

__all__ = ["EVENTS_OF_A_TURN", "PATIENTS_SESSIONS", "fill"]

#: A question, the begin of its answer and the end of it, which is what is left of a turn that has ended.
EVENTS_OF_A_TURN = 3
#: Sessions of one patient.
PATIENTS_SESSIONS = 20
_WORDS = "a few words of a message " * 4

# What differs between the two stores: random ids, and how numbers are counted up.
_SQLITE = {
    "id": "lower(hex(randomblob(16)))",
    "sessions": "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {sessions})",
    "turns": "WITH RECURSIVE n (t) AS (SELECT 0 UNION ALL SELECT t + 1 FROM n WHERE t + 1 < {turns})",
}
_POSTGRES = {
    "id": "md5(random()::text || clock_timestamp()::text)",
    "sessions": "WITH n (i) AS (SELECT generate_series(0, {sessions} - 1))",
    "turns": "WITH n (t) AS (SELECT generate_series(0, {turns} - 1))",
}

# Each turn of a session has the events 3t + 1 (the question), 3t + 2 and 3t + 3 (the answer).
_STATEMENTS = (
    "{with_sessions} INSERT INTO sessions (session_id, patient_id, epoch, head, fence, touched_at, written)"
    " SELECT '{prefix}' || i, 'patient:' || (i / {per_patient}), {id}, 3 * {turns}, {turns}, {now} + i, 0 FROM n",
    "{with_turns} INSERT INTO runs (run_id, session, message_id, user_seq, started_seq, finish)"
    " SELECT {id}, s.id, {id}, 3 * t + 1, 3 * t + 2, 'stop' FROM sessions s, n WHERE s.session_id LIKE '{prefix}%'",
    "INSERT INTO commands (session, client_msg_id, run_id, user_seq)"
    " SELECT r.session, 'm' || r.run_id, r.run_id, r.user_seq FROM runs r JOIN sessions s ON s.id = r.session"
    " WHERE s.session_id LIKE '{prefix}%'",
    "INSERT INTO events (session, seq, kind, run_id, message_id, content, at, client_msg_id)"
    " SELECT r.session, r.user_seq, 1, r.run_id, {id}, '{words}', {now}, 'm' || r.run_id FROM runs r"
    " JOIN sessions s ON s.id = r.session WHERE s.session_id LIKE '{prefix}%'",
    "INSERT INTO events (session, seq, kind, run_id, message_id, content, at)"
    " SELECT r.session, r.started_seq, 2, r.run_id, r.message_id, '', {now} FROM runs r"
    " JOIN sessions s ON s.id = r.session WHERE s.session_id LIKE '{prefix}%'",
    "INSERT INTO events (session, seq, kind, run_id, message_id, content, at, from_seq, finish)"
    " SELECT r.session, r.started_seq + 1, 4, r.run_id, r.message_id, '{words}', {now}, r.started_seq + 1, 'stop'"
    " FROM runs r JOIN sessions s ON s.id = r.session WHERE s.session_id LIKE '{prefix}%'",
)


def fill(database: str, *, prefix: str, sessions: int, turns: int) -> None:
    """Add so many sessions of so many turns, called `prefix` and a number, to a database that no process has open."""
    path = database.removeprefix("sqlite:///")
    if path == database:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("SET search_path = moorline")
            for statement in _statements(_POSTGRES, prefix, sessions, turns):
                connection.execute(statement.encode())
            # As the autovacuum process would have done it by then.
            connection.execute("VACUUM ANALYZE")
        return
    file = sqlite3.connect(path, isolation_level=None)
    try:
        file.execute("PRAGMA synchronous = OFF")
        # In KiB: random ids go to random pages.
        file.execute("PRAGMA cache_size = -1000000")
        file.execute("BEGIN")
        for statement in _statements(_SQLITE, prefix, sessions, turns):
            file.execute(statement)
        file.execute("COMMIT")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        file.close()


def _statements(dialect: dict[str, str], prefix: str, sessions: int, turns: int) -> list[str]:
    values = {
        "prefix": prefix,
        "sessions": sessions,
        "turns": turns,
        "per_patient": PATIENTS_SESSIONS,
        "words": _WORDS,
        "now": NOW,
        "id": dialect["id"],
        "with_sessions": dialect["sessions"].format(sessions=sessions),
        "with_turns": dialect["turns"].format(turns=turns),
    }
    return [statement.format(**values) for statement in _STATEMENTS]
