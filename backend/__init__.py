"""moorline's chat backend: an event log per session, and the sockets and runs that read and write it."""
