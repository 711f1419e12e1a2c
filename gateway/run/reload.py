"""`--reload`: which of the backend's sources changed."""

from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import PythonFilter, awatch

__all__ = ["changes"]

# In a clone both packages are links, and events name the files themselves.
_PACKAGES = {name: (Path(__file__).parents[2] / name).resolve() for name in ("backend", "gateway")}
# What the backend runs on: its own package and the ground it shares with the gateway.
_SOURCES = (_PACKAGES["backend"], _PACKAGES["gateway"] / "common")


async def changes() -> AsyncIterator[Path]:
    """One path for each burst of changes."""
    async for burst in awatch(*_SOURCES, watch_filter=PythonFilter()):
        yield min(_shown(Path(path)) for _, path in burst)


def _shown(path: Path) -> Path:
    """`backend/app.py`"""
    name, package = next(item for item in _PACKAGES.items() if path.is_relative_to(item[1]))
    return name / path.relative_to(package)
