"""How often something was refused, and why, for a line of the log a minute and reason: any client can have it refused.
Pure.
"""

import collections
import math

__all__ = ["Refusals"]

#: Between two lines about one reason.
_BETWEEN_SECONDS = 60.0


class Refusals:
    """The reasons are few and the program's own, so that nothing grows with what clients send."""

    def __init__(self) -> None:
        self._told_at: dict[str, float] = {}
        self._untold = collections.Counter[str]()

    def add(self, reason: str, now: float) -> int | None:
        """Note one more; how many there were since the last line about it, where it is time for the next."""
        self._untold[reason] += 1
        if now - self._told_at.get(reason, -math.inf) < _BETWEEN_SECONDS:
            return None
        self._told_at[reason] = now
        return self._untold.pop(reason)
