"""What the parts of `serve` have reported, collected for its start block."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

__all__ = ["Reports"]

# For the first report of each. A command may serve at an address that it neither announces nor was given.
_FIRST_REPORT_SECONDS = 10.0
_FAILED = "it did not start{}; its own lines say why"
_NOT_READY = "not ready yet"


class Reports:
    """Use it in one event loop."""

    def __init__(self, parts: Sequence[str], *, patience: float = _FIRST_REPORT_SECONDS) -> None:
        self._facts: dict[str, Mapping[str, str]] = {part: {part: _NOT_READY} for part in parts}
        self._unreported = set(parts)
        self._patience = patience
        self._queue: asyncio.Queue[tuple[str, Mapping[str, str]]] = asyncio.Queue()

    def ready(self, part: str, facts: Mapping[str, str]) -> None:
        """A part is ready, with what a person wants to know of it."""
        self._queue.put_nowait((part, facts))

    def failed(self, part: str, folder: str = "") -> None:
        """A part has ended at its start. `folder` is where a command of the user's ran, which may be the wrong one."""
        self._queue.put_nowait((part, {part: _FAILED.format(f" in {folder}" * bool(folder))}))

    async def facts(self) -> AsyncIterator[Mapping[str, str]]:
        """The facts of all parts, once each has reported or its time is up; and again when they have changed: the
        page's address is of use while a part that failed is repaired.
        """
        given: Mapping[str, str] | None = None
        until = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                async with asyncio.timeout_at(until if self._unreported else None):
                    part, facts = await self._queue.get()
            except TimeoutError:
                self._unreported.clear()
            else:
                self._unreported.discard(part)
                self._facts[part] = facts
            together = {name: fact for facts in self._facts.values() for name, fact in facts.items()}
            if not self._unreported and together != given:
                yield together
                given = together
