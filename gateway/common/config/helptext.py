"""The help of a command, laid out from its options."""

import shutil
import textwrap

from moorline.gateway.common.config.command import Command
from moorline.gateway.common.config.options import BOOL, Spec

__all__ = ["command_help"]

_INDENT = 2
_MEANING_COLUMN = 30
_WIDEST = 100
# The part's own business first; what it shares with the other part last.
_LAST = ("Access control", "Running")

_EPILOGUE = """\
Values
  TIME    30s, 1m30s, 2.5h, 250ms; a bare number is seconds
  SIZE    64KiB, 16MiB; a bare number is bytes
  A list is given by repeating the option, or comma-separated in its variable.

Where options come from, the first one wins
  1. the command line             --proxy-read-timeout 1h
  2. the environment              MOORLINE_PROXY_READ_TIMEOUT=1h
  3. moorline.toml, in the current folder or named by --config
                                  [gateway]
                                  proxy_read_timeout = "1h"
"""
_MODEL = """\
  The model's key is OPENAI_API_KEY, or in the file that OPENAI_API_KEY_FILE names; OPENAI_BASE_URL is another server
  than OpenAI's. Without a key a scripted offline answer is given.
"""


def command_help(command: Command) -> str:
    """What `moorline COMMAND --help` prints."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    places = "".join(f" [{name}]" for name, _ in command.arguments)
    known = command.specs()
    parts = [f"Usage: moorline {command.name}{places} [OPTIONS]", "", *textwrap.wrap(command.summary, width), ""]
    if command.arguments:
        parts += ["Arguments", *(_row(name, meaning, width) for name, meaning in command.arguments), ""]
    if command.examples:
        parts += ["Examples", *(f"  {example}\n      {meaning}" for example, meaning in command.examples), ""]
    for heading, group in _grouped(known).items():
        parts += [heading, *(_option_row(spec, width) for spec in group), ""]
    parts += [
        "Other options",
        _row("--config FILE", "read options from FILE instead of ./moorline.toml", width),
        _row("-h, --help", "show this help", width),
        _row("-V, --version", "show the version", width),
        "",
    ]
    model = _MODEL if "model" in known else ""
    return "\n".join(parts) + "\n" + _EPILOGUE + model


def _grouped(known: dict[str, Spec]) -> dict[str, list[Spec]]:
    groups: dict[str, list[Spec]] = {}
    for spec in known.values():
        groups.setdefault(spec.group or "Options", []).append(spec)
    return dict(sorted(groups.items(), key=lambda item: _LAST.index(item[0]) + 1 if item[0] in _LAST else 0))


def _option_row(spec: Spec, width: int) -> str:
    name = f"--[no-]{spec.flag[2:]}" if spec.kind is BOOL else f"{spec.flag} {spec.kind.metavar}"
    default = spec.show(spec.default)
    notes = ["'off' disables"] if spec.can_be_off and default != "off" else []
    notes += ["may be repeated"] if spec.is_list else []
    notes += [f"default: {default}"] if default else []
    return _row(name, f"{spec.meaning} [{'; '.join(notes)}]" if notes else spec.meaning, width)


def _row(name: str, meaning: str, width: int) -> str:
    lines = textwrap.wrap(meaning, max(width - _MEANING_COLUMN, 30))
    beside = _INDENT + len(name) + 2 <= _MEANING_COLUMN
    first = f"{' ' * _INDENT}{name}".ljust(_MEANING_COLUMN) + lines.pop(0) if beside else f"{' ' * _INDENT}{name}"
    return "\n".join([first, *(" " * _MEANING_COLUMN + line for line in lines)])
