"""One definition of an option: a dataclass field that is a flag, a `MOORLINE_` variable and a key of moorline.toml.

Every source speaks text (TOML values are turned back into text first), so each kind of option has one parser and one
message, whichever way a value came in. Flags beat variables, variables beat the file, the file beats the default. Pure:
the environment, the arguments and the file's table are handed in.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar, cast

from moorline.gateway.common.config.units import format_duration, format_size, parse_duration, parse_size
from moorline.gateway.common.config.urls import shown_value
from moorline.gateway.common.errors import UsageError

__all__ = [
    "BOOL",
    "DURATION",
    "INT",
    "NUMBER",
    "PORT",
    "PREFIX",
    "SECRET",
    "SIZE",
    "TEXT",
    "Kind",
    "Spec",
    "changed",
    "choice",
    "did_you_mean",
    "load",
    "option",
    "read_values",
    "specs",
    "unknown_variables",
]

PREFIX = "MOORLINE_"
S = TypeVar("S")


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """How one kind of option is read from text and shown.

    `parse` raises ValueError with words that follow the quoted value: `is not a duration; write …`.
    """

    metavar: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str] = str
    is_secret: Callable[[str], bool] = lambda text: False
    """Whether this text must not be seen by others, as arguments are in a list of processes."""
    parse_table: Callable[[Mapping[str, object]], Any] | None = None
    """How an item of a list is read that is a table of moorline.toml. `parse` words, after the table's name."""
    secret_place: str = ""
    """Where such a secret can be kept, beside the option's variable and moorline.toml: `~/.pgpass, `."""


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """One option, as the command line, the help and the README's table see it."""

    name: str
    kind: Kind
    meaning: str
    default: Any
    can_be_off: bool
    is_list: bool
    group: str = ""

    @property
    def flag(self) -> str:
        """`--proxy-read-timeout`"""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """`MOORLINE_PROXY_READ_TIMEOUT`"""
        return PREFIX + self.name.upper()

    def show(self, value: Any) -> str:
        """A value in the form in which it can be written: `1d`, `64KiB`, `off`, `a, b`."""
        if value is None:
            return "off" if self.can_be_off else ""
        if self.is_list:
            return ", ".join(self.kind.show(item) for item in value)
        return self.kind.show(value)

    def parse(self, raw: str | Iterable[str], source: str) -> Any:
        """The value of `raw`, one text or, for a list, several; UsageError names `source`."""
        if self.is_list:
            items = raw.split(",") if isinstance(raw, str) else raw
            return tuple(self._parse_one(item.strip(), source) for item in items if item.strip())
        if not isinstance(raw, str):
            raise UsageError(f"{source}: takes one value, not a list")
        return self._parse_one(raw, source)

    def _parse_one(self, text: str, source: str) -> Any:
        if self.can_be_off and text == "off":
            return None
        try:
            return self.kind.parse(text)
        except ValueError as error:
            off = ", or off" if self.can_be_off else ""
            raise UsageError(f'{source}: "{shown_value(text)}" {error}{off}') from None


# Kinds ----------------------------------------------------------------------------------------------------------------


def _parse_int(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError("is not a whole number")
    return int(text)


def _parse_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("is not a port; write a number from 1 to 65535, or 0 for a free one")
    return int(text)


def _parse_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("is not a number") from None


def _parse_bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return text == "true"


def _parse_text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def choice(*words: str) -> Kind:
    """One of `words`."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"is not one of {', '.join(words)}")
        return text

    return Kind("|".join(words), parse)


BOOL = Kind("true|false", _parse_bool, lambda value: "true" if value else "false")
DURATION = Kind("TIME", parse_duration, format_duration)
INT = Kind("N", _parse_int)
NUMBER = Kind("X", _parse_number, lambda value: f"{value:.12g}")
PORT = Kind("PORT", _parse_port)
SECRET = Kind("TEXT", _parse_text, is_secret=bool)
SIZE = Kind("SIZE", parse_size, format_size)
TEXT = Kind("TEXT", _parse_text)


# Declaring ------------------------------------------------------------------------------------------------------------


def option(default: Any, kind: Kind, meaning: str, *, can_be_off: bool = False, group: str = "") -> Any:
    """A dataclass field that is an option. A tuple as default makes it a list; with `can_be_off`, `off` is None.

    `group` is the heading in the help under which this option and those defined after it stand.
    """
    return dataclasses.field(
        default=default, metadata={"kind": kind, "meaning": meaning, "can_be_off": can_be_off, "group": group}
    )


def specs(settings: type[Any]) -> dict[str, Spec]:
    """The options of a settings class by name, in order of definition."""
    found: dict[str, Spec] = {}
    group = ""
    for field in dataclasses.fields(settings):
        if "kind" not in field.metadata:
            continue
        group = field.metadata["group"] or group
        found[field.name] = Spec(
            name=field.name,
            kind=field.metadata["kind"],
            meaning=field.metadata["meaning"],
            default=field.default,
            can_be_off=field.metadata["can_be_off"],
            is_list=isinstance(field.default, tuple),
            group=group,
        )
    return found


def changed(settings: object) -> dict[str, Any]:
    """The fields that are not at their defaults: what the same settings are built from in another process, which may
    run a newer source under `--reload`.
    """
    fields = dataclasses.fields(cast("Any", settings))
    return {each.name: value for each in fields if (value := getattr(settings, each.name)) != each.default}


def read_values(settings: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` as this settings class takes it: text is read as in moorline.toml, and all else is a value already.

    Raises:
        UsageError: there is no such option, or the text is no value of it.
    """
    known = specs(settings)
    fields = {each.name for each in dataclasses.fields(settings)}
    values = dict(given)
    for name, value in given.items():
        if name not in fields:
            raise UsageError(f"{name}: there is no such option{did_you_mean(name, known)}")
        if isinstance(value, str) and name in known and not isinstance(known[name].default, str):
            values[name] = known[name].parse(value, name)
    return values


# Reading --------------------------------------------------------------------------------------------------------------


def load(
    settings: type[S],
    *,
    flags: Mapping[str, str | list[str]],
    environ: Mapping[str, str],
    table: Mapping[str, object],
    table_name: str,
    ignored: Collection[str] = (),
) -> S:
    """Settings from flags, `MOORLINE_` variables and one table of moorline.toml, in this order of precedence.

    `flags` holds only what was given, under the options' names. An unknown key of `table` is a UsageError; unknown
    flags and variables may be another section's. Options that are `ignored` keep their defaults.
    """
    known = specs(settings)
    for key in table:
        if key not in known:
            raise UsageError(f"[{table_name}] {key}: there is no such option{did_you_mean(key, known)}")
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in ignored:
            continue
        if name in flags:
            values[name] = spec.parse(flags[name], spec.flag)
        elif spec.variable in environ:
            values[name] = spec.parse(environ[spec.variable], spec.variable)
        elif name in table:
            values[name] = _from_file(spec, table[name], table_name)
    return settings(**values)


def _from_file(spec: Spec, value: object, table_name: str) -> Any:
    source = f"[{table_name}] {spec.name}"
    if spec.kind.parse_table is not None and isinstance(value, dict):
        place = f"{table_name}.{spec.name}"
        raise UsageError(f"[{place}] is one of several; write [[{place}]], with two brackets on each side")
    if spec.kind.parse_table is None or not isinstance(value, list):
        return spec.parse(_as_text(value, source), source)
    return tuple(
        _from_table(spec.kind.parse_table, item, f"[[{table_name}.{spec.name}]]")
        if isinstance(item, dict)
        else spec.parse([cast("str", _as_text(item, source))], source)[0]
        for item in value
    )


def _from_table(parse: Callable[[Mapping[str, object]], Any], table: Mapping[str, object], source: str) -> Any:
    try:
        return parse(table)
    except ValueError as error:
        raise UsageError(f"{source} {error}") from None


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """One warning for each `MOORLINE_` variable that is none of the `known` options."""
    names = [PREFIX + name.upper() for name in known]
    return [
        f"{name}: there is no such option, it is ignored{did_you_mean(name, names)}"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in names
    ]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing where no known word is near."""
    # Imported by the one line that needs it: it takes as long as this module.
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _as_text(value: object, source: str) -> str | list[str]:
    """A TOML value in the words of a flag."""
    if isinstance(value, list):
        if any(isinstance(item, list) for item in value):
            raise UsageError(f"{source}: a list in a list is not a value")
        return [cast("str", _as_text(item, source)) for item in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    found = "table" if isinstance(value, dict) else type(value).__name__
    raise UsageError(f"{source}: a {found} is not a value; write text, a number, true or false, or a list")
