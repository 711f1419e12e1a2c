"""The front end: static assets of a folder, and the built-in page in `frontend/`."""
