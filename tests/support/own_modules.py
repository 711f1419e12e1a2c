"""Modules of the user's, imported from the current folder."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["own_folder"]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what a test imports from it is forgotten again."""
    path = list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    # No others: a library that was imported meanwhile would be imported again, beside what has it already.
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and any(Path(place).is_relative_to(tmp_path) for place in _places(module)):
            del sys.modules[name]


def _places(module: ModuleType) -> list[str]:
    """Its file, and the folders of a package."""
    # No getattr: some modules import others then.
    return [*filter(None, [vars(module).get("__file__")]), *map(str, vars(module).get("__path__", ()))]
