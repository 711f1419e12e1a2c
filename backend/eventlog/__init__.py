"""The event log: one ordered log per session, in SQLite or PostgreSQL."""
