"""A folder for Unix sockets: the path of one has at most 107 bytes, on macOS 103."""

import tempfile

__all__ = ["socket_folder"]

# Leaves room for the folder's own name and that of PostgreSQL's socket.
_LONGEST = 60


def socket_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """In /tmp where TMPDIR is long."""
    short = None if len(tempfile.gettempdir()) < _LONGEST else "/tmp"
    return tempfile.TemporaryDirectory(prefix=prefix, dir=short, ignore_cleanup_errors=True)
