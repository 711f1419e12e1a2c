"""What happened to the sockets of a test: the gateway's own lines about them, and the faults that they met."""

import contextlib
import logging
import time
from collections.abc import Iterator

from moorline.gateway.common.config.units import counted

__all__ = ["Story"]

# A test that opens thousands of sockets is told by its first and last lines.
_MAX_LINES = 200
_LOGGER = "moorline"


class Story(logging.Handler):
    """Records lines, with the seconds since it began."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._began = time.monotonic()
        self._lines: list[str] = []
        self._left_out = 0

    def note(self, text: str) -> None:
        """One more line."""
        self._lines.append(f"{time.monotonic() - self._began:8.3f}  {text}")
        if len(self._lines) > _MAX_LINES:
            del self._lines[_MAX_LINES // 2]
            self._left_out += 1

    def emit(self, record: logging.LogRecord) -> None:
        self.note(record.getMessage())

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def __str__(self) -> str:
        left_out = (f"          ({counted(self._left_out, 'line')} left out here)",) if self._left_out else ()
        half = _MAX_LINES // 2
        return "\n".join((*self._lines[:half], *left_out, *self._lines[half:]))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record what moorline logs at `info` and above."""
        logger = logging.getLogger(_LOGGER)
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(min(level or logging.INFO, logging.INFO))
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)
