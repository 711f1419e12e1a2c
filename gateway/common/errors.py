"""Errors for the person at the command line."""

__all__ = ["UnsupportedLibrary", "UsageError"]


class UsageError(Exception):
    """The program cannot start or go on as it was asked to: one line on stderr, exit status 2, no traceback.

    The message names the key, the value and what to do, as in
    ``proxy_read_timeout: "1x" is not a duration; write 90s, 1m30s or 1.5h``.
    """


class UnsupportedLibrary(UsageError, ImportError):
    """A library is installed in a version that moorline cannot run with. It is raised while modules are imported."""
