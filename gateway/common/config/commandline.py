"""The command line of both parts: arguments, environment and moorline.toml, the help, and errors in one line.

A part's `__main__` declares a `Command`; `read` turns what the user gave into a `Given`, and `Given.load` that into
frozen settings.
"""

import argparse
import dataclasses
import importlib.metadata
import os
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from moorline.gateway.common.config.command import Command
from moorline.gateway.common.config.helptext import command_help
from moorline.gateway.common.config.options import BOOL, PREFIX, Spec, did_you_mean, load, specs, unknown_variables
from moorline.gateway.common.errors import UsageError

__all__ = [
    "SUPERVISOR",
    "USAGE_ERROR",
    "WORKER",
    "Given",
    "guarded",
    "module_command",
    "read",
    "start_block",
    "version",
]

S = TypeVar("S")

FILE = "moorline.toml"
TABLES = ("gateway", "backend", "check")
#: Set for processes that moorline keeps alive: the descriptor of the line to the supervisor.
SUPERVISOR = PREFIX + "SUPERVISOR"
#: Set for workers of the gateway, beside that: which one it is.
WORKER = PREFIX + "WORKER"

#: Exit status for what the user can mend.
USAGE_ERROR = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """What the user gave, from all three sources."""

    flags: Mapping[str, str | list[str]]
    arguments: Sequence[str]
    environ: Mapping[str, str]
    tables: Mapping[str, Mapping[str, object]]

    def load(self, settings: type[S], table: str, *, elsewhere: frozenset[str] = frozenset()) -> S:
        """The settings of one part. What is given for the options `elsewhere` is meant for another."""
        return load(
            settings,
            flags={name: value for name, value in self.flags.items() if name not in elsewhere},
            environ={
                name: value
                for name, value in self.environ.items()
                if name.removeprefix(PREFIX).lower() not in elsewhere
            },
            table={name: value for name, value in self.tables.get(table, {}).items() if name not in elsewhere},
            table_name=table,
        )


def read(
    command: Command,
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    others: Sequence[type[Any]] = (),
    elsewhere: frozenset[str] = frozenset(),
) -> Given:
    """Read `argv`, `environ` and moorline.toml.

    Options of `others`, the settings of the other part, are let through with a warning as flags and without one as
    variables, which parts share; so are the variables of the options `elsewhere`. Prints the help or the version and
    exits where that was asked for.

    Raises:
        UsageError: something that no part knows, or that cannot be read.
    """
    known = command.specs()
    foreign = {name: spec for other in others for name, spec in specs(other).items() if name not in known}
    values = vars(_parse(argv, [*known.values(), *foreign.values()]))
    if values.pop("help", False):
        print(command_help(command), end="")
        raise SystemExit(0)
    if values.pop("version", False):
        print(f"moorline {version()}")
        raise SystemExit(0)
    arguments = values.pop("arguments")
    if len(arguments) > len(command.arguments):
        raise UsageError(f"{arguments[len(command.arguments)]}: {command.name} takes no such argument")
    tables = {} if SUPERVISOR in environ else _read_file(values.pop("config", None))
    for name in [name for name in values if name in foreign]:
        _warn(f"{foreign[name].flag}: an option of the other part, it is ignored here")
        del values[name]
    for warning in unknown_variables(environ, {*known, *foreign, *command.hidden, *elsewhere, "supervisor", "worker"}):
        _warn(warning)
    return Given(flags=values, arguments=arguments, environ=environ, tables=tables)


def guarded(main: Callable[[], int]) -> int:
    """The exit status of `main`; what the user can mend is one line on stderr and status 2, never a traceback."""
    try:
        return main()
    except UsageError as error:
        print(f"moorline: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        # Before the signal handlers stood; afterwards the drain ends with 0.
        return 130
    except BrokenPipeError:
        # Whoever read our lines is gone; the interpreter's own flush at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def version() -> str:
    """The version of the installed distribution."""
    try:
        return importlib.metadata.version("moorline")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def start_block(facts: Mapping[str, str]) -> str:
    """What a program prints once it is up."""
    width = max(map(len, facts))
    return "\n".join(
        [f"moorline {version()}", "", *(f"  {name.ljust(width)}  {fact}" for name, fact in facts.items()), ""]
    )


def module_command(command: str) -> list[str]:
    """Arguments that run a command of moorline with this interpreter.

    `-P` keeps the current folder off the path, where people may have a package that shadows one of ours.
    """
    return [sys.executable, "-P", "-m", "moorline", command]


def _warn(line: str) -> None:
    print(f"moorline: warning: {line}", file=sys.stderr)


# Arguments ------------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line for `main`, where argparse would print its usage and exit."""
        flag, _, reason = message.removeprefix("argument ").partition(": ")
        if reason.startswith("expected"):
            message = f"{flag}: the value is missing"
        elif reason.startswith("ignored explicit argument"):
            name = flag.removeprefix("--no-").removeprefix("--")
            message = f"{flag}: takes no value" + f"; write --{name} or --no-{name}" * flag.startswith("--")
        raise UsageError(message)


def _parse(argv: Sequence[str], known: Sequence[Spec]) -> argparse.Namespace:
    """Texts by option name; options that were not given are absent."""
    parser = _Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-V", "--version", action="store_true")
    parser.add_argument("--config")
    for spec in known:
        if spec.kind is BOOL:
            parser.add_argument(spec.flag, dest=spec.name, action="store_const", const="true")
            parser.add_argument("--no-" + spec.flag[2:], dest=spec.name, action="store_const", const="false")
        else:
            parser.add_argument(spec.flag, dest=spec.name, action="append" if spec.is_list else "store")
    parser.add_argument("arguments", nargs="*", default=[])
    values, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UsageError(f"{flag}: there is no such option{did_you_mean(flag, flags)}")
    return values


# The file -------------------------------------------------------------------------------------------------------------


def _read_file(config: str | None) -> dict[str, Mapping[str, object]]:
    path = Path(config or FILE)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if config is None:
            return {}
        raise UsageError(f'--config: there is no file "{config}"') from None
    except OSError as error:
        source = "moorline.toml" if config is None else f'--config: "{config}"'
        raise UsageError(f"{source} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}; see https://toml.io for how it is written") from None
    for name, table in document.items():
        if name not in TABLES:
            raise UsageError(
                f"{path}: {name}: there are the tables [gateway], [backend] and [check]{did_you_mean(name, TABLES)}"
            )
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} is a table; write [{name}] and its options below")
    return document
