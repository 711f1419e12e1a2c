"""How every program of moorline begins and exits."""

import contextlib
import os
import sys
from collections.abc import Callable

from moorline.gateway.common.errors import UsageError

__all__ = ["USAGE_ERROR", "run_cli"]

#: Exit status for an error that the user can correct.
USAGE_ERROR = 2


def run_cli(main: Callable[[], int]) -> int:
    """The exit status of `main`; a `UsageError` is one line on stderr and status 2, never a traceback."""
    _open_standard_streams()
    try:
        return main()
    except UsageError as error:
        # A service manager decides by the status, also where the line cannot be written.
        with contextlib.suppress(OSError):
            print(f"moorline: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        # Before the signal handlers were installed; afterwards the drain ends with 0.
        return 130
    except BrokenPipeError:
        # The reader of our lines has ended; the interpreter's own flush at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _open_standard_streams() -> None:
    """Open /dev/null for each that was closed at the start (`2>&-`): its number would be that of the next connection,
    to which libraries and child processes would then write their lines. libuv ends the process where it finds that.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
