"""Modules of the user's, imported from the current folder."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["own_folder"]


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what a test imports from it is forgotten again."""
    modules, path = dict(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.path[:] = path
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]
