"""The two-sample test of Kolmogorov and Smirnov."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

# Terms of the series beyond these are smaller than the precision of a float.
_TERMS = 100


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the largest distance between the two empirical distributions."""
    first, second = sorted(one), sorted(other)
    return max(
        abs(bisect.bisect_right(first, value) / len(first) - bisect.bisect_right(second, value) / len(second))
        for value in {*first, *second}
    )


def p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the probability of such a distance, or a larger one, if both samples are of one distribution.

    It is the asymptotic one, with the correction of Stephens for small samples. With values that occur several times,
    it is too large rather than too small.
    """
    size = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    scaled = (size + 0.12 + 0.11 / size) * distance(one, other)
    if scaled < 0.2:
        # The series converges slowly there, and its value is 1 to twelve digits.
        return 1.0
    terms = (-((-1.0) ** k) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, _TERMS + 1))
    return min(1.0, max(0.0, 2 * sum(terms)))
