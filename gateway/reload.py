"""`--reload`: which of the backend's sources changed."""

from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import PythonFilter, awatch

__all__ = ["changes"]

_ROOT = Path(__file__).parents[1]
# What the backend runs on: its own package and the ground it shares with the gateway.
_SOURCES = (_ROOT / "backend", _ROOT / "gateway" / "common")


async def changes() -> AsyncIterator[Path]:
    """One path for each burst of changes."""
    async for burst in awatch(*_SOURCES, watch_filter=PythonFilter()):
        yield min(Path(path).relative_to(_ROOT) for _, path in burst)
