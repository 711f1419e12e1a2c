"""Errors for the person at the command line."""

__all__ = ["UnsupportedLibrary", "UsageError", "missing_extra"]


class UsageError(Exception):
    """The program cannot start or go on as it was asked to: one line on stderr, exit status 2, no traceback.

    The message names the key, the value and what to do, as in
    ``proxy_read_timeout: "1x" is not a duration; write 90s, 1m30s or 1.5h``.
    """


class UnsupportedLibrary(UsageError, ImportError):
    """A library is installed in a version that moorline cannot run with. It is raised while modules are imported."""


def missing_extra(name: str) -> str:
    """What is missing where the libraries of this extra are, and what to do, as README.md has it.

    By its name alone moorline cannot be installed: no index has it.
    """
    return (
        f'the extra "{name}" is missing; in the clone write uv run --extra {name} moorline, '
        f'elsewhere uv pip install "../moorline[{name}]"'
    )
