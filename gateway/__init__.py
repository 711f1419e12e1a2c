"""moorline's gateway: one port for the front end, `/ws` and `/api`."""
