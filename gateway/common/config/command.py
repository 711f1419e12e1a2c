"""A command of `moorline`: its name, its options, and what its help says of it. Pure."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from moorline.gateway.common.config.options import Spec, specs

__all__ = ["Command"]


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One command, as its help shows it. `options` are settings classes by heading; the first of a name is shown."""

    name: str
    summary: str
    options: Mapping[str, type[Any]]
    arguments: Sequence[tuple[str, str]] = ()
    """Positional arguments in order, each with its meaning; all may be left out."""
    hidden: frozenset[str] = frozenset()
    """Options that have no meaning for this command."""
    examples: Sequence[tuple[str, str]] = ()

    def specs(self) -> dict[str, Spec]:
        """The options of this command by name."""
        found: dict[str, Spec] = {}
        for settings in self.options.values():
            for name, spec in specs(settings).items():
                if name not in self.hidden:
                    found.setdefault(name, spec)
        return found
