"""The options of one command, from its arguments, the environment and moorline.toml.

`read` gives a `Config`: the settings of each of the command's sections, checked and frozen.
"""

import argparse
import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, cast

from moorline import __version__
from moorline.gateway.common.config.command import Command, Section
from moorline.gateway.common.config.dotenv import parse_dotenv
from moorline.gateway.common.config.options import BOOL, Spec, did_you_mean, load, specs, unknown_variables
from moorline.gateway.common.errors import UsageError

__all__ = ["Config", "read"]

S = TypeVar("S")

FILE = "moorline.toml"


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """What one command was started with."""

    arguments: Sequence[str]
    file: Mapping[str, str]
    """The paths of the files that were read, by the keys and values that a person knows them by."""
    environ: Mapping[str, str]
    """The environment, with what `.env` beside moorline.toml adds."""
    _settings: Mapping[type[Any], object]

    def __getitem__(self, settings: type[S]) -> S:
        """The settings of this class."""
        return cast("S", self._settings[settings])


@dataclasses.dataclass(frozen=True, slots=True)
class ParsedArgs:
    """The command line, as text. Options that were not given are absent."""

    flags: Mapping[str, str | list[str]]
    arguments: Sequence[str]
    config: str | None
    help: bool
    version: bool


def read(
    command: Command, argv: Sequence[str], *, environ: Mapping[str, str], tables: Mapping[str, type[Any]]
) -> Config:
    """The settings of `command`. Prints the help or the version and exits where that was asked for.

    `tables` are the sections of all commands: commands may share variables, the file and, with a warning, flags.

    Raises:
        UsageError: an option that no command has, or a value that cannot be read or cannot work.
    """
    known = command.specs()
    everywhere = {name: spec for settings in tables.values() for name, spec in specs(settings).items()}
    args = _parse(argv, (everywhere | known).values())
    if args.help:
        from moorline.gateway.common.config.helptext import command_help

        print(command_help(command), end="")
        raise SystemExit(0)
    if args.version:
        print(f"moorline {__version__}")
        raise SystemExit(0)
    if len(args.arguments) > len(command.arguments):
        raise UsageError(f"{args.arguments[len(command.arguments)]}: {command.name} takes no such argument")
    document = _read_file(args.config, tables)
    files = _file_read(args.config)
    environ = {**_read_dotenv(files), **environ}
    for section in command.sections:
        _refuse_misplaced(section.table, document, tables)
    loaded = {section.settings: _load(section, args, environ, document) for section in command.sections}
    warnings = [
        *(
            f"{everywhere[name].flag}: an option of moorline {_table_of(name, tables)}, it is ignored here"
            for name in args.flags
            if name not in known
        ),
        *_unused(command, args, document, loaded),
        *unknown_variables(environ, everywhere),
        *_exposed(args, known),
    ]
    for warning in warnings:
        print(f"moorline: warning: {warning}", file=sys.stderr)
    return Config(args.arguments, files, environ, loaded)


def _load(
    section: Section, args: ParsedArgs, environ: Mapping[str, str], document: Mapping[str, Mapping[str, object]]
) -> object:
    fallback = document.get(section.fallback, {})
    inherited = {name: value for name, value in fallback.items() if name in section.fallback_names}
    return load(
        section.settings,
        flags=args.flags,
        environ=environ,
        table=inherited | dict(document.get(section.table, {})),
        table_name=section.table,
        ignored=section.ignored,
    )


def _unused(
    command: Command,
    args: ParsedArgs,
    document: Mapping[str, Mapping[str, object]],
    loaded: Mapping[type[Any], object],
) -> Iterator[str]:
    """One warning for each key of the file that counts for nothing. Variables do not: programs that `serve` starts may
    read them.

    Raises:
        UsageError: a flag counts for nothing.
    """
    refused = {name: each.reason for name, each in command.refused.items() if not _is_given(each.unless, loaded)}
    for section in command.sections:
        unused = {**refused, **section.unused}
        if _is_given(section.replaced_by, loaded):
            reason = f"it is of moorline's own {section.table}, which {section.replaced_by} replaces"
            unused = dict.fromkeys(specs(section.settings), reason)
            refused |= {name: reason for name in unused if _is_of(section, name, command)}
        for name in document.get(section.table, {}):
            if name in unused:
                yield f"[{section.table}] {name}: {command.name} does not use it; {unused[name]}"
    for name in args.flags:
        if name in refused:
            raise UsageError(f"{command.specs()[name].flag}: {refused[name]}")


def _is_given(name: str, loaded: Mapping[type[Any], object]) -> bool:
    return any(getattr(settings, name, None) for settings in loaded.values())


def _is_of(section: Section, name: str, command: Command) -> bool:
    """Whether a flag of this name reaches this section alone."""
    reached = [each for each in command.sections if name in specs(each.settings) and name not in each.ignored]
    return reached == [section]


def _exposed(args: ParsedArgs, known: Mapping[str, Spec]) -> list[str]:
    """One warning for each secret that stands in an argument."""
    return [
        f"{spec.flag}: every user of this machine can read it in the list of processes; "
        f"keep the secret in {spec.kind.secret_place}{spec.variable} or moorline.toml"
        for spec in (known[name] for name in args.flags if name in known)
        if any(map(spec.kind.is_secret, _texts(args.flags[spec.name])))
    ]


def _texts(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


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


def _parse(argv: Sequence[str], known: Iterable[Spec]) -> ParsedArgs:
    # With a width: argparse asks the terminal for it at each option, though this parser prints no help. With a usage:
    # argparse would make one of all options for its messages, which are not shown.
    layout = functools.partial(argparse.HelpFormatter, width=80)
    parser = _Parser(
        usage="moorline [COMMAND] [OPTIONS]",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=layout,
    )
    parser.add_argument("-h", "--help", action="store_true", default=False)
    parser.add_argument("-V", "--version", action="store_true", default=False)
    parser.add_argument("--config", default=None)
    for spec in known:
        if spec.kind is BOOL:
            parser.add_argument(spec.flag, dest=spec.name, action="store_const", const="true")
            parser.add_argument("--no-" + spec.flag[2:], dest=spec.name, action="store_const", const="false")
        else:
            parser.add_argument(spec.flag, dest=spec.name, action="append" if spec.is_list else "store")
    parser.add_argument("arguments", nargs="*", default=[])
    namespace, unknown = parser.parse_known_intermixed_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise UsageError(f"{flag}: there is no such option{did_you_mean(flag, flags)}")
    values = vars(namespace)
    beside = {name: values.pop(name) for name in ("arguments", "config", "help", "version")}
    return ParsedArgs(values, **beside)


# The file -------------------------------------------------------------------------------------------------------------


def _file_read(config: str | None) -> dict[str, str]:
    if config is not None:
        return {f'--config: "{config}"': config}
    return {f'{FILE}: "{FILE}"': FILE} if os.path.exists(FILE) else {}


def _text(path: str) -> str:
    # pathlib is a thirtieth of what a command imports that only reads its options.
    # Some editors begin a file with a byte order mark, which TOML does not know.
    with open(path, encoding="utf-8-sig") as file:
        return file.read()


def _read_dotenv(files: dict[str, str]) -> dict[str, str]:
    """The variables of `.env` beside the file that was read, which is added to `files`; no other folder's counts."""
    for path in [os.path.join(os.path.dirname(file), ".env") for file in files.values()]:
        try:
            text = _text(path)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: it cannot be read ({type(error).__name__})") from None
        files[f'.env: "{path}"'] = path
        try:
            return parse_dotenv(text)
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None
    return {}


def _read_file(config: str | None, tables: Mapping[str, type[Any]]) -> dict[str, Mapping[str, object]]:
    path = config or FILE
    try:
        text = _text(path)
        # Only where there is a file: it takes longer than reading all options.
        import tomllib

        document = tomllib.loads(text)
    except FileNotFoundError:
        if config is None:
            return {}
        raise UsageError(f'--config: there is no file "{config}"') from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: it is not UTF-8; save it in this encoding") from None
    except OSError as error:
        source = "moorline.toml" if config is None else f'--config: "{config}"'
        raise UsageError(f"{source} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}; see https://toml.io for how it is written") from None
    for name, table in document.items():
        if name not in tables and (place := _place_of(name, tables)):
            raise UsageError(f"{path}: {name}: an option stands in a table; write it below [{place}]")
        if name not in tables:
            *others, last = (f"[{each}]" for each in tables)
            known = f"{', '.join(others)} and {last}"
            raise UsageError(f"{path}: {name}: there are the tables {known}{did_you_mean(name, tables)}")
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} is a table; write [{name}] and its options below")
    return document


def _refuse_misplaced(
    table: str, document: Mapping[str, Mapping[str, object]], tables: Mapping[str, type[Any]]
) -> None:
    """What `load` would call unknown, and liken to another option of its table, though a table nearby has it.

    Raises:
        UsageError: a key stands in a table that does not have it, while another one does.
    """
    known = specs(tables[table])
    for key in document.get(table, {}):
        if key not in known and (place := _place_of(key, tables)):
            raise UsageError(f"[{table}] {key}: there is no such option; write it in [{place}]")


def _place_of(key: str, tables: Mapping[str, type[Any]]) -> str | None:
    """The table to write a key in that stands elsewhere; None where none has it."""
    place = _table_of(key, tables)
    # Nothing that serves is meant by an option of `check`: what is `backend` there is `upstream` to the gateway.
    return None if place == "check" else place


def _table_of(key: str, tables: Mapping[str, type[Any]]) -> str | None:
    return next((name for name, settings in tables.items() if key in specs(settings)), None)
