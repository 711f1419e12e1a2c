"""Changes of Python's source files, for `--reload`."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

__all__ = ["changed_sources"]

_RETRY_SECONDS = 10.0


async def changed_sources(log: logging.Logger, *folders: Path) -> AsyncIterator[list[Path]]:
    """The files of each burst of changes. Where these folders cannot be watched, as the system's limit of watches is
    reached, one line says so, and it is tried again and again: what runs goes on.
    """
    # Under `--reload` alone.
    from watchfiles import PythonFilter, awatch

    is_logged = False
    while True:
        try:
            async for burst in awatch(*folders, watch_filter=PythonFilter()):
                is_logged = False
                yield [Path(path) for _, path in burst]
            return
        # The second is that of watchfiles for errors of the system's that it has no other for.
        except (OSError, RuntimeError) as error:
            if not is_logged:
                log.error("changes of the sources are not seen: %s; trying again every %gs", error, _RETRY_SECONDS)
            is_logged = True
        await asyncio.sleep(_RETRY_SECONDS)
