"""How every program of moorline begins and exits."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable

from moorline.gateway.common.errors import UsageError

__all__ = ["USAGE_ERROR", "end_of_terminal", "held_reloads", "hold_reloads", "run_cli"]

#: Exit status for an error that the user can correct.
USAGE_ERROR = 2

_held: list[int] = []


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


def hold_reloads() -> None:
    """Keep SIGHUP and SIGUSR2 for `held_reloads`: they would end a program that starts, and the configuration may have
    been read before it was changed. A terminal that closes ends it all the same.

    Call it before large modules are read. No signal that is ignored is touched, as `nohup` asks for, and none is
    ignored here, which processes that this one starts would inherit.
    """
    terminal_has_closed = end_of_terminal()

    def received(number: int, _: object) -> None:
        if number == signal.SIGHUP and terminal_has_closed():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        _held.append(number)

    for number in (signal.SIGHUP, signal.SIGUSR2):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, received)


def held_reloads() -> list[int]:
    """The signals that have come since, each once; for a program that handles those that come from now on."""
    numbers = sorted(set(_held))
    _held.clear()
    return numbers


def end_of_terminal() -> Callable[[], bool]:
    """What tells whether the terminal has closed that this process has now, where it has one."""
    had_terminal = _has_terminal()
    return lambda: had_terminal and not _has_terminal()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal; one that has hung up cannot be opened any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


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
