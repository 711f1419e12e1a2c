"""Whether a series of measurements grows, or only varies. Pure."""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Growth", "growth"]

# Student's t for one side in a hundred, by degrees of freedom; beyond them 2.6 is enough.
_T = {1: 31.8, 2: 6.97, 3: 4.54, 4: 3.75, 5: 3.37, 6: 3.14, 7: 3.0, 8: 2.9, 9: 2.82, 10: 2.76}
_T_BEYOND = 2.6


class Growth(NamedTuple):
    """Of a line fitted to the series, from its first value to its last."""

    by: float
    noise: float
    """By so much the line of a series that does not grow may rise, except one in a hundred times."""

    def exceeds(self, allowance: float) -> bool:
        """Whether it grows, and by more than is of interest."""
        return self.by > self.noise and self.by > allowance


def growth(values: Sequence[float]) -> Growth:
    """Fit a line to at least three values that were measured at equal distances."""
    count = len(values)
    middle, mean = (count - 1) / 2, sum(values) / count
    squares = sum((place - middle) ** 2 for place in range(count))
    slope = sum((place - middle) * (value - mean) for place, value in enumerate(values)) / squares
    left = sum((value - mean - slope * (place - middle)) ** 2 for place, value in enumerate(values))
    error = math.sqrt(left / (count - 2) / squares)
    return Growth(slope * (count - 1), _T.get(count - 2, _T_BEYOND) * error * (count - 1))
