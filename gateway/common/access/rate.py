"""How often something may happen in a minute, for each name. Pure.

As nginx's limit_req with a burst: as many at once as a minute holds, then one for each part of a minute that passes
(the generic cell rate algorithm, ITU-T I.371). A name for which nothing has happened for a minute takes no memory.
"""

__all__ = ["Rate"]

_MINUTE = 60.0
# The sum of 3,000 intervals is not exact: a minute would hold one less, or none where it holds one.
_ROUNDING = 1e-4
# Names are looked through for those that can be forgotten when there are twice as many as were left the last time.
_FEW_NAMES = 1024


class Rate:
    """At most `per_minute` for each name, see above."""

    def __init__(self, per_minute: int) -> None:
        self._interval = _MINUTE / per_minute
        # When a name has all of its minute again.
        self._full_at: dict[str, float] = {}
        self._look_at = _FEW_NAMES

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, name: str, now: float) -> float:
        """Seconds until there is room for one more; 0: there is."""
        wait = self._full_at.get(name, now) - now + self._interval - _MINUTE
        return wait if wait > _ROUNDING else 0.0

    def add(self, name: str, now: float) -> None:
        """Count one, also where there is no room for it."""
        self._full_at[name] = max(self._full_at.get(name, now), now) + self._interval
        if len(self._full_at) >= self._look_at:
            self._full_at = {each: full_at for each, full_at in self._full_at.items() if full_at > now}
            self._look_at = max(_FEW_NAMES, 2 * len(self._full_at))

    def give_back(self, name: str) -> None:
        """Count one less."""
        if name in self._full_at:
            self._full_at[name] -= self._interval
