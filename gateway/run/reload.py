"""`--reload`: which of the sources that the backend runs on changed."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

from moorline.gateway.common.sources import changed_sources

__all__ = ["changes"]

log = logging.getLogger("moorline.serve")

# In a clone both packages are links, and events name the files themselves.
_PACKAGES = {name: (Path(__file__).parents[2] / name).resolve() for name in ("backend", "gateway")}
# What the backend runs on: its own package and what it shares with the gateway.
_SOURCES = (_PACKAGES["backend"], _PACKAGES["gateway"] / "common")


async def changes(*, own_sources: bool = False) -> AsyncIterator[Path]:
    """One path for each burst of changes. `own_sources`: also of the user's modules, in the current folder."""
    folders = (*_SOURCES, Path.cwd()) if own_sources else _SOURCES
    async for paths in changed_sources(log, *folders):
        yield min(map(_shown, paths))


def _shown(path: Path) -> Path:
    """`backend/app.py`"""
    for name, package in _PACKAGES.items():
        if path.is_relative_to(package):
            return name / path.relative_to(package)
    return path.relative_to(Path.cwd())
