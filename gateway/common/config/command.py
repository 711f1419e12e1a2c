"""A command of `moorline`: its name, its options by section, and what its help says. Pure."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from moorline.gateway.common.config.options import Spec, specs

__all__ = ["Command", "Refusal", "Section"]


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """One table of moorline.toml and the settings that a command reads from it."""

    table: str
    settings: type[Any]
    ignored: Collection[str] = ()
    """Options without a meaning for the command, wherever they are given."""
    fallback: str = ""
    """A table whose values count for the options that this one does not give."""
    fallback_names: Collection[str] = ()
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Keys of the table that the command does not use, each with what to do instead."""
    replaced_by: str = ""
    """An option beside which those that this section alone has count for nothing: their flags are errors."""


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Why the flag of an option is an error, and its key counts for nothing, and what to do instead."""

    reason: str
    unless: str
    """An option beside which it has a meaning."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One command, as its help shows it. A flag or a variable reaches every section that has its option."""

    name: str
    summary: str
    sections: Sequence[Section]
    """Of two with an option of one name the first is shown."""
    arguments: Sequence[tuple[str, str]] = ()
    """Positional arguments in order, each with its meaning; all may be left out."""
    refused: Mapping[str, Refusal] = dataclasses.field(default_factory=dict)
    examples: Sequence[tuple[str, str]] = ()

    def specs(self) -> dict[str, Spec]:
        """The options of this command by name."""
        found: dict[str, Spec] = {}
        for section in self.sections:
            for name, spec in specs(section.settings).items():
                if name not in section.ignored:
                    found.setdefault(name, spec)
        return found
