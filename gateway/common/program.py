"""How every program of moorline exits."""

import os
import sys
from collections.abc import Callable

from moorline.gateway.common.errors import UsageError

__all__ = ["USAGE_ERROR", "run_cli"]

#: Exit status for an error that the user can correct.
USAGE_ERROR = 2


def run_cli(main: Callable[[], int]) -> int:
    """The exit status of `main`; a `UsageError` is one line on stderr and status 2, never a traceback."""
    try:
        return main()
    except UsageError as error:
        print(f"moorline: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        # Before the signal handlers were installed; afterwards the drain ends with 0.
        return 130
    except BrokenPipeError:
        # The reader of our lines has ended; the interpreter's own flush at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
